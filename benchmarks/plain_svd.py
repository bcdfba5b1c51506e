"""The baseline: truncated SVD of each weight, blind to the data, at the ranks of another plan.

A convolution's weight is taken as the matrix (in · kh · kw, out) that its folding works on, so that the baseline is a
k×k convolution to `rank` channels and a 1×1 convolution, as large as rankfold's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import linalg

from benchmarks.folding import bases_by_weight, fold_with
from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray, RankPlan


def svd_basis(weight: FloatArray, uses: int) -> Spectrum:
    """Return the right singular vectors of a weight (in, out) as its basis."""
    _, singular, right = linalg.svd(weight, full_matrices=False)
    means = tuple(np.zeros(weight.shape[1]) for _ in range(uses))
    return Spectrum(singular**2, right.T, means, centred=False, damping=0.0, rows=0)


def fold_plain(model: Path, plan: RankPlan, output: Path, *, include: tuple[str, ...] = ()) -> Path:
    """Write the model folded by plain SVD at the plan's ranks, and return where."""
    return fold_with(model, plan, bases_by_weight(model, plan, svd_basis, include=include), output, include=include)
