"""How arrays with many samples divide into units of one model: decided from shapes alone, before any value is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.values import InputSpec


@dataclass(frozen=True)
class Header:
    """Shape and dtype of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Slot:
    """What one unit takes of one input's array.

    Attributes:
        kind: `rows` takes the next `rows` along axis 0; `feed` takes the next index of an axis 0 that the model does
            not have; `constant` takes the whole array every time.
        joins: True where the model's axis 0 is dynamic, so that several units fit into one batch.
    """

    name: str
    kind: Literal["rows", "feed", "constant"]
    rows: int = 1
    joins: bool = False

    def cut(self, array: NDArray[np.generic], unit: int) -> NDArray[np.generic]:
        """Return this input of the unit with the given index, as a view."""
        if self.kind == "constant":
            return array
        if self.kind == "feed":
            return array[unit, ...]
        return array[unit * self.rows : (unit + 1) * self.rows]


@dataclass(frozen=True)
class Layout:
    """The division of a set of arrays.

    Attributes:
        slots: One per input, varying inputs first, so that the first array of a feed counts its samples.
        units: Whole units in the arrays.
        samples: Length of the varying inputs' sample axis.
        unit_bytes: Bytes of all varying inputs of one unit.
        unit_samples: Samples of one unit's feed, as `sample_count` counts them.
    """

    slots: tuple[Slot, ...]
    units: int
    samples: int
    unit_bytes: int
    unit_samples: int

    @property
    def step(self) -> int:
        """Return how many indices of the sample axis one unit takes."""
        return self.slots[0].rows if self.slots else 1

    @property
    def dropped(self) -> int:
        """Return the trailing samples that do not fill a unit."""
        return self.samples - self.units * self.step

    @property
    def joins(self) -> frozenset[str]:
        """Return the inputs that join with those of other units."""
        return frozenset(slot.name for slot in self.slots if slot.joins)


def lay_out(headers: Mapping[str, Header], inputs: tuple[InputSpec, ...], where: str) -> Layout:
    """Decide how the arrays divide.

    Axis 0 counts samples. An array whose rank is one more than the model's holds one whole feed per index. An array of
    exactly the declared, wholly fixed shape is a constant where other inputs hold more than one unit; so is a scalar.

    Raises:
        CalibrationDataError: A rank or fixed dimension differs, an input has no samples, or the counts differ.
    """
    shapes = {spec.name: headers[spec.name].shape for spec in inputs}
    slots = {spec.name: _slot(spec, shapes[spec.name], where) for spec in inputs}
    counts = {name: Fraction(shapes[name][0], slot.rows) for name, slot in slots.items() if slot.kind != "constant"}
    for name, count in counts.items():
        if not count:
            raise CalibrationDataError(f"{where}: input '{name}' has shape {shapes[name]}: no samples; give at least 2")
    fixed = {spec.name for spec in inputs if shapes[spec.name] == spec.shape}
    if any(count > 1 for name, count in counts.items() if name not in fixed):
        counts = {name: count for name, count in counts.items() if name not in fixed}
        slots.update({name: replace(slots[name], kind="constant", joins=False) for name in fixed})
    _check_counts(counts, shapes, where)
    layout = _layout(tuple(sorted(slots.values(), key=_order)), counts, headers)
    if counts and not layout.unit_bytes:  # as many samples as a header likes to claim, made of nothing
        raise CalibrationDataError(
            f"{where}: the samples hold no values: the inputs have the shapes {shapes}; give samples that do"
        )
    return layout


def _order(slot: Slot) -> tuple[bool, bool, bool]:
    return slot.kind == "constant", not slot.joins, slot.kind == "feed"


def _layout(slots: tuple[Slot, ...], counts: Mapping[str, Fraction], headers: Mapping[str, Header]) -> Layout:
    shapes = [_unit_shape(slot, headers[slot.name].shape) for slot in slots]
    unit = [Header(shape, headers[slot.name].dtype) for slot, shape in zip(slots, shapes, strict=True)]
    first = slots[0].name if slots and slots[0].name in counts else None
    return Layout(
        slots=slots,
        units=math.floor(counts[first]) if first is not None else 1,
        samples=headers[first].shape[0] if first is not None else 1,
        unit_bytes=sum(header.size_bytes for header, slot in zip(unit, slots, strict=True) if slot.name in counts),
        unit_samples=next((shape[0] for shape in shapes if shape), 1),
    )


def _unit_shape(slot: Slot, shape: tuple[int, ...]) -> tuple[int, ...]:
    if slot.kind == "constant":
        return shape
    return shape[1:] if slot.kind == "feed" else (slot.rows, *shape[1:])


def _fixed(dimension: int | str | None) -> bool:
    return isinstance(dimension, int) and dimension > 0


def _slot(spec: InputSpec, shape: tuple[int, ...], where: str) -> Slot:
    rank = len(spec.shape)
    if len(shape) == rank + 1:
        _check_dimensions(spec, shape, shape[1:], where)
        return Slot(spec.name, "feed")
    if len(shape) != rank:
        raise CalibrationDataError(
            f"{where}: input '{spec.name}' has shape {shape}, rank {len(shape)}; the model takes {_declared(spec)}: "
            f"give rank {rank} with the samples on axis 0, or rank {rank + 1} with one whole feed per index of axis 0"
        )
    if not rank:
        return Slot(spec.name, "constant")
    batch = spec.shape[0]
    _check_dimensions(spec, shape, (None, *shape[1:]), where)
    rows = batch if isinstance(batch, int) and batch > 0 else 1
    return Slot(spec.name, "rows", rows, joins=not _fixed(batch))


def _check_dimensions(spec: InputSpec, shape: tuple[int, ...], sample: tuple[int | None, ...], where: str) -> None:
    for axis, (found, expected) in enumerate(zip(sample, spec.shape, strict=True)):
        if found is not None and _fixed(expected) and found != expected:
            raise CalibrationDataError(
                f"{where}: input '{spec.name}' has shape {shape}; the model takes {_declared(spec)}, so its "
                f"axis {axis} must be {expected}, not {found}; resize or pad the data to the model's shape"
            )


def _check_counts(counts: Mapping[str, Fraction], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    if len(set(counts.values())) <= 1:
        return
    found = ", ".join(f"'{name}' {shapes[name][0]}" for name in counts)
    raise CalibrationDataError(
        f"{where}: the inputs' sample counts on axis 0 differ: {found}; give every input the same samples "
        f"(an input that is the same for all samples and has no batch axis: one copy per sample along a new axis 0)"
    )


def _declared(spec: InputSpec) -> str:
    return "(" + ", ".join("?" if axis is None else str(axis) for axis in spec.shape) + ")"
