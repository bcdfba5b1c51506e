"""Running sums over rows, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.values import Moments, Request


@dataclass
class Sums:
    """Sums of the rows of one tensor about a pilot row, changed in place batch after batch.

    Attributes:
        count, total, gram: Number of rows, their sum (d,), and the sum of their outer products (d, d).
    """

    count: float
    total: NDArray[np.float64]
    gram: NDArray[np.float64]

    @classmethod
    def empty(cls, features: int) -> Sums:
        """Return the sums over no rows."""
        return cls(0.0, np.zeros(features), np.zeros((features, features)))

    @property
    def finite(self) -> bool:
        """Return whether no row held NaN or infinity."""
        return bool(np.isfinite(np.trace(self.gram)) and np.isfinite(self.total).all())

    def add(self, gram: NDArray[np.floating], total: NDArray[np.floating], count: NDArray[np.floating]) -> None:
        """Add what one batch gave: (d, d), (1, d) and (1, 1)."""
        self.count += float(count[0, 0])
        self.total += total[0]
        self.gram += gram

    def moments(self, request: Request, pilot: NDArray[np.floating]) -> Moments:
        """Return the sums about zero; here they are about the pilot row. The arrays are handed on, not copied.

        Raises:
            CalibrationDataError: There were no rows.
        """
        if not self.count:
            raise CalibrationDataError(
                f"activation {request.tensor!r} has no rows in the whole of the data; check the mask and the inputs"
            )
        row = pilot.astype(np.float64)
        half = self.total + self.count / 2 * row
        self.gram += row[:, None] * half
        self.gram += half[:, None] * row
        self.total += self.count * row
        return Moments(self.count, self.total, self.gram)
