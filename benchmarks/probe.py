"""A linear probe: multinomial logistic regression on features, by scipy's L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from rankfold.values import FloatArray

# Strength of the squared penalty against the summed loss. 1 is scikit-learn's default; nothing was tuned.
_PENALTY = 1.0
_BOUNDS = {"maxiter": 20_000, "maxfun": 20_000}  # correlated features take thousands of steps


@dataclass(frozen=True)
class Probe:
    """Logits `(features - centre) / spread @ weight + bias`, weight (features, classes)."""

    centre: FloatArray
    spread: FloatArray
    weight: FloatArray
    bias: FloatArray

    def classes(self, features: FloatArray) -> NDArray[np.int64]:
        """Return the likeliest class of each row, (rows,)."""
        return ((features - self.centre) / self.spread @ self.weight + self.bias).argmax(axis=1)


def fitted(features: FloatArray, labels: NDArray[np.integer]) -> Probe:
    """Return the probe of the least penalised log loss; labels count from 0.

    Raises:
        RuntimeError: The minimum was not reached.
    """
    centre, deviation = features.mean(axis=0), features.std(axis=0)
    spread = np.where(deviation > 0, deviation, 1.0)
    rows = (features - centre) / spread
    truth = np.eye(int(labels.max()) + 1)[labels]
    shape = (rows.shape[1] + 1, truth.shape[1])

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        solution = flat.reshape(shape)
        logits = rows @ solution[:-1] + solution[-1]
        away = special.softmax(logits, axis=1) - truth
        value = special.logsumexp(logits, axis=1).sum() - (logits * truth).sum()
        slope = np.vstack([rows.T @ away + _PENALTY * solution[:-1], away.sum(axis=0)])
        return float(value + _PENALTY / 2 * (solution[:-1] ** 2).sum()), slope.ravel()

    found = optimize.minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=_BOUNDS)
    if not found.success:
        raise RuntimeError(f"the probe did not converge: {found.message}")
    solution = found.x.reshape(shape)
    return Probe(centre, spread, solution[:-1], solution[-1])
