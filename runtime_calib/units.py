"""The pieces calibration data is handed on in: units that cannot be divided, joined into batches."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankfold.values import Feed


@dataclass(frozen=True)
class Unit:
    """The smallest piece of data that is assigned to calibration or to the held-out side.

    One sample (leading axis 1) where the model's axis 0 is dynamic, a whole batch where it is fixed, one whole feed
    where the data has an axis before the model's own.

    Attributes:
        feed: The arrays, those that vary from sample to sample first, constants last.
        group: Units of one group stay on one side; None is a group of its own.
        joins: Inputs that may be joined with those of other units along axis 0; empty for a unit that stays alone.
        labels: Class numbers of its samples, where the data has them.
    """

    feed: Feed
    group: Hashable | None = None
    joins: frozenset[str] = frozenset()
    labels: NDArray[np.generic] | None = None


@dataclass(frozen=True)
class Source:
    """Calibration data, checked against the model while it is read.

    Attributes:
        units: Readable once, in order.
        count: Samples in `units` (as `sample_count` counts them) where known without reading; else None.
        dropped: Samples left out because they do not fill a batch of the model's fixed size.
        unit_size: Samples in one unit, where all units are of one size; else 1.
    """

    units: Iterable[Unit]
    count: int | None = None
    dropped: int = 0
    unit_size: int = 1


def sample_count(feed: Feed) -> int:
    """Return the length of axis 0 of the first array that has one; 1 if all are scalars."""
    return next((array.shape[0] for array in feed.values() if array.ndim), 1)


def can_join(first: Unit, unit: Unit) -> bool:
    """Tell whether two units may share a batch: equal shapes but for axis 0, and equal values of all other inputs."""
    if not first.joins or unit.joins != first.joins or unit.feed.keys() != first.feed.keys():
        return False
    for name, array in unit.feed.items():
        other = first.feed[name]
        if name in first.joins:
            if array.shape[1:] != other.shape[1:]:
                return False
        elif array is not other and not np.array_equal(array, other):
            return False
    return True


def join(units: list[Unit]) -> Feed:
    """Return the units as one batch; a single unit's arrays as they are."""
    first = units[0]
    if len(units) == 1:
        return first.feed
    return {
        name: np.concatenate([unit.feed[name] for unit in units]) if name in first.joins else array
        for name, array in first.feed.items()
    }


def batched(units: Iterable[Unit], batch_size: int) -> Iterator[Feed]:
    """Join neighbouring units, in order, into batches of at most `batch_size` samples.

    A batch ends early where the next unit's shapes differ. Units that may not be joined (a fixed batch, a whole feed)
    pass as they are, whatever their size.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    return _batches(units, batch_size)


def _batches(units: Iterable[Unit], batch_size: int) -> Iterator[Feed]:
    pending: list[Unit] = []
    for unit in units:
        if pending and not can_join(pending[0], unit):
            yield join(pending)
            pending = []
        pending.append(unit)
        if len(pending) == batch_size or not unit.joins:
            yield join(pending)
            pending = []
    if pending:
        yield join(pending)
