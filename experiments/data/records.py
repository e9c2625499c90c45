"""Decodes the records of a random-access source, and replaces unreadable records.

A few records of a large dataset may be damaged. Dropping them would make batches uneven, and
dependent on the number of workers or processes. Therefore each index gives exactly one example: in
training the next record that can be read, in evaluation an example of weight 0. Both report which
records they could not read.
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
    """Decoded records for training; an unreadable record is replaced by the next readable one.

    Args:
        source: source of the records. A record with a wrong checksum counts as unreadable; a
            missing or truncated file is an error that ends the run.
        decode: function that makes an example from a record, or raises :class:`RecordError`.
        attempts: number of successive records that are tried, in 1..len(self).
        numbers: numbers of the records of ``source`` to use, in this order; the default is all.
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
        """Returns an example.

        Args:
            index: index of the record that is tried first, in 0..len - 1.

        Returns:
            The result of ``decode``, with ``record``, int64, the number of its record in the
            source; and ``unreadable``, int64 ``[attempts]``, the numbers of the records that were
            tried before it, padded with -1.

        Raises:
            RecordError: none of ``attempts`` successive records can be read.
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
    """Decoded records for evaluation, each once, padded to equal batches on all processes.

    Args:
        source: source of the records. A record with a wrong checksum counts as unreadable; a
            missing or truncated file is an error that ends the run.
        decode: function that makes an example from a record, or raises :class:`RecordError`.
        multiple: number of which the padded length is a multiple.
        blank: example for padding and for unreadable records, with the fields, shapes and dtypes
            of the results of ``decode``.
        numbers: numbers of the records of ``source`` to use, in this order; the default is all.
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
        """Returns an example.

        Args:
            index: index of the record, in 0..len - 1.

        Returns:
            The result of ``decode``, or ``blank``; with ``weight``, float32, 1, or 0 for ``blank``;
            ``record``, int64, the number of the record in the source, or -1 for padding; and
            ``unreadable``, int64 ``[1]``, the number of the record if it cannot be read, else -1.
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
    """Returns a record as the source stores it.

    Raises:
        RecordError: the checksum of the record is wrong.
    """
    try:
        return source[index]
    except RuntimeError as error:
        # array_record raises the same type for all errors. Only wrong checksums concern one record:
        # if a file is missing, or truncated and so without its postscript, a whole shard is lost.
        if "Corrupted" in str(error) and "Postscript" not in str(error):
            raise RecordError(f"record {index} of {source!r}: {error}") from error
        error.add_note(f"This is record {index} of {source!r}.")
        raise


def _example(source: Source, decode: Decode, index: int) -> Mapping[str, Any]:
    return decode(read_record(source, index))
