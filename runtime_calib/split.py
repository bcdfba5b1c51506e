"""Setting a share of the samples aside while they stream by, spread evenly over the data."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Iterable, Iterator
from fractions import Fraction
from typing import Protocol

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.units import Unit

_FIRST_WINDOW = 2
"""The first window draws among its first two, so that any two units or groups give one on each side."""


REPORTING_SHARE = 0.4
"""Of the held-out samples, where something has to be chosen on some of them; the others only report."""


class UnitWriter(Protocol):
    """Takes the held-out units."""

    def write(self, unit: Unit) -> None:
        """Take one unit."""
        ...


def hold_out(units: Iterable[Unit], *, share: float, seed: int, spool: UnitWriter) -> Iterator[Unit]:
    """Pass the calibration units on and write the held-out ones to the spool.

    Units (where they have groups: newly seen groups) are counted into windows of 1/share; a seeded draw holds one of
    every window out. Of n, floor(n · share) or one more are held out; two or more always leave both sides filled.
    Memory grows with the number of groups only.

    Args:
        units: The data, in order.
        share: Share to hold out, in (0, 1), read as the decimal it is written as.
        seed: The same seed and data give the same split, whatever the batch sizes.
        spool: Open for writing; the caller closes it.

    Raises:
        CalibrationDataError: `share` is out of range; at the end, there were not at least two units or groups.
    """
    if not 0.0 < share < 1.0:
        raise CalibrationDataError(f"the held-out share is {share}; expected more than 0 and less than 1, such as 0.2")
    return _calibration_units(units, _draws(Fraction(repr(float(share))), seed), spool)


class Parting:
    """Takes held-out units and parts them: into those that choose, and those that decide nothing and only report.

    Groups stay together. The first one reports, so that there is always something to report on.
    """

    def __init__(self, choosing: UnitWriter, reporting: UnitWriter, *, seed: int) -> None:
        self._writers = (choosing, reporting)
        self._draws = itertools.chain([True], _draws(Fraction(repr(REPORTING_SHARE)), seed))
        self._sides: dict[Hashable, bool] = {}

    def write(self, unit: Unit) -> None:
        """Hand one unit on."""
        self._writers[_side(unit, self._sides, self._draws)].write(unit)


def _draws(share: Fraction, seed: int) -> Iterator[bool]:
    """Yield for every newly seen unit or group whether it is held out."""
    source = random.Random(seed)
    end = 0
    window = 0
    while True:
        start, window = end, window + 1
        end = math.ceil(window / share)
        width = end - start
        chosen = source.randrange(min(width, _FIRST_WINDOW) if start == 0 else width)
        for position in range(width):
            yield position == chosen


def _calibration_units(units: Iterable[Unit], draws: Iterator[bool], spool: UnitWriter) -> Iterator[Unit]:
    sides: dict[Hashable, bool] = {}
    seen = [0, 0]
    total = 0
    for unit in units:
        held_out = _side(unit, sides, draws)
        seen[held_out] += 1
        total += 1
        if held_out:
            spool.write(unit)
        else:
            yield unit
    if not all(seen):
        kind = "groups" if sides else "samples (batches, where the model's batch is fixed)"
        raise CalibrationDataError(
            f"the data has {len(sides) or total} {kind}; at least 2 are needed, one to calibrate on and one to hold "
            f"out: give more data"
        )


def _side(unit: Unit, sides: dict[Hashable, bool], draws: Iterator[bool]) -> bool:
    if unit.group is None:
        return next(draws)
    if unit.group not in sides:
        sides[unit.group] = next(draws)
    return sides[unit.group]
