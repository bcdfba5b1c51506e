"""Cutting long arrays into units a few megabytes at a time, checking the values on the way."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankfold.runtime_calib.feed_checks import check_finite
from rankfold.runtime_calib.feed_layout import Layout
from rankfold.runtime_calib.npz_stream import TakeRows
from rankfold.runtime_calib.units import Unit
from rankfold.values import Feed

CHUNK_BYTES = 2**23
"""Read about this much at once: enough for a call's overhead not to count, little enough for the processor's cache."""


@dataclass(frozen=True)
class Notes:
    """What data says of its units beside the inputs.

    Attributes:
        groups: The group of every unit.
        labels: The class numbers of all samples, in order.
    """

    groups: list[Hashable] | None = None
    labels: NDArray[np.generic] | None = None

    def of(self, unit: int, layout: Layout) -> tuple[Hashable | None, NDArray[np.generic] | None]:
        """Return a unit's group and its samples' labels."""
        group = self.groups[unit] if self.groups else None
        return group, None if self.labels is None else self.labels[unit * layout.step : (unit + 1) * layout.step]


def cut(layout: Layout, rows: Mapping[str, TakeRows], notes: Notes, where: str) -> Iterator[Unit]:
    """Read the inputs side by side and give them unit by unit, as views into the chunks read.

    Raises:
        CalibrationDataError: A float value is not finite, or a file ends early.
    """
    constants = {slot.name: rows[slot.name](None) for slot in layout.slots if slot.kind == "constant"}
    for slot in layout.slots:
        if slot.kind == "constant":
            check_finite(slot, constants[slot.name], 0, where)
    units_at_once = max(1, CHUNK_BYTES // max(1, layout.unit_bytes))
    joins = layout.joins
    for start in range(0, layout.units, units_at_once):
        units = min(units_at_once, layout.units - start)
        chunk = _chunk(layout, rows, constants, (start, units), where)
        for index in range(units):
            feed = {slot.name: slot.cut(chunk[slot.name], index) for slot in layout.slots}
            group, labels = notes.of(start + index, layout)
            yield Unit(feed, group, joins, labels)


def _chunk(layout: Layout, rows: Mapping[str, TakeRows], constants: Feed, span: tuple[int, int], where: str) -> Feed:
    start, units = span
    chunk = dict(constants)
    for slot in layout.slots:
        if slot.kind != "constant":
            chunk[slot.name] = rows[slot.name](units * slot.rows)
            check_finite(slot, chunk[slot.name], start * slot.rows, where)
    return chunk
