"""What the tests of utilized rank share: the moments of rows, and the ranks that hold a share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx_examples import sums

from rankfold.passes.side_moments import SideMoments
from rankfold.passes.utilized import Directions

Matrix = NDArray[np.float64]


def moments_of(rows: Matrix) -> SideMoments:
    found = sums(rows)
    return SideMoments(True, found.count, (1.0,), (found.mean,), found.second)


def ranks(found: Directions, share: float) -> tuple[int, int]:
    projection = found.projection(share)
    return projection.inputs, projection.outputs
