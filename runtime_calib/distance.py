"""How far one output of a candidate is from the original's, sample by sample, in a unit that adds up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rankfold.errors import OptionsError
from rankfold.values import FloatArray

MetricName = Literal["auto", "relative_l2", "kl", "cosine"]
Judge = Callable[[NDArray[np.generic], NDArray[np.generic]], NDArray[np.generic]]
"""Takes one output of the original and of the candidate, (samples, ...) each, and gives a loss per sample, ≥ 0."""
Metric = MetricName | Judge

METRICS: tuple[MetricName, ...] = ("auto", "relative_l2", "kl", "cosine")
_UNIT_ROW = 1e-3  # how far from 1 the length or the sum of a normalised row may be, also in half precision
_TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Losses:
    """What each sample lost, and what it is a share of; both (samples,).

    The loss of several samples is Σ lost / Σ whole. It is quadratic in the error, so that small independent errors
    add up; `quadratic` says that its square root is what people read, as with the relative L2.
    """

    lost: FloatArray
    whole: FloatArray
    quadratic: bool

    @property
    def mean(self) -> float:
        """Return the loss of all samples together."""
        return float(self.lost.sum() / max(float(self.whole.sum()), _TINY))

    @property
    def reading(self) -> float:
        """Return it as it is read: the relative L2 itself, not its square."""
        return float(np.sqrt(self.mean)) if self.quadratic else self.mean


def resolved(metric: Metric, reference: NDArray[np.generic]) -> Metric:
    """Return what `auto` means for an output: KL where it looks like logits or probabilities, else relative L2."""
    if metric != "auto":
        return metric
    return "kl" if _looks_like_scores(reference) else "relative_l2"


def losses(metric: Metric, reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> Losses:
    """Return what each sample of one output lost.

    Args:
        metric: `relative_l2`: squared distance, as a share of the squared length of all references; `kl`:
            KL(original ‖ candidate) in nats over the last axis, logits or probabilities; `cosine`: 1 - cosine of the
            whole sample; or a function.
        reference, candidate: (samples, ...), of one shape.

    Raises:
        OptionsError: A function gives something else than one finite number ≥ 0 per sample.
    """
    if callable(metric):
        return _judged(metric, reference, candidate)
    first, second = (array.astype(np.float64) for array in (reference, candidate))
    if metric == "kl":
        return _divergence(first, second)
    flat, other = first.reshape(len(first), -1), second.reshape(len(second), -1)
    if metric == "cosine":
        lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1)
        cosine = np.einsum("ij,ij->i", flat, other) / np.maximum(lengths, _TINY)
        return Losses(np.maximum(1 - cosine, 0.0), np.ones(len(flat)), quadratic=False)
    return Losses(((other - flat) ** 2).sum(axis=1), (flat**2).sum(axis=1), quadratic=True)


def looks_like_probabilities(array: NDArray[np.generic]) -> bool:
    """Return whether the rows of an output are probabilities, so that KL takes their logarithm as it is."""
    return bool(_are_probabilities(array.astype(np.float64)).all())


def _looks_like_scores(array: NDArray[np.generic]) -> bool:
    """Tell whether an output has a row of class scores per sample, and not an embedding of length 1."""
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind != "f" or not len(array):
        return False
    rows = array.astype(np.float64)
    unit = np.abs(np.linalg.norm(rows, axis=1) - 1) < _UNIT_ROW
    return not bool((unit & ~_are_probabilities(rows)).all())


def _are_probabilities(rows: FloatArray) -> NDArray[np.bool_]:
    sums: NDArray[np.bool_] = np.abs(rows.sum(axis=-1) - 1) < _UNIT_ROW
    return (rows >= 0).all(axis=-1) & sums


def _divergence(reference: FloatArray, candidate: FloatArray) -> Losses:
    if bool(_are_probabilities(reference).all()):
        logs = tuple(np.log(np.maximum(array, _TINY)) for array in (reference, candidate))
    else:
        logs = tuple(special.log_softmax(array, axis=-1) for array in (reference, candidate))
    each = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=-1)
    return Losses(np.maximum(each.reshape(len(each), -1).mean(axis=1), 0.0), np.ones(len(each)), quadratic=False)


def _judged(judge: Judge, reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> Losses:
    found = np.asarray(judge(reference, candidate), np.float64)
    if found.shape != (len(reference),) or not np.isfinite(found).all() or (found < 0).any():
        raise OptionsError(
            f"the metric gave an array of shape {found.shape} for {len(reference)} samples; expected one finite number"
            " of 0 or more per sample, 0 for no loss"
        )
    return Losses(found, np.ones(len(found)), quadratic=False)
