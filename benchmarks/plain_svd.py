"""The baseline: truncated SVD of each weight, blind to the data, at the ranks of another plan.

A convolution's weight is taken as the matrix (in · kh · kw, out) that its folding works on, so that the baseline is a
k×k convolution to `rank` channels and a 1×1 convolution, as large as rankfold's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import linalg

from rankfold import __version__
from rankfold.passes.fold import finite_weight, fold
from rankfold.passes.model_file import load_model
from rankfold.passes.sites import find_sites
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_model
from rankfold.values import FloatArray, RankPlan


def svd_basis(weight: FloatArray, uses: int) -> Spectrum:
    """Return the right singular vectors of a weight (in, out) as its basis."""
    _, singular, right = linalg.svd(weight, full_matrices=False)
    means = tuple(np.zeros(weight.shape[1]) for _ in range(uses))
    return Spectrum(singular**2, right.T, means, centred=False, damping=0.0, rows=0)


def fold_plain(model: Path, plan: RankPlan, output: Path) -> Path:
    """Write the model folded by plain SVD at the plan's ranks, and return where."""
    loaded = load_model(model)
    scan = find_sites(loaded)
    planned = {line.site for line in plan.folded}
    bases = {
        site.name: svd_basis(finite_weight(loaded, scan, site), len(site.uses))
        for site in scan.sites
        if site.name in planned
    }
    write_model(fold(loaded, scan, plan, bases, version=__version__), loaded, output)
    return output
