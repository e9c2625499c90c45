"""Any change of a file gives arrays or an error that names the file, and nothing else."""

import collections
import pickle
import pickletools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from experiments.weights.files import WeightsError
from tests.experiments.weights.pickles import legacy_file, opcodes, tensors, zip_file
from tests.experiments.weights.reading import read

ARRAYS = {
    "conv.weight": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    "bn.running_var": np.ones(2, np.float16),
    "bn.num_batches_tracked": np.array(3),
}
CHECKPOINT = {"epoch": 1, "state_dict": tensors(ARRAYS), "sets": {1, 2.5}}
FILES = {
    "zip": zip_file(CHECKPOINT),
    "zip of protocol 4": zip_file(CHECKPOINT, 4),
    "legacy": legacy_file(CHECKPOINT),
    "numpy of protocol 2": pickle.dumps({"model": ARRAYS, "__author__": "x"}, 2),
    "numpy of protocol 5": pickle.dumps(collections.OrderedDict(ARRAYS), 5),
    "safetensors": save(ARRAYS),
}


def read_or_refuse(content, path):
    message = f"{path} is damaged"
    try:
        arrays = read(content, path)
    except WeightsError as error:
        message = str(error)
        arrays = {}
    assert str(path) in message
    assert all(type(array) is np.ndarray for array in arrays.values())


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "w.pth"


@pytest.mark.parametrize("kind", FILES)
def test_files_are_read_before_they_are_damaged(kind, path):
    assert read(FILES[kind], path).keys() == ARRAYS.keys()


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=100)
@given(data=st.data())
def test_one_changed_byte_gives_arrays_or_an_error(kind, data, path):
    content = bytearray(FILES[kind])
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    read_or_refuse(content, path)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=50)
@given(data=st.data())
def test_truncated_files_give_arrays_or_an_error(kind, data, path):
    content = FILES[kind]
    read_or_refuse(content[: data.draw(st.integers(0, len(content) - 1))], path)


OPCODES = [each.code.encode("latin-1") for each in pickletools.opcodes]
NAMES = [b"torch._utils\n_rebuild_tensor_v2\n", b"numpy\ndtype\n", b"builtins\nbytes\n"]
OPERANDS = [b"\0", b"\1", b"\xff\xff\xff\x7f", *NAMES]


@settings(max_examples=300)
@given(parts=st.lists(st.sampled_from(OPCODES + OPERANDS) | st.binary(max_size=3), max_size=30))
def test_any_opcodes_give_arrays_or_an_error(parts, path):
    read_or_refuse(opcodes(*parts), path)


MEMORY = """
    import resource, struct, sys, time
    from pathlib import Path
    from experiments.weights.files import WeightsError, open_weights

    MIB = 2**20
    KEY = struct.Struct("<cBqc")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MIB,) * 2)
    text = b"X\\xff\\xff\\0\\0" + b"x" * 65531 + "\\U0001F600".encode()
    bombs = {
        "dictionaries": b"}" * 2**22,
        "dictionaries, remembered": b"}\\x94" * 2**21,
        "marks": b"(" * 2**22,
        "bytes": b"C\\0" * 2**21,
        "sets": b"\\x8f" * 2**22,
        "tuples": b")" + b"\\x85" * 2**22,
        "texts of four bytes a character": text * 2**9,
        "keys": b"}(" + b"".join(KEY.pack(b"\\x8a", 8, i << 32, b"N") for i in range(MIB)),
        "a memo": b"Nr\\xff\\xff\\xff\\x7f",
        "a number": b"\\x8b\\xff\\xff\\xff\\x7f",
        "data": b"B\\xff\\xff\\xff\\xff",
        "more data": b"\\x8e\\xff\\xff\\xff\\xff\\xff\\0\\0\\0",
    }
    path = Path(sys.argv[1])
    for name, bomb in bombs.items():
        path.write_bytes(b"\\x80\\4" + bomb + b".")
        del bomb
        begin = time.process_time()
        try:
            with open_weights(path):
                print(name, "was opened")
        except WeightsError:
            pass
        if time.process_time() - begin > 60:
            print(name, "took", time.process_time() - begin, "seconds")
"""


@pytest.mark.slow
def test_small_files_take_little_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "w.pkl")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout, done.stderr[-2000:]) == (0, "", "")
