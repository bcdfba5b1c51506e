"""The best low-rank replacement of a weight where errors count by what the model's output makes of them.

With a metric `G` of that, `E[(x (W - W')) G (x (W - W'))ᵀ]` is least for `W' = W G^½ V_r V_rᵀ G^-½`, `V_r` the top-r
eigenvectors of `G^½ S G^½`: the problem of `spectrum` in other coordinates. `G = E[g gᵀ]` of gradients `g` is exact
where they and the inputs are independent (the approximation of K-FAC, Martens and Grosse 2015, arXiv 1503.05671).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import linalg

from rankfold.passes.side_moments import SideMoments
from rankfold.passes.spectrum import Spectrum, spectrum
from rankfold.values import FloatArray

# Added to a metric's eigenvalues, as a share of their mean: gradients of few samples leave directions unseen that
# matter on others. On a supervised ViT less was better and on a self-supervised one more (`benchmarks.bases`).
METRIC_DAMPING = 0.1


def spectrum_by_loss(weight: FloatArray, moments: SideMoments, metric: FloatArray, *, centred: bool) -> Spectrum:
    """Return the basis of one site in which an error counts by what the model's output makes of it.

    Args:
        weight: `W`, (in, out).
        moments: Of its calibration rows.
        metric: `G`, in the coordinates of `row_space(weight)`, (k, k), k = min(in, out); its scale does not matter.
        centred: Whether the mean is taken out, to be made up for by the bias.
    """
    rows, root, inverse = _roots(weight, metric)
    turned = weight @ rows @ root
    found = spectrum(turned, _seen_through(moments, rows @ root), centred=centred)
    means = moments.product_means(weight)
    return replace(
        found,
        vectors=rows @ inverse @ found.vectors,
        skew=rows @ root @ found.vectors,
        means=means if centred else tuple(np.zeros_like(mean) for mean in means),
    )


def row_space(weight: FloatArray) -> FloatArray:
    """Return orthonormal columns that span all outputs `x W`, (out, k), k = min(in, out); the identity if k = out."""
    if weight.shape[0] >= weight.shape[1]:
        return np.eye(weight.shape[1])
    return np.asarray(linalg.qr(weight.T, mode="economic")[0])


def _roots(weight: FloatArray, metric: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the row space, and the damped metric's root and inverse root, scaled to eigenvalues of mean 1."""
    values, vectors = linalg.eigh(metric)
    values = np.maximum(values, 0.0) / max(float(values.mean()), np.finfo(float).tiny) + METRIC_DAMPING
    root, inverse = ((vectors * values**power) @ vectors.T for power in (0.5, -0.5))
    return row_space(weight), root, inverse


def _seen_through(moments: SideMoments, turn: FloatArray) -> SideMoments:
    """Return moments of rows `z` as those of `z turn`; inputs stay what they are."""
    if moments.of_input:
        return moments
    means = tuple(mean @ turn for mean in moments.means)
    return replace(moments, means=means, second=turn.T @ moments.second @ turn)
