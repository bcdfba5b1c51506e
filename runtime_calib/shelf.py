"""Units of data on disk, to be read again and again in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import OutputError
from rankfold.runtime_calib.units import Unit, join, sample_count
from rankfold.values import Feed

Array = NDArray[np.generic]


@dataclass(frozen=True)
class _Place:
    """Where an array lies in the file."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class _Entry:
    """One unit."""

    places: dict[str, _Place]
    joins: frozenset[str]
    labels: Array | None


class Shelf:
    """A file of units; memory holds where they lie.

    Units are written inside a `with` block. Reading maps the file, so that what is read again comes from the system's
    cache where there is room, and from disk where there is not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[_Entry] = []
        self._last: dict[str, tuple[Array, _Place]] = {}
        self._mapped: Array | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._last.clear()
        try:
            self._file.close()
        except OSError as failure:
            if error is None:
                raise self._full(failure) from failure

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def labelled(self) -> bool:
        """Return whether there are units, and all have labels."""
        return bool(self._entries) and all(entry.labels is not None for entry in self._entries)

    @property
    def labels(self) -> Array | None:
        """Return the labels of all units, None where some have none."""
        found = [entry.labels for entry in self._entries if entry.labels is not None]
        return np.concatenate(found) if self.labelled else None

    def digest(self) -> str:
        """Return the sha256 of all units and their labels, in their order."""
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256")
        for entry in self._entries:
            found.update(f"{entry.places} {None if entry.labels is None else entry.labels.tolist()}".encode())
        return found.hexdigest()

    @property
    def samples(self) -> int:
        """Return the samples of all units."""
        return sum(
            next((place.shape[0] for place in entry.places.values() if place.shape), 1) for entry in self._entries
        )

    def write(self, unit: Unit) -> None:
        """Add a unit.

        Raises:
            OutputError: The disk is full or gone.
        """
        places = {name: self._put(name, array, keep=name not in unit.joins) for name, array in unit.feed.items()}
        labels = None if unit.labels is None else unit.labels.copy()
        self._entries.append(_Entry(places, unit.joins, labels))

    def unit(self, number: int) -> Unit:
        """Return a unit; its arrays are views into the file."""
        if self._mapped is None:
            empty = not self.path.stat().st_size
            self._mapped = np.zeros(0, np.uint8) if empty else np.memmap(self.path, np.uint8, "r")
        entry = self._entries[number]
        feed = {name: self._read(self._mapped, place) for name, place in entry.places.items()}
        return Unit(feed, None, entry.joins, entry.labels)

    def batch(self, numbers: Sequence[int]) -> tuple[Feed, Array | None]:
        """Return several units as one batch, and their labels where all have them."""
        units = [self.unit(number) for number in numbers]
        labels = [unit.labels for unit in units if unit.labels is not None]
        return join(units), np.concatenate(labels) if len(labels) == len(units) else None

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> list[list[int]]:
        """Return all units in batches of those that may be joined, in the order given; as many in any order."""
        groups: dict[Hashable, list[int]] = {}
        for number in range(len(self)) if order is None else order:
            groups.setdefault(self._kind(number), []).append(number)
        return [group[at : at + size] for group in groups.values() for at in range(0, len(group), size)]

    def feeds(self, size: int) -> Iterator[Feed]:
        """Yield the units in batches, in the order they were written as far as shapes allow."""
        for numbers in self.batches(size):
            yield self.batch(numbers)[0]

    def _kind(self, number: int) -> Hashable:
        entry = self._entries[number]
        if not entry.joins:
            return number
        return tuple(
            (name, place.shape[1:], place.dtype.str) if name in entry.joins else (name, place.start)
            for name, place in entry.places.items()
        )

    def _put(self, name: str, array: Array, *, keep: bool) -> _Place:
        last = self._last.get(name)
        if keep and last is not None and (last[0] is array or _same(last[0], array)):
            return last[1]
        place = _Place(self._file.tell(), array.shape, array.dtype)
        try:
            self._file.write(np.ascontiguousarray(array).tobytes())
        except OSError as error:
            raise self._full(error) from error
        if keep:
            self._last[name] = (array, place)
        return place

    def _full(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: data cannot be kept there ({error.strerror or error}); make room in that folder, or set"
            " TMPDIR to another"
        )

    @staticmethod
    def _read(mapped: Array, place: _Place) -> Array:
        count = int(np.prod(place.shape, dtype=np.int64))
        if not count:
            return np.zeros(place.shape, place.dtype)
        part = mapped[place.start : place.start + count * place.dtype.itemsize]
        return np.frombuffer(part, place.dtype, count=count).reshape(place.shape)


def _same(first: Array, second: Array) -> bool:
    return first.dtype == second.dtype and np.array_equal(first, second)


def split_samples(outputs: Feed, samples: int) -> list[Unit] | None:
    """Return outputs of a batch as one unit per sample, None where an output has no axis of samples."""
    if any(array.ndim == 0 or array.shape[0] != samples for array in outputs.values()):
        return None
    joins = frozenset(outputs)
    return [Unit({name: array[at : at + 1] for name, array in outputs.items()}, None, joins) for at in range(samples)]


def unit_samples(shelf: Shelf, number: int) -> int:
    """Return the samples of one unit."""
    return sample_count(shelf.unit(number).feed)
