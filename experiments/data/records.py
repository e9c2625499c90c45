"""What stands between a random-access source of records and the pipeline that batches them.

A few records of a large data set may not decode. Dropping them would make batches uneven, and
different with another number of workers or processes. So each index always gives one example: in
training the next record that can be read, in evaluation one of weight 0. Both say which records
they could not read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.errors import UserError

Decode = Callable[[Any], Mapping[str, Any]]
Numbers = Sequence[int] | np.ndarray


class RecordError(UserError, ValueError):
    """A record cannot be read."""


class Source(Protocol):
    """Random access to undecoded records, such as a tfds data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class ReadableRecords:
    """Decoded records; for one that cannot be read, the next one that can.

    Args:
        source: of the records. A record whose checksum is wrong counts as unreadable; a missing
            or truncated file does not, and ends the run.
        decode: makes an example of a record, or raises :class:`RecordError`.
        attempts: records that are tried in a row, in 1..len(self).
        numbers: of the records of ``source`` that these are, in this order; all by default.
    """

    def __init__(
        self,
        source: Source,
        decode: Decode,
        attempts: int = 4,
        numbers: Numbers | None = None,
    ) -> None:
        self._source = source
        self._decode = decode
        self._attempts = attempts
        self._numbers = range(len(source)) if numbers is None else numbers
        if not 1 <= attempts <= len(self):
            raise ValueError(f"attempts must be in 1..{len(self)} (records), got {attempts}")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Gives an example.

        Args:
            index: of the record that is tried first, in 0..len - 1.

        Returns:
            What ``decode`` gives; ``record``, int64, the number in the source of the record that it
            is of; and ``unreadable``, int64 ``[attempts]``, the numbers of those that were tried
            before it, else -1.

        Raises:
            RecordError: none of ``attempts`` records can be read.
        """
        unreadable = np.full(self._attempts, -1, np.int64)
        for attempt in range(self._attempts):
            record = int(self._numbers[(index + attempt) % len(self)])
            try:
                example = _example(self._source, self._decode, record)
            except RecordError as error:
                unreadable[attempt] = record
                last_error = error
            else:
                return {**example, RECORD: np.int64(record), UNREADABLE: unreadable}
        raise RecordError(
            f"expected at least one readable record of {self._attempts} in a row, got none: "
            f"{unreadable.tolist()} of {self._source!r}"
        ) from last_error


class PaddedRecords:
    """Decoded records, each once, padded so that batches are even over processes.

    Args:
        source: of the records. A record whose checksum is wrong counts as unreadable; a missing
            or truncated file does not, and ends the run.
        decode: makes an example of a record, or raises :class:`RecordError`.
        multiple: of which the length is made one, by padding at the end.
        blank: stands for padding and for records that cannot be read; the fields, shapes and
            dtypes that ``decode`` gives.
        numbers: of the records of ``source`` that these are, in this order; all by default.
    """

    def __init__(
        self,
        source: Source,
        decode: Decode,
        multiple: int,
        blank: Mapping[str, Any],
        numbers: Numbers | None = None,
    ) -> None:
        if multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {multiple}")
        self._source = source
        self._decode = decode
        self._multiple = multiple
        self._blank = blank
        self._numbers = range(len(source)) if numbers is None else numbers

    def __len__(self) -> int:
        return -(-len(self._numbers) // self._multiple) * self._multiple

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Gives an example.

        Args:
            index: of the record, in 0..len - 1.

        Returns:
            What ``decode`` gives, or ``blank``; ``weight``, float32, 1 or for ``blank`` 0;
            ``record``, int64, its number in the source, or -1 for padding; and ``unreadable``,
            int64 ``[1]``, the number of a record that cannot be read, else -1.
        """
        unreadable = np.full(1, -1, np.int64)
        if index >= len(self._numbers):
            return self._padding(-1, unreadable)
        record = int(self._numbers[index])
        try:
            example = _example(self._source, self._decode, record)
        except RecordError:
            unreadable[0] = record
            return self._padding(record, unreadable)
        return {
            **example,
            "weight": np.float32(1),
            RECORD: np.int64(record),
            UNREADABLE: unreadable,
        }

    def _padding(self, record: int, unreadable: np.ndarray) -> dict[str, Any]:
        return {
            **self._blank,
            "weight": np.float32(0),
            RECORD: np.int64(record),
            UNREADABLE: unreadable,
        }


def read_record(source: Source, index: int) -> Any:
    """A record as the source has it.

    Raises:
        RecordError: its checksum is wrong.
    """
    try:
        return source[index]
    except RuntimeError as error:
        # array_record has one type of error for all. Only wrong checksums are about single records:
        # a missing file, or one that is cut off and so lacks its postscript, is a whole shard lost.
        if "Corrupted" in str(error) and "Postscript" not in str(error):
            raise RecordError(f"record {index} of {source!r}: {error}") from error
        error.add_note(f"This is record {index} of {source!r}.")
        raise


def _example(source: Source, decode: Decode, index: int) -> Mapping[str, Any]:
    return decode(read_record(source, index))
