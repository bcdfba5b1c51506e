"""Reading calibration data once or several times: split alike each time, and spooled where it can be read once only."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankfold.errors import CalibrationDataError
from rankfold.options import Options
from rankfold.runtime_calib.feed_files import data_files
from rankfold.runtime_calib.feeds import (
    DataLike,
    Parting,
    Source,
    SpoolWriter,
    Unit,
    UnitWriter,
    batched,
    hold_out,
    open_source,
    read_spool,
    sample_count,
)
from rankfold.values import Feed, InputSpec

_BLOCK = 1 << 20
MOST_SAMPLED = 64  # gradients of more samples change little; of half as many DINOv2's error at a third was 2 % more
_AHEAD = 64  # units to see how much of the data is padding: within a tenth, where lengths vary as sentences do


@dataclass
class Reading:
    """Calibration data on its way through the sweeps; what changes is how far it was read.

    Attributes:
        source: The data, opened.
        units: Its units, the first one included.
        again: Opens the data once more; None where it can be read once only.
        held_out: Where the held-out batches go when the data is read first.
        choosing: Where those of them go that something is chosen on; None where all only report.
        sampled: Where some of the calibration samples go as well, evenly drawn where their number is known.
        kept: Where the calibration batches go as well, for further sweeps; None where they are not needed.
        samples: Samples that decide; None until all data was read.
    """

    source: Source
    units: Iterator[Unit]
    again: Callable[[], Iterable[Unit]] | None
    held_out: Path
    kept: Path | None
    choosing: Path | None = None
    samples: int | None = None
    sampled: Path | None = None

    def batches(self, options: Options) -> Iterator[Feed]:
        """Yield the calibration batches, the same ones each time; the first time the split is written."""
        if self.samples is None:
            yield from self._first(options)
        elif self.kept is not None:
            yield from read_spool(self.kept)
        else:
            units = self.again() if self.again else self.units
            yield from batched(
                hold_out(units, share=options.holdout, seed=options.seed, spool=_Nowhere()), options.batch_size
            )

    def counted(self, mask: str) -> float:
        """Return the share of a mask's entries that are not zero, in the next units; none of them is lost."""
        ahead = list(itertools.islice(self.units, _AHEAD))
        self.units = itertools.chain(ahead, self.units)
        return float(np.mean([np.mean(unit.feed[mask] != 0) for unit in ahead])) if ahead else 1.0

    def _expected(self, options: Options) -> float:
        """Return about how many calibration samples there are; none where nobody knows."""
        return (1 - options.holdout) * (self.source.count or 0)

    def _first(self, options: Options) -> Iterator[Feed]:
        samples = 0
        with ExitStack() as stack:
            held_out = stack.enter_context(SpoolWriter(self.held_out, options.batch_size))
            kept = stack.enter_context(SpoolWriter(self.kept, options.batch_size)) if self.kept else _Nowhere()
            some = stack.enter_context(SpoolWriter(self.sampled, options.batch_size)) if self.sampled else _Nowhere()
            every = max(1, int(self._expected(options) / MOST_SAMPLED))
            aside: UnitWriter = held_out
            if self.choosing:
                choosing = stack.enter_context(SpoolWriter(self.choosing, options.batch_size))
                aside = Parting(choosing, held_out, seed=options.seed)

            def seen() -> Iterator[Unit]:
                nonlocal samples
                for unit in hold_out(self.units, share=options.holdout, seed=options.seed, spool=aside):
                    if samples % every == 0 and samples < every * MOST_SAMPLED:
                        some.write(unit)
                    samples += sample_count(unit.feed)
                    kept.write(unit)
                    yield unit

            yield from batched(seen(), options.batch_size)
        self.samples = samples


class _Nowhere:
    def write(self, unit: Unit) -> None:
        """Forget the unit."""


def open_reading(
    data: DataLike,
    specs: tuple[InputSpec, ...],
    held_out: Path,
    choosing: Path | None = None,
    sampled: Path | None = None,
) -> tuple[Unit, Reading]:
    """Return the first unit of the data, and the data from that unit on.

    Raises:
        CalibrationDataError: The data does not fit, or there is none.
    """
    source = open_source(data, specs)
    units = iter(source.units)
    first = next(units, None)
    if first is None:
        raise CalibrationDataError("the data holds no samples; give at least two")
    again = (lambda: open_source(data, specs).units) if readable_again(data) else None
    return first, Reading(source, itertools.chain([first], units), again, held_out, None, choosing, sampled=sampled)


def data_fingerprint(data: DataLike) -> str:
    """Return the sha256 of the files the data lies in; for data made by the caller, the name of its type."""
    if not isinstance(data, str | os.PathLike):
        return type(data).__name__
    digest = hashlib.sha256()
    for path in data_files(Path(data)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def told_by_files(data: DataLike) -> bool:
    """Tell whether the files that data is given as hold all of it; of a script and of data in memory they do not."""
    return isinstance(data, str | os.PathLike) and readable_again(data)


def readable_again(data: DataLike) -> bool:
    """Tell whether data gives the same when it is opened twice; of a script nobody knows."""
    if isinstance(data, str | os.PathLike):
        return Path(data).suffix != ".py"
    return isinstance(data, Sequence | Mapping)
