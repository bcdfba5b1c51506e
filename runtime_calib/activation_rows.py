"""Activations as rows: every position by itself, or one row per sample; and sums over such rows, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.values import FloatArray, Moments

Pooling = Literal["none", "mean", "flatten"]
Array = NDArray[np.generic]
Truth = NDArray[np.bool_]


def position_rows(array: Array, feature_axis: int, counted: Truth | None) -> Array:
    """Return what precedes the features as rows (n, features), those that are padding left out.

    Args:
        array: The activation.
        feature_axis: Where its features lie.
        counted: False where a row is padding, (n,), in the rows' order; None counts all.
    """
    turned = np.moveaxis(array, feature_axis, -1)
    rows = turned.reshape(-1, turned.shape[-1])
    return rows if counted is None else rows[counted]


def sample_rows(array: Array, feature_axis: int, counted: Truth | None, pooling: Pooling) -> tuple[FloatArray, Truth]:
    """Return one row per sample, and which samples have one: those with a position that is not padding.

    Args:
        array: The activation, samples on axis 0.
        feature_axis: Where its features lie.
        counted: False where a position is padding, one for each of a sample's positions, (samples, positions).
        pooling: `mean`: over the positions that count, (samples, features); `flatten`: all values of a sample, those
            of padding 0.
    """
    turned = np.moveaxis(array, feature_axis, -1)
    parted = turned.reshape(len(turned), -1, turned.shape[-1])
    if counted is None:
        clean, number = parted, np.full(len(parted), parted.shape[1])
    else:
        clean, number = np.where(counted[..., None], parted, parted.dtype.type(0)), counted.sum(axis=1)
    there = number > 0
    if pooling == "flatten":
        return clean.reshape(len(clean), -1)[there].astype(np.float64), there
    return clean.sum(axis=1, dtype=np.float64)[there] / number[there, None], there


@dataclass
class RowSums:
    """Sums of rows about the mean of the first ones, changed in place batch after batch.

    Attributes:
        pilot: The row taken off every row before it is summed, (d,); None before the first rows.
        count, total, gram: Number of rows, their sum (d,), the sum of their outer products (d, d).
    """

    pilot: FloatArray | None = None
    count: int = 0
    total: FloatArray = field(default_factory=lambda: np.zeros(0))
    gram: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, rows: Array) -> FloatArray:
        """Add finite rows (n, d) and return them about the pilot."""
        wide = rows.astype(np.float64)
        if self.pilot is None:
            self.pilot = wide.mean(axis=0) if len(wide) else None
            self.total, self.gram = np.zeros(wide.shape[1]), np.zeros((wide.shape[1], wide.shape[1]))
        if self.pilot is None:
            return wide
        wide -= self.pilot
        self.count += len(wide)
        self.total += wide.sum(axis=0)
        self.gram += wide.T @ wide
        return wide

    @property
    def moments(self) -> Moments:
        """Return the sums, about the pilot: what they tell of the covariance is the same, without cancellation."""
        return Moments(float(self.count), self.total, self.gram)


@dataclass
class ClassSums:
    """The same, and sums by class beside them.

    Attributes:
        rows: Sums over all rows.
        counts, totals: Rows of each class, (K,), and their sums about the pilot, (K, d).
    """

    rows: RowSums
    counts: FloatArray
    totals: FloatArray

    @classmethod
    def empty(cls, classes: int) -> ClassSums:
        """Return the sums over no rows."""
        return cls(RowSums(), np.zeros(classes), np.zeros((classes, 0)))

    def add(self, rows: Array, places: NDArray[np.intp]) -> None:
        """Add finite rows (n, d) of the classes with these places, (n,)."""
        if not self.totals.shape[1]:
            self.totals = np.zeros((len(self.counts), rows.shape[1]))
        centred = self.rows.add(rows)
        np.add.at(self.totals, places, centred)
        np.add.at(self.counts, places, 1.0)
