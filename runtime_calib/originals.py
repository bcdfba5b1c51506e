"""What the original makes of samples, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import ModelError
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.shelf import Shelf, split_samples
from rankfold.runtime_calib.trials import Session
from rankfold.runtime_calib.units import Unit, sample_count
from rankfold.values import Feed

_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Wanted:
    """Which tensors of the original are kept, and those of them for which half precision does."""

    tensors: tuple[str, ...]
    narrow: frozenset[str]


@dataclass(frozen=True)
class Originals:
    """The original's tensors of every unit of a shelf.

    Attributes:
        shelf: One unit for each of the other shelf's, in another order.
        places: Number of a unit there to its place here.
        joins: Whether several units make one batch: not where a tensor has no axis of samples.
    """

    shelf: Shelf
    places: dict[int, int]
    joins: bool

    def of(self, numbers: Sequence[int]) -> Feed:
        """Return the tensors of several units as one batch."""
        return self.shelf.batch([self.places[number] for number in numbers])[0]


def keep_originals(
    session: Session, wanted: Wanted, units: Shelf, path: Path, *, batches: Iterable[Sequence[int]]
) -> Originals:
    """Run the original over units, in batches of their numbers, and keep some of its tensors in a file.

    Raises:
        ModelError: A tensor holds NaN or infinity.
        CalibrationDataError: A batch cannot be run.
    """
    places: dict[int, int] = {}
    joins = True
    with Shelf(path) as kept:
        for numbers in batches:
            found = _run(session, wanted, units, numbers)
            split = split_samples(found, sample_count(units.batch(numbers)[0])) if joins else None
            joins = joins and split is not None and len(split) == len(numbers)
            alone = [Unit(_run(session, wanted, units, [number])) for number in numbers] if not joins else split or []
            for number, unit in zip(numbers, alone, strict=True):
                places[number] = len(kept)
                kept.write(unit)
    return Originals(kept, places, joins)


def originals_bytes(session: Session, wanted: Wanted, units: Shelf, numbers: Sequence[int]) -> int:
    """Return about how many bytes the original's tensors of all units take, going by those of one batch.

    Raises:
        ModelError: A tensor holds NaN or infinity.
        CalibrationDataError: The batch cannot be run.
    """
    found = _run(session, wanted, units, numbers)
    samples = sample_count(units.batch(numbers)[0])
    return sum(array.nbytes for array in found.values()) * units.samples // max(1, samples)


def _run(session: Session, wanted: Wanted, units: Shelf, numbers: Sequence[int]) -> Feed:
    found = run_outputs(session, units.batch(numbers)[0], outputs=wanted.tensors)
    return {name: _kept(name, array, name in wanted.narrow) for name, array in found.items()}


def _kept(name: str, array: NDArray[np.generic], narrow: bool) -> NDArray[np.generic]:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ModelError(f"tensor {name!r} of the original is not of finite numbers, and nothing can be healed by it")
    fits = narrow and array.dtype == np.float32 and float(np.abs(array).max(initial=0.0)) < _LARGEST_HALF
    return array.astype(np.float16) if fits else array
