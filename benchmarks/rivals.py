"""Other methods' bases for a weight, each from its own definition.

All of them replace `W` (in, out) by a matrix of rank r that is `W V_r V_rᵀ` for orthonormal columns `V_r` (out, r).
ASVD and SVD-LLM scale the input by some invertible `S` first: of `S W = U Σ Vᵀ` they keep `S⁻¹ U_r Σ_r V_rᵀ`, which is
`W V_r V_rᵀ`, so `S` is never inverted here: where it is nearly singular that favours them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg

from benchmarks.evidence import Evidence
from benchmarks.plain_svd import svd_basis
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray

Rival = Callable[[FloatArray, Evidence], Spectrum]

_ASVD_POWER = 0.5  # α of the paper's best results
_ASVD_FLOOR = 1e-6  # added to each scale by ASVD's published code, so that dead features do not make S singular
_SVD_LLM_SHIFT = 1e-6  # what SVD-LLM's published code adds beyond -λ_min where C is not positive definite


def plain_svd(weight: FloatArray, evidence: Evidence) -> Spectrum:
    """Return truncated SVD, blind to the data."""
    return svd_basis(weight, len(evidence.inputs.means))


def asvd(weight: FloatArray, evidence: Evidence) -> Spectrum:
    """Return ASVD (Yuan et al. 2023, arXiv 2312.05821): `S = diag(E|x|^α)`, by absolute means."""
    scale = evidence.mean_absolute**_ASVD_POWER + _ASVD_FLOOR
    _, singular, right = linalg.svd(scale[:, None] * weight, full_matrices=False)
    return _spectrum(singular**2, right.T, evidence)


def svd_llm(weight: FloatArray, evidence: Evidence) -> Spectrum:
    """Return SVD-LLM (Wang et al. 2024, arXiv 2403.07378): `S = Lᵀ` of the Cholesky factor of `Σ x xᵀ = L Lᵀ`.

    `values` are then the output energies of the directions. `damping` holds what was added to the eigenvalues of
    `E[x xᵀ]`, and is 0 where Cholesky's factor exists.
    """
    count = evidence.inputs.count
    lower, added = whitening(evidence.inputs.second * count)
    _, singular, right = linalg.svd(lower.T @ weight, full_matrices=False)
    return _spectrum(singular**2 / count, right.T, evidence, damping=added / count)


def afm(weight: FloatArray, evidence: Evidence) -> Spectrum:
    """Return AFM (Yu and Wu 2023, AAAI): the principal components of the outputs about their mean.

    The bias takes up the mean: `ŷ = V_r V_rᵀ (y - E[y]) + E[y]`.
    """
    values, vectors = linalg.eigh(evidence.outputs.covariance)
    largest = min(weight.shape)
    values, vectors = values[::-1][:largest], vectors[:, ::-1][:, :largest]
    means = tuple(mean.copy() for mean in evidence.outputs.means)
    return Spectrum(np.maximum(values, 0.0), vectors, means, centred=True, damping=0.0, rows=evidence.outputs.count)


RIVALS: dict[str, Rival] = {"plain SVD": plain_svd, "ASVD": asvd, "SVD-LLM": svd_llm, "AFM": afm}


def rival_bases(model: Model, scan: Scan, found: dict[str, Evidence], rival: Rival) -> dict[str, Spectrum]:
    """Return a rival's basis of every site."""
    return {site.name: rival(finite_weight(model, scan, site), found[site.name]) for site in scan.sites}


def whitening(gram: FloatArray) -> tuple[FloatArray, float]:
    """Return the lower Cholesky factor of a sum of outer products, and what was added to its diagonal.

    Where it is not positive definite, -λ_min and a little are added, as SVD-LLM's code does. That code gives up where
    this does not suffice, since λ_min itself is rounded; here the little is then made ten times as large.
    """
    added, little = 0.0, _SVD_LLM_SHIFT
    while True:
        try:
            return linalg.cholesky(gram + added * np.eye(len(gram)), lower=True), added
        except linalg.LinAlgError:
            added = little - min(float(linalg.eigvalsh(gram, subset_by_index=[0, 0])[0]), 0.0)
            little *= 10


def _spectrum(values: FloatArray, vectors: FloatArray, evidence: Evidence, *, damping: float = 0.0) -> Spectrum:
    means = tuple(np.zeros(len(vectors)) for _ in evidence.inputs.means)
    return Spectrum(values, vectors, means, centred=False, damping=damping, rows=evidence.inputs.count)
