"""Reads pickles without running them: it builds plain values, and calls no object of Python.

Python's ``pickle.Unpickler`` can be told which classes a pickle may name, but it still sets the
attributes of objects, and a pickle of ten bytes makes it take gigabytes of memory for the list of
objects that the pickle refers to. The reader here interprets each opcode itself.
"""

import dataclasses
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from experiments.weights.binary import Cursor, FormatError, Span

# A tensor with its name takes about 45 opcodes: this suffices for 7,000 parameters and the two
# moments that Adam keeps for each. In Python, an object takes up to 200 bytes.
_MOST_STEPS = 2**20
_MOST_TEXT = 2**24  # bytes of all texts; mmdetection's copy of a config has some 10,000
_LONGEST_TEXT = 2**16  # bytes; longer texts stay in the file: arrays of Python 2 are texts
_LONGEST_INTEGER = 64  # bytes
_LONGEST_NAME = 200  # bytes of the name of a module or of a class in it


class Budget:
    """Limits the time and memory that the pickles of a file take."""

    def __init__(self) -> None:
        self._steps = _MOST_STEPS
        self._text = _MOST_TEXT

    def spend(self, steps: int = 1, text: int = 0) -> None:
        """Counts steps, and bytes of texts.

        Raises:
            FormatError: there were more than the limit.
        """
        self._steps -= steps
        self._text -= text
        if self._steps < 0 or self._text < 0:
            most = f"{_MOST_STEPS:,} steps" if self._steps < 0 else f"{_MOST_TEXT:,} bytes of text"
            raise FormatError(f"is unsafe to read: beside arrays, its pickle has more than {most}")


@dataclasses.dataclass(slots=True)
class Raw:
    """Bytes, or a long text, which stay in the file.

    Args:
        span: where they are in the file.
        utf8: whether they are a text in UTF-8.
    """

    span: Span
    utf8: bool


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Key:
    """A key of a dictionary that is no text; equal only to itself.

    Comparing, hashing or printing objects of a file could take forever.
    """

    value: Any


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """An object that keeps only the name of its type.

    Args:
        name: full name of its type.
    """

    name: str


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class, function or constant that a pickle may name.

    Args:
        name: full name.
        call: function from a tuple of arguments to a result, for classes and functions. It must not
            take longer for larger containers than these are long, nor descend into them.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None


class Buildable(Protocol):
    """An object that a pickle first creates and then completes."""

    def set_state(self, state: Any) -> None:
        """Completes the object; ``state`` is any value of the pickle."""


def type_name(value: Any) -> str:
    """The type of a value of a pickle, for messages."""
    if isinstance(value, Inert | Global):
        return value.name
    return "bytes" if isinstance(value, Raw) else type(value).__name__


def unpickle(
    cursor: Cursor,
    budget: Budget,
    find: Callable[[str, str], Global],
    load_persistent: Callable[[Any], Any],
    buildable: type[Buildable] | tuple[type[Buildable], ...],
) -> Any:
    """Reads one pickle of protocol 2 to 5.

    Args:
        cursor: where the pickle begins; it is left where the pickle ends.
        budget: limits of time and memory.
        find: function from the names of a module and of an object in it to the object; it raises
            :class:`FormatError` for an object that must not be used.
        load_persistent: function from a persistent identifier to an object.
        buildable: types of the objects that can be completed after they were created.

    Returns:
        A value of Python's numbers, lists, tuples, ``str`` and ``dict``, of the classes in this
        module, and of what ``find`` and ``load_persistent`` return. The keys of a ``dict`` are
        ``str`` or :class:`Key`. A short ``bytes`` from Python 2 is a ``str``.

    Raises:
        FormatError: the pickle is damaged, has an opcode that weights do not need, or exceeds the
            limits.
    """
    machine = _Machine(cursor, budget, find, load_persistent, buildable)
    try:
        return machine.run()
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        position = f"{cursor.position:,}"
        raise FormatError(f"is damaged: its pickle is invalid before byte {position}") from error


class _Machine:
    """A stack of values, a list of objects to refer to, and the opcodes that change both."""

    def __init__(
        self,
        cursor: Cursor,
        budget: Budget,
        find: Callable[[str, str], Global],
        load_persistent: Callable[[Any], Any],
        buildable: type[Buildable] | tuple[type[Buildable], ...],
    ):
        self.cursor = cursor
        self.budget = budget
        self.find = find
        self.load_persistent = load_persistent
        self.buildable = buildable
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        read, spend = self.cursor.read, self.budget.spend
        while (opcode := read(1)) != pickle.STOP:
            spend()
            operation = _OPERATIONS.get(opcode)
            if operation is None:
                raise FormatError(f"is damaged or unsafe: its pickle has {_opcode_name(opcode)}")
            operation(self)
        return self.stack.pop()

    def number(self, length: int) -> int:
        """Reads a number without sign."""
        return int.from_bytes(self.cursor.read(length), "little")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        """Removes and returns the values above the last mark."""
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def frame(self) -> None:
        if self.number(8) > self.cursor.left:
            raise FormatError("is damaged: a frame of its pickle is longer than the file")

    def integer(self, length: int) -> None:
        if length > _LONGEST_INTEGER:
            raise FormatError(f"is damaged or unsafe: its pickle has a number of {length:,} bytes")
        self.push(int.from_bytes(self.cursor.read(length), "little", signed=True))

    def text(self, length: int, encoding: str) -> None:
        if length > _LONGEST_TEXT:
            self.push(Raw(self.cursor.skip(length), encoding == "utf-8"))
        else:
            self.budget.spend(text=length)
            # Python writes lone surrogates, which are no valid UTF-8.
            self.push(self.cursor.read(length).decode(encoding, "surrogatepass"))

    def data(self, length: int) -> None:
        self.push(Raw(self.cursor.skip(length), False))

    def tuple_of(self, length: int) -> None:
        values = tuple(self.stack.pop() for _ in range(length))
        self.push(values[::-1])

    def append(self, values: Iterable[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Inert:
            raise FormatError(f"is damaged or unsafe: its pickle appends to {type_name(target)}")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if len(values) % 2:
            raise FormatError("is damaged: its pickle has a key without a value")
        if type(target) is dict:
            target.update(pairs(zip(values[::2], values[1::2], strict=True)))
        elif type(target) is not Inert:
            raise FormatError(f"is damaged or unsafe: its pickle sets items of {type_name(target)}")

    def frozen_set(self) -> None:
        self.pop_mark()
        self.push(_SET)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise FormatError("is damaged or unsafe: its pickle names an object by no text")
        self.push(self.find(module, name))

    def global_(self) -> None:
        module, name = (self.cursor.line(_LONGEST_NAME).decode() for _ in range(2))
        self.name(module, name)

    def stack_global(self) -> None:
        name = self.stack.pop()
        self.name(self.stack.pop(), name)

    def call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if type(function) is not Global or function.call is None or type(arguments) is not tuple:
            raise FormatError(f"is damaged or unsafe: its pickle calls {type_name(function)}")
        self.spend_for(arguments, *arguments)
        self.push(function.call(arguments))

    def call_with_keywords(self) -> None:
        if self.stack.pop() != {}:
            raise FormatError("is damaged or unsafe: its pickle calls a function with keywords")
        self.call()

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, self.buildable):
            self.spend_for(state)
            target.set_state(state)
        # PyTorch stores the versions of modules as an attribute of an OrderedDict.
        elif type(target) not in (Inert, dict):
            raise FormatError(
                f"is damaged or unsafe: its pickle sets attributes of {type_name(target)}"
            )

    def spend_for(self, *arguments: Any) -> None:
        """Counts the elements of arguments, each of which a function may look at."""
        self.budget.spend(sum(len(each) for each in arguments if type(each) in _CONTAINERS))


def pairs(items: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Makes a dictionary whose keys are ``str`` or :class:`Key`."""
    return {key if type(key) is str else Key(key): value for key, value in items}


def _opcode_name(opcode: bytes) -> str:
    names = [each.name for each in pickletools.opcodes if each.code.encode("latin-1") == opcode]
    return f"the opcode {names[0]}" if names else f"no opcode, but the byte {opcode!r}"


_CONTAINERS = (list, tuple, dict)
_SET = Inert("set")
_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m.number(1),
    pickle.FRAME: _Machine.frame,
    pickle.MARK: _Machine.mark,
    pickle.POP: lambda m: m.stack.pop() if m.stack else m.pop_mark(),
    pickle.POP_MARK: _Machine.pop_mark,
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.integer(4),
    pickle.BININT1: lambda m: m.push(m.number(1)),
    pickle.BININT2: lambda m: m.push(m.number(2)),
    pickle.LONG1: lambda m: m.integer(m.number(1)),
    pickle.LONG4: lambda m: m.integer(m.number(4)),
    pickle.BINFLOAT: lambda m: m.push(*struct.unpack(">d", m.cursor.read(8))),
    pickle.SHORT_BINSTRING: lambda m: m.text(m.number(1), "latin-1"),
    pickle.BINSTRING: lambda m: m.text(m.number(4), "latin-1"),
    pickle.SHORT_BINUNICODE: lambda m: m.text(m.number(1), "utf-8"),
    pickle.BINUNICODE: lambda m: m.text(m.number(4), "utf-8"),
    pickle.BINUNICODE8: lambda m: m.text(m.number(8), "utf-8"),
    pickle.SHORT_BINBYTES: lambda m: m.data(m.number(1)),
    pickle.BINBYTES: lambda m: m.data(m.number(4)),
    pickle.BINBYTES8: lambda m: m.data(m.number(8)),
    pickle.BYTEARRAY8: lambda m: m.data(m.number(8)),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.EMPTY_SET: lambda m: m.push(_SET),
    pickle.ADDITEMS: lambda m: m.append(m.pop_mark()),
    pickle.FROZENSET: _Machine.frozen_set,
    pickle.BINGET: lambda m: m.push(m.memo[m.number(1)]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number(4)]),
    pickle.BINPUT: lambda m: m.remember(m.number(1)),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number(4)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.GLOBAL: _Machine.global_,
    pickle.STACK_GLOBAL: _Machine.stack_global,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.NEWOBJ_EX: _Machine.call_with_keywords,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: lambda m: m.push(m.load_persistent(m.stack.pop())),
}
