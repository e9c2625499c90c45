"""Pickles of NumPy arrays, as detectron2 writes them, from all versions of Python and NumPy."""

import pickle
import sys

import ml_dtypes  # noqa: F401 (registers bfloat16)
import numpy as np
import pytest

from experiments.weights.files import open_weights
from tests.experiments.weights.pickles import Call, Name, opcodes, pickled
from tests.experiments.weights.reading import read, refused

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
    "half": np.ones(2, np.float16),
    "brain": np.ones(2, "bfloat16"),
    "integers": np.arange(-2, 2),
    "bools": np.array([True, False]),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 3)),
    "large": np.full((200, 100), -1.25),  # longer than the texts that are kept in memory
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy._core.", b"numpy.core."])
def test_arrays_are_read(protocol, module, tmp_path):
    content = {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}
    text = pickle.dumps(content, protocol)
    if protocol < 4:  # the length of the name is not in the pickle
        text = text.replace(b"numpy._core.", module)
    arrays = read(text, tmp_path / "w.pkl")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].shape, arrays[name].dtype.name) == (array.shape, array.dtype.name)
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype.isnative
        assert arrays[name].flags.writeable


def test_entries_say_what_they_are(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(ARRAYS))
    with open_weights(tmp_path / "w.pkl") as entries:
        kinds = {
            name: (entry.shape, entry.dtype, entry.is_floating) for name, entry in entries.items()
        }
    assert kinds["conv.weight"] == ((1, 2, 3, 4), "float32", True)
    assert kinds["brain"] == ((2,), "bfloat16", True)
    assert kinds["integers"] == ((4,), "int64", False)


def text_of_python_2(data):
    """A str of Python 2, whose characters are bytes."""
    if len(data) < 256:
        return pickle.SHORT_BINSTRING + bytes([len(data)]) + data
    return pickle.BINSTRING + len(data).to_bytes(4, "little") + data


def array_of_python_2(array):
    text = text_of_python_2
    numbers = b"K\0\x85" + text(b"b") + b"\x87R("
    shape = b"(" + b"".join(b"M" + size.to_bytes(2, "little") for size in array.shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n" + text(b"f4") + b"K\0K\1\x87R(K\3" + text(b"<") + b"NNNJ\xff\xff\xff\xff"
    )
    dtype += b"J\xff\xff\xff\xffK\0tb"
    name = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    return name + numbers + b"K\1" + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"


@pytest.mark.parametrize("size", [3, 30_000])
def test_arrays_of_python_2_are_texts(size, tmp_path):
    array = np.random.default_rng(0).standard_normal((2, size), np.float32)
    text = opcodes(b"}", text_of_python_2(b"fc.weight"), array_of_python_2(array), b"s")
    found = read(text, tmp_path / "w.pkl")
    np.testing.assert_array_equal(found["fc.weight"], array)


def test_objects_and_texts_in_arrays_are_marked(tmp_path):
    path = tmp_path / "w.pkl"
    arrays = {"o": np.array([None]), "u": np.array(["a"]), "v": np.zeros(1, "i4,f4")}
    path.write_bytes(pickle.dumps(arrays))
    with open_weights(path) as entries:
        assert [entry.is_floating for entry in entries.values()] == [False] * 3
        for entry in entries.values():
            with pytest.raises(ValueError, match="no numbers"):
                entry.read()


DTYPE = Call(Name("numpy", "dtype"), ("f4", False, True), (3, "<", None, None, None, -1, -1, 0))
RECONSTRUCT = Name("numpy.core.multiarray", "_reconstruct")
SHAPES = [(2,), (3, 2), (-2, -2), (2**62, 2**62), (0, 2**62), [4], ("4",), (1,) * 65, None]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_that_differ_from_the_data_are_refused(shape, tmp_path):
    state = (1, shape, DTYPE, False, bytes(16))
    array = Call(RECONSTRUCT, (Name("numpy", "ndarray"), (0,), b"b"), state)
    (tmp_path / "w.pkl").write_bytes(pickled({"a": array}, 4)[0])
    assert "damaged" in refused(tmp_path / "w.pkl")


def test_a_number_may_be_in_the_order_of_fortran(tmp_path):
    state = (1, (), DTYPE, True, np.float32(1.5).tobytes())
    array = Call(RECONSTRUCT, (Name("numpy", "ndarray"), (0,), b"b"), state)
    found = read(pickled({"a": array}, 4)[0], tmp_path / "w.pkl")["a"]
    assert (found.shape, float(found)) == ((), 1.5)


def test_a_long_text_that_is_no_data_is_found_when_it_is_read(tmp_path):
    state = (1, (50_000,), DTYPE, False, "\u20ac" * 100_000)
    array = Call(RECONSTRUCT, (Name("numpy", "ndarray"), (0,), b"b"), state)
    with pytest.raises(ValueError, match=r"w\.pkl is damaged"):
        read(pickled({"a": array}, 4)[0], tmp_path / "w.pkl")


@pytest.mark.parametrize(
    "array",
    [
        Call(RECONSTRUCT, (Name("builtins", "list"), (0,), b"b")),
        Call(RECONSTRUCT, ()),
        Call(RECONSTRUCT, (Name("numpy", "ndarray"), (0,), b"b"), 3),
        Call(Name("numpy", "dtype"), ("(1000,1000,1000)f8,f4,f4,f4,f4,f4,f4",)),
        Call(Name("numpy", "dtype"), ("f4",), "<"),
        Call(Name("numpy.core.multiarray", "scalar"), (DTYPE,)),
        Call(Name("numpy.core.multiarray", "scalar"), (DTYPE, b"12345")),
        Call(Name("numpy.core.numeric", "_frombuffer"), (b"1234", DTYPE, (1,))),
        Call(Name("_codecs", "encode"), ("1234", "utf-8")),
        Call(Name("builtins", "bytearray"), (2**40,)),
    ],
    ids=lambda call: f"{call.function.name}, {call.arguments}",
)
def test_arrays_made_in_another_way_are_refused(array, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickled({"a": array}, 4)[0])
    assert "damaged" in refused(tmp_path / "w.pkl")


def test_neither_pytorch_nor_numpys_old_names_are_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "numpy.core", None)
    assert read(pickle.dumps({"a": np.ones(2)}), tmp_path / "w.pkl")["a"].sum() == 2
