"""Files that try to run code, or to take much memory or time."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from experiments.weights import unpickling
from tests.experiments.weights.pickles import (
    Call,
    Name,
    legacy_file,
    opcodes,
    pickled,
    stored,
    tensor,
    tensors,
    zip_file,
    zipped,
)
from tests.experiments.weights.reading import read, refused

STATE = tensors({"a": np.arange(6, dtype=np.float32)})


def files(value, protocol=2):
    """Returns the files of all kinds that hold a value."""
    yield "zip", zip_file(value, protocol)
    yield "legacy", legacy_file(value, protocol)
    yield "plain", pickled(value, protocol)[0]


class Trap:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.mkdir, (), "posix.mkdir"),
        (exec, ("import os; os.mkdir({!r})",), "builtins.exec"),
        (getattr, (os, "mkdir"), "builtins.getattr"),
    ],
)
def test_functions_are_refused_by_name_and_not_called(
    function, arguments, name, protocol, tmp_path, monkeypatch
):
    target = tmp_path / "made"
    monkeypatch.chdir(tmp_path)
    arguments = [each.format(str(target)) for each in arguments if isinstance(each, str)]
    trap = Trap(function, *(arguments or [str(target)]))
    for kind, content in files({"state_dict": {}, "trap": trap}, protocol):
        (tmp_path / kind).write_bytes(content)
        assert f" holds {name}, which is not safe to unpickle" in refused(tmp_path / kind)
    assert not target.exists()
    if function is os.mkdir:  # without protection, the trap works
        pickle.loads(pickled(trap, protocol)[0])
        assert target.exists()


UNKNOWN = [
    ("torchvision.models.resnet", "ResNet"),
    ("torch", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "fromfile"),
    ("collections", "OrderedDict.fromkeys"),
    ("builtins", "eval"),
    ("builtins", "__import__"),
    ("builtins", "getattr.__call__"),
    ("argparse", "Namespace.__init__"),
    ("os", "system"),
    ("experiments.weights.unpickling", "Inert"),
    ("", ""),
    ("x" * 150, "y" * 150),
    ("\x1b[31m", "name\u202e"),
]


@pytest.mark.parametrize(("module", "name"), UNKNOWN)
def test_other_objects_are_refused_even_if_they_are_not_called(module, name, tmp_path):
    for protocol in (2, 4):
        for kind, content in files({"a": Name(module, name)}, protocol):
            (tmp_path / kind).write_bytes(content)
            message = refused(tmp_path / kind)
            assert "is not safe to unpickle" in message
            assert message.isprintable()
            assert len(message) < 500


TEXT = b"X\1\0\0\0a"
TORCH = b"ctorch._utils\n_rebuild_tensor_v2\n"
NAMESPACE = b"cargparse\nNamespace\n"
TYPE = b"cnumpy\nndarray\n"


@pytest.mark.parametrize(
    ("opcodes_of_pickle", "found"),
    [
        ((pickle.EXT1, b"\1"), "EXT1"),
        ((pickle.EXT4, b"\1\0\0\0"), "EXT4"),
        ((b"(ios\nsystem\n",), "INST"),
        ((b"(", NAMESPACE, b"o"), "OBJ"),
        ((pickle.PERSID, b"0\n"), "PERSID"),
        ((pickle.NEXT_BUFFER,), "NEXT_BUFFER"),
        ((pickle.READONLY_BUFFER,), "READONLY_BUFFER"),
        ((b"I1\n",), "INT"),
        ((b"\0",), "no opcode, but the byte"),
        ((TEXT, b")R"), "calls str"),
        ((b"K\1)R",), "calls int"),
        ((b"N)\x81",), "calls NoneType"),
        ((TYPE, b")R"), "calls numpy.ndarray"),
        ((b"ctorch\nfloat32\n)R",), "calls torch.float32"),
        ((NAMESPACE, b")R)R"), "calls argparse.Namespace"),
        ((NAMESPACE, b"NR"), "calls argparse.Namespace"),
        ((NAMESPACE, b")}", TEXT, b"Ns\x92"), "calls a function with keywords"),
        ((TORCH, b"Nb"), "sets attributes of torch._utils._rebuild_tensor_v2"),
        ((b"]Nb",), "sets attributes of list"),
        ((b"Q",), "invalid"),
        ((b"NQ",), "makes a storage from"),
        ((b"NNa",), "appends to NoneType"),
        ((TORCH, b"(NNu"), "sets items of torch._utils"),
        ((b"}(NNNu",), "a key without a value"),
        ((b"K\1K\1\x93",), "names an object by no text"),
        ((b"h\0",), "invalid"),
        ((b"0",), "invalid"),
        ((b"0" * 9,), "invalid"),
        ((b"t",), "invalid"),
        ((b"X\1\0\0\0\xff",), "invalid"),
        ((b"c\xff\n\xff\n",), "invalid"),
        ((b"c" + b"x" * 300 + b"\nname\n",), "a line in its pickle does not end"),
        ((b"cos",), "a line in its pickle does not end"),
        ((b"\x8b\xff\xff\xff\x7f",), "a number of 2,147,483,647 bytes"),
        ((b"B\xff\xff\xff\xff",), "4,294,967,295 bytes are expected"),
        ((b"\x8e" + b"\xff" * 8,), "18,446,744,073,709,551,615 bytes are expected"),
        ((b"\x8d" + b"\xff" * 8,), "18,446,744,073,709,551,615 bytes are expected"),
        ((b"\x96" + b"\xff" * 8,), "18,446,744,073,709,551,615 bytes are expected"),
        ((b"X\xff\xff\xff\xff",), "4,294,967,295 bytes are expected"),
        ((b"\x95" + b"\xff" * 8,), "a frame of its pickle is longer"),
    ],
    ids=str,
)
def test_opcodes_that_weights_do_not_need_are_refused(opcodes_of_pickle, found, tmp_path):
    text = opcodes(*opcodes_of_pickle)
    (tmp_path / "w.pth").write_bytes(zipped({"m/data.pkl": text}))
    assert found in refused(tmp_path / "w.pth")


def test_every_opcode_is_interpreted_or_refused(tmp_path):
    for opcode in pickletools.opcodes:
        content = opcodes(opcode.code.encode("latin-1"), bytes(16))
        (tmp_path / "w.pkl").write_bytes(content)
        refused(tmp_path / "w.pkl")


def test_rebuilding_does_not_nest(tmp_path):
    name = Name("torch._tensor", "_rebuild_from_type_v2")
    arguments = ()
    for _ in range(100):  # a call in the arguments would be made before its caller
        arguments = (name, Name("torch", "Tensor"), arguments, {})
    (tmp_path / "w.pth").write_bytes(zip_file({"a": Call(name, arguments)}))
    assert "a tensor with attributes" in refused(tmp_path / "w.pth")


BOMBS = {
    "a tuple of two to the 70 elements": b")" + b"2\x86" * 70,
    "such a tuple as a key": b"})" + b"2\x86" * 70 + b"Ns",
    "a list in itself": b"]q\0h\0a",
    "a list in itself, beside tensors": b"}" + TEXT + b"]q\0h\0as",
    "a dictionary in itself": b"}q\0" + TEXT + b"h\0s",
    "a dictionary in itself, as the model": b"}q\0X\5\0\0\0modelh\0s",
    "deep lists": b"]" * 200_000 + b"a" * 199_999,
    "deep tuples": b")" + b"\x85" * 200_000,
    "a memo of 32 bits": b"Nr\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", BOMBS)
def test_containers_that_repeat_or_nest_are_not_followed(name, tmp_path):
    (tmp_path / "w.pkl").write_bytes(opcodes(BOMBS[name]))
    assert "must hold a state_dict" in refused(tmp_path / "w.pkl")


ITEMS = b"](" + b"(NNt" * 1000 + b"eq\0"  # a list of pairs, which the pickle refers to again
# Each with a beginning, and a part that is repeated.
REPEATED = {
    "opcodes": (b"N", b"20" * 100),
    "dictionaries": (b"", b"}0" * 100),
    "marks": (b"", b"(" * 100),
    "texts": (b"", b"X\0\4\0\0" + bytes(1024)),
    # These have few opcodes, and refer to a container of 1,000 elements again and again.
    "ordered dictionaries": (ITEMS, b"ccollections\nOrderedDict\nh\0\x85R0"),
    "counters": (ITEMS, b"ccollections\nCounter\nh\0\x85R0"),
    "long arguments": (b"(" + b"N" * 1000 + b"tq\0", b"cargparse\nNamespace\nh\0R0"),
    "states": (b"(K\3U\1<" + b"N" * 1000 + b"tq\0cnumpy\ndtype\nU\2f4\x85R", b"h\0b"),
}


@pytest.mark.parametrize("name", REPEATED)
def test_steps_and_texts_are_limited(name, tmp_path, monkeypatch):
    monkeypatch.setattr(unpickling, "_MOST_STEPS", 10_000)
    monkeypatch.setattr(unpickling, "_MOST_TEXT", 10_000)
    start, repeated = REPEATED[name]
    for count in (1, 100):
        (tmp_path / "w.pkl").write_bytes(opcodes(start, repeated * count))
        limited = "beside arrays, its pickle has more than 10,000" in refused(tmp_path / "w.pkl")
        assert limited == (count > 1)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((10**9,), (0,), 0),
        ((2, 6), (0, 1), 0),
        ((2, 3), (4, 1), 0),
        ((2,), (-1,), 3),
        ((-1,), (1,), 0),
        ((-2, -3), (3, 1), 0),
        ((6,), (1,), -1),
        ((2,), (2**70,), 0),
        ((2**70,), (1,), 0),
        ((0, 2**62), (1, 1), 0),
        ((6,), (), 0),
        ((6,), (1, 1), 0),
        ((1,) * 65, (1,) * 65, 0),
        ([6], (1,), 0),
        ((6.0,), (1,), 0),
        ((True,), (1,), 0),
        (("6",), (1,), 0),
        ((6,), (None,), 0),
        ((6,), (1,), None),
        (6, 1, 0),
    ],
    ids=str,
)
def test_tensors_beyond_their_storage_are_refused(shape, strides, offset, tmp_path):
    storage = stored(np.arange(6, dtype=np.float32))
    state = {"a": tensor(storage, shape, strides, offset)}
    for kind, content in (("zip", zip_file(state)), ("legacy", legacy_file(state))):
        (tmp_path / kind).write_bytes(content)
        assert "damaged or unsafe" in refused(tmp_path / kind)


def of_one_tensor(count):
    """A state_dict with many names of one tensor, which needs few bytes a name."""
    shared = tensor(stored(np.zeros(10_000, np.float32)), (10_000,))
    return {str(index): shared for index in range(count)}


def of_one_storage(count):
    storage = stored(np.zeros(10_000, np.float32))
    return {str(index): tensor(storage, (100, 100), (1, 100)) for index in range(count)}


def of_one_array(count):
    shared = np.zeros(10_000, np.float32)
    return {str(index): shared for index in range(count)}


@pytest.mark.parametrize(
    ("write", "state"),
    [
        (zip_file, of_one_tensor),
        (legacy_file, of_one_tensor),
        (zip_file, of_one_storage),
        (legacy_file, of_one_storage),
        (pickle.dumps, of_one_array),
    ],
)
def test_arrays_that_share_memory_are_limited_by_the_size_of_the_file(write, state, tmp_path):
    (tmp_path / "bomb").write_bytes(write(state(200)))
    message = "200 arrays share memory, and have 8,000,000 bytes, more than 4 times the"
    assert message in refused(tmp_path / "bomb")
    # Tied weights.
    arrays = read(write(state(4)), tmp_path / "tied")
    assert [array.size for array in arrays.values()] == [10_000] * 4


@pytest.mark.parametrize("count", [-1, 5, 7, 2**62, None])
def test_storages_of_another_length_are_refused(count, tmp_path):
    state = {"a": tensor(stored(np.arange(6, dtype=np.float32), count=count), (1,))}
    (tmp_path / "zip").write_bytes(zip_file(state))
    assert "damaged" in refused(tmp_path / "zip")
    if count is not None and count >= 0:
        (tmp_path / "legacy").write_bytes(legacy_file(state))
        if count > 6:
            assert "bytes are expected" in refused(tmp_path / "legacy")


def test_a_storage_used_with_two_lengths_is_refused(tmp_path):
    array = np.arange(6, dtype=np.float32)
    storages = stored(array), stored(array, kind=Name("torch", "DoubleStorage"))
    state = {str(index): tensor(each, (1,)) for index, each in enumerate(storages)}
    (tmp_path / "w.pth").write_bytes(zip_file(state))
    assert "used as one of 48" in refused(tmp_path / "w.pth")


def legacy(names, *storages, magic=0x1950A86A20F9469CFC6C, version=1001):
    parts = [pickled(each)[0] for each in (magic, version, {})]
    return b"".join([*parts, pickled(STATE)[0], pickled(names)[0], *storages])


STORAGE = (6).to_bytes(8, "little") + bytes(24)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (legacy(["0"], STORAGE, version=1002), "unknown version of torch.save"),
        (legacy([], STORAGE), "lacks 1 of its storages, such as '0'"),
        (legacy(["0", "0"], STORAGE, STORAGE), "not the one that its tensors need"),
        (legacy(["1"], STORAGE), "not the one that its tensors need"),
        (legacy([["0"]], STORAGE), "not the one that its tensors need"),
        (legacy("0", STORAGE), "the names of its storages are str"),
        (legacy(["0"], (2**63).to_bytes(8, "little"), STORAGE), "not the one"),
        (legacy(["0"], STORAGE[:-1]), "24 bytes are expected"),
        (legacy(["0"]), "8 bytes are expected"),
        (legacy(["0"], STORAGE, magic=3), "must hold a state_dict"),
        (pickled(0x1950A86A20F9469CFC6C)[0], "1 bytes are expected"),
        (pickled(STATE)[0], "refers to data that no torch.save wrote"),
    ],
)
def test_legacy_files_with_other_storages_are_refused(content, found, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    assert found in refused(tmp_path / "w.pth")


@pytest.mark.parametrize("write", [zip_file, legacy_file])
def test_long_names_of_arrays_are_refused(write, tmp_path):
    (tmp_path / "w.pth").write_bytes(write(tensors({"a." * 600: np.ones(1, np.float32)})))
    assert "a name of 1,200 characters" in refused(tmp_path / "w.pth")
