"""Builds files of torch.save by hand, and pickles that name any object, without importing it."""

import collections
import dataclasses
import io
import pickle
import zipfile

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "bfloat16": "BFloat16Storage",
}


@dataclasses.dataclass(frozen=True)
class Name:
    """A class, function or constant."""

    module: str
    name: str

    def __call__(self):
        raise NotImplementedError


@dataclasses.dataclass(eq=False)
class Call:
    """The result of a function, with a state that is set afterwards."""

    function: Name
    arguments: tuple
    state: object = None


@dataclasses.dataclass(eq=False)
class Stored:
    """A storage, of which pickles only hold an identifier."""

    key: str
    kind: Name
    data: bytes
    count: int
    view: tuple = ()

    @property
    def identifier(self):
        return ("storage", self.kind, self.key, "cpu", self.count, *self.view)


class Pickler(pickle._Pickler):
    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.stored = {}

    def persistent_id(self, value):
        if isinstance(value, Stored):
            self.stored[value.key] = value
            return value.identifier
        return None

    def reducer_override(self, value):
        if isinstance(value, Call):
            state = () if value.state is None else (value.state,)
            return value.function, value.arguments, *state
        return NotImplemented

    def save_name(self, value):
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {Name: save_name}


def pickled(value, protocol=2):
    """Returns a pickle and the storages that it refers to, by key."""
    file = io.BytesIO()
    pickler = Pickler(file, protocol)
    pickler.dump(value)
    return file.getvalue(), pickler.stored


def stored(array, key="0", **fields):
    storage = Name("torch", STORAGES[array.dtype.name])
    return Stored(key, **{"kind": storage, "data": array.tobytes(), "count": array.size} | fields)


def tensor(storage, shape, strides=None, offset=0):
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    arguments = (storage, offset, shape, strides, False, collections.OrderedDict())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def tensors(arrays):
    """Returns a state_dict of tensors, each with a storage of its own."""
    return collections.OrderedDict(
        (name, tensor(stored(array, str(index)), array.shape))
        for index, (name, array) in enumerate(arrays.items())
    )


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def zip_file(value, protocol=2, **members):
    """Returns what torch.save writes since PyTorch 1.6; ``members`` replace its members."""
    text, storages = pickled(value, protocol)
    data = {f"data/{key}": storage.data for key, storage in storages.items()}
    return zipped(
        {
            f"archive/{name}": content
            for name, content in ({"data.pkl": text} | data | {"version": "3\n"} | members).items()
        }
    )


def legacy_file(value, protocol=2):
    """Returns what torch.save wrote before PyTorch 1.6."""
    text, storages = pickled(value, protocol)
    parts = [pickled(each)[0] for each in (MAGIC_NUMBER, 1001, {"little_endian": True})]
    parts += [text, pickled(sorted(storages))[0]]
    for key in sorted(storages):
        parts += [storages[key].count.to_bytes(8, "little"), storages[key].data]
    return b"".join(parts)


def opcodes(*parts, protocol=2):
    """Returns a pickle made of opcodes."""
    return pickle.PROTO + bytes([protocol]) + b"".join(parts) + pickle.STOP
