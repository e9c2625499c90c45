"""Files of torch.save in both formats, read without PyTorch."""

import argparse
import collections
import zipfile

import ml_dtypes  # noqa: F401 (registers bfloat16)
import numpy as np
import pytest

from experiments.weights.files import open_weights
from tests.experiments.weights.pickles import (
    STORAGES,
    Call,
    Name,
    legacy_file,
    stored,
    tensor,
    tensors,
    zip_file,
)
from tests.experiments.weights.reading import read, refused

ARRAYS = {
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fc.bias": np.array([0.5, -2.0]),
    "scale": np.array(3, np.float16),
    "empty": np.zeros((0, 4), np.float32),
    "count": np.array([2**40], np.int64),
}
FORMATS = pytest.mark.parametrize("write", [zip_file, legacy_file], ids=["zip", "legacy"])


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_read(write, protocol, tmp_path):
    assert_equal(read(write(tensors(ARRAYS), protocol), tmp_path / "w.pth"), ARRAYS)


@FORMATS
@pytest.mark.parametrize("dtype", STORAGES)
def test_dtypes_are_read_and_said_to_be_floating_point_or_not(write, dtype, tmp_path):
    path = tmp_path / "w.pth"
    array = np.array([0, 1, 1]).astype(dtype)
    path.write_bytes(write(tensors({"a": array})))
    with open_weights(path) as entries:
        shape, name, is_floating, _ = entries["a"]
        assert (shape, name, is_floating) == ((3,), f"torch.{dtype}", "float" in dtype)
        assert_equal({"a": entries["a"].read()}, {"a": array})


@FORMATS
def test_tensors_share_a_storage_and_have_strides(write, tmp_path):
    base = np.arange(24, dtype=np.float32)
    storage = stored(base)
    views = {
        "all": tensor(storage, (24,)),
        "transposed": tensor(storage, (6, 4), (1, 6)),
        "part": tensor(storage, (2, 3), (8, 2), 5),
        "last": tensor(storage, (), (), 23),
        "one": tensor(storage, (1, 2), (2**60, 1), 22),  # of one row, the stride is not used
    }
    expected = {
        "all": base,
        "transposed": base.reshape(4, 6).T,
        "part": np.array([[5, 7, 9], [13, 15, 17]], np.float32),
        "last": base[23],
        "one": base[None, 22:],
    }
    arrays = read(write(views), tmp_path / "w.pth")
    assert_equal(arrays, expected)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays.values())
    arrays["all"][:] = 0
    np.testing.assert_array_equal(arrays["part"], expected["part"])


@FORMATS
def test_a_storage_may_be_a_part_of_another(write, tmp_path):
    base = np.arange(6, dtype=np.float32)
    part = stored(base, view=(("1", 2, 3),))
    assert_equal(read(write({"a": tensor(part, (3,))}), tmp_path / "w.pth"), {"a": base[2:5]})


@pytest.mark.parametrize("view", [("1", 4, 3), ("1", -1, 3), ("1", 0, -1), ("1", 0), 3])
def test_a_part_beyond_its_storage_is_refused(view, tmp_path):
    path = tmp_path / "w.pth"
    part = stored(np.arange(6, dtype=np.float32), view=(view,))
    path.write_bytes(zip_file({"a": tensor(part, (2,))}))
    assert "a part of a storage" in refused(path)


def test_a_zip_file_says_in_which_order_its_bytes_are(tmp_path):
    arrays = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()}
    state = tensors(arrays)
    assert_equal(read(zip_file(state, byteorder="big"), tmp_path / "w.pth"), ARRAYS)
    state = tensors(ARRAYS)
    assert_equal(read(zip_file(state, byteorder="little"), tmp_path / "w.pth"), ARRAYS)
    (tmp_path / "w.pth").write_bytes(zip_file(state, byteorder="middle"))
    assert "b'middle'" in refused(tmp_path / "w.pth")


def test_bfloat16_may_have_the_other_byte_order(tmp_path):
    half = np.array([1, -3], "bfloat16")
    swapped = half.view(np.uint16).byteswap().tobytes()
    arguments = (stored(half, data=swapped), 0, (2,), (1,), False, {})
    tensor = Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)
    found = read(zip_file({"a": tensor}, byteorder="big"), tmp_path / "w.pth")
    assert_equal(found, {"a": half})


@FORMATS
def test_new_dtypes_are_bytes_with_a_dtype(write, tmp_path):
    array = np.array([1, 2**16 - 1], np.uint16)
    data = stored(array.view(np.uint8), kind=Name("torch.storage", "UntypedStorage"))
    arguments = (data, 1, (1,), (1,), False, {}, Name("torch", "uint16"))
    tensor = Call(Name("torch._utils", "_rebuild_tensor_v3"), arguments)
    assert_equal(read(write({"a": tensor}), tmp_path / "w.pth"), {"a": array[1:]})


@FORMATS
def test_parameters_and_tensors_with_attributes_are_tensors(write, tmp_path):
    array = np.ones(3, np.float32)
    plain = tensor(stored(array), (3,))
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (plain, True, {}))
    attributes = Call(
        Name("torch._tensor", "_rebuild_from_type_v2"),
        (plain.function, Name("torch", "Tensor"), plain.arguments, {"note": "x"}),
    )
    old = Call(Name("torch._utils", "_rebuild_tensor"), plain.arguments[:4])
    gpu = tensor(stored(array, "1", kind=Name("torch.cuda", "FloatStorage")), (3,))
    state = {"a": plain, "b": parameter, "c": attributes, "d": old, "e": gpu}
    assert_equal(read(write(state), tmp_path / "w.pth"), dict.fromkeys(state, array))


def unusual():
    dense = tensor(stored(np.ones(2, np.float32)), (2,))
    indices = tensor(stored(np.ones(2, np.int64), "1"), (1, 2))
    coo, csr = (
        Call(Name("torch.serialization", "_get_layout"), (f"torch.sparse_{kind}",))
        for kind in ("coo", "csr")
    )
    lazily = (*dense.arguments, {"neg": True})
    quantized = stored(np.ones(2, np.uint8), "2", kind=Name("torch", "QUInt8Storage"))
    qscheme = (Name("torch", "per_tensor_affine"), 0.1, 0)
    function = "torch._utils"
    return {
        "coo": Call(Name(function, "_rebuild_sparse_tensor"), (coo, (indices, dense, (5,)))),
        "csr": Call(
            Name(function, "_rebuild_sparse_tensor"), (csr, (indices, indices, dense, (5,)))
        ),
        "meta": Call(
            Name(function, "_rebuild_meta_tensor_no_storage"),
            (Name("torch", "float32"), (5,), (1,), False),
        ),
        "quantized": Call(
            Name(function, "_rebuild_qtensor"), (quantized, 0, (5,), (1,), qscheme, False, {})
        ),
        "negated": Call(Name(function, "_rebuild_tensor_v2"), (*lazily,)),
    }


@FORMATS
@pytest.mark.parametrize("name", unusual())
def test_tensors_without_plain_values_are_marked(write, name, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(write({"a": unusual()[name]}))
    with open_weights(path) as entries:
        entry = entries["a"]
        assert entry.shape == ((2,) if name == "negated" else (5,))
        assert not entry.is_floating
        with pytest.raises(ValueError, match="NumPy cannot represent"):
            entry.read()


@FORMATS
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "model_ema"])
def test_checkpoints_of_a_training_are_unpacked(write, key, tmp_path):
    namespace = Call(Name("argparse", "Namespace"), (), {"lr": 0.1})
    scalar = (Call(Name("numpy", "dtype"), ("f8", False, True), (3, "<", *[None] * 3, -1, -1, 0)),)
    history = Name("mmengine.logging.history_buffer", "HistoryBuffer")
    getter = Call(Name("__builtin__", "getattr"), (history, "mean"))
    arrays = ARRAYS | {"bn.num_batches_tracked": np.array(1, np.int64)}
    content = {
        "epoch": 3,
        "meta": {"config": "text " * 50_000, "CLASSES": ("cat", "dog"), "note": b"1" * 9, 3: None},
        "args": namespace,
        "device": Call(Name("torch", "device"), ("cpu",)),
        "best": Call(Name("numpy.core.multiarray", "scalar"), (*scalar, b"01234567")),
        "size": Call(Name("torch", "Size"), ((2, 3),)),
        "counts": collections.Counter("aab"),
        "sets": [{1, 2}, frozenset("a"), 1 + 2j, bytearray(b"1"), 2**70, -1.5],
        "history": Call(history, (), {"_statistics_methods": {"mean": getter}}),
        "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"params": [0, 1]}]},
        key: tensors(arrays),
    }
    assert_equal(read(write(content), tmp_path / "w.pth"), arrays)


def test_inert_objects_are_real_ones_in_the_pickles_of_python(tmp_path):
    content = {"args": argparse.Namespace(a=1), "set": {1}, "dict": collections.defaultdict(list)}
    content |= {"state_dict": collections.OrderedDict(), "counts": collections.Counter(a=1)}
    for protocol in (2, 3, 4, 5):
        assert read(zip_file(content, protocol), tmp_path / "w.pth") == {}


def test_an_ordered_dict_of_python_2_is_made_from_its_items(tmp_path):
    items = [[name, value] for name, value in tensors(ARRAYS).items()]
    state = Call(Name("collections", "OrderedDict"), (items,))
    assert_equal(read(legacy_file(state), tmp_path / "w.pth"), ARRAYS)


@FORMATS
@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "got list"),
        ({"epoch": 3}, "'epoch' of type int"),
        ({"model": {"net": {}}}, "'net' of type dict"),
        ({1: 2}, "got 1 of type int"),
        ({"a": {"state_dict": {}}}, "'a' of type dict"),
        ({"args": argparse.Namespace()}, "'args' of type argparse.Namespace"),
        ({"model": {}, "model_ema": {}}, "got 2 under ['model', 'model_ema']"),
    ],
)
def test_files_without_one_state_dict_are_refused(write, content, found, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(write(content))
    assert found in refused(path)


@FORMATS
def test_a_file_that_becomes_shorter_while_it_is_open_is_reported(write, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(write(tensors({"a": np.zeros(10_000, np.float32)})))
    with open_weights(path) as entries:
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"w\.pth became shorter"):
            entries["a"].read()


def test_folders_and_compressed_copies_of_a_zip_file(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(zip_file(tensors(ARRAYS)))
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("archive")
        for name, content in members.items():
            archive.writestr(name, content)
    assert_equal(read(path.read_bytes(), path), ARRAYS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "torch.save does not compress" in refused(path)
