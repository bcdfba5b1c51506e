"""A user's own measure of a model as a target: what `evaluate` gives for the original, and what a plan drops of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankfold.budgets import Evaluation
from rankfold.errors import OptionsError
from rankfold.values import Feed

Outputs = dict[str, NDArray[np.generic]]
Predict = Callable[[Feed], Outputs]
"""Takes one batch and gives a model's outputs by name."""
Evaluate = Callable[[Predict], object]
"""Gives a score, higher is better: a number, an array of one score per sample whose mean counts, or a `Score`."""

_RESAMPLES = 1000  # of the bootstrap; the ends of a 95 % interval are then known to about a twentieth of its width
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Score:
    """What a model scored.

    Attributes:
        value: Higher is better.
        rows: How many samples it is of; None where that is not known.
        of_rows: Gives the score of some of the samples, by their places, with repetitions.
    """

    value: float
    rows: int | None = None
    of_rows: Callable[[NDArray[np.intp]], float] | None = None


@dataclass(frozen=True)
class MaxDrop:
    """Budget: the smallest plan that scores at most `limit` less than the original, by `evaluate`, 0 or more.

    Attributes:
        before: What the original scores; None where it was not asked yet.
    """

    limit: float
    evaluate: Evaluate
    before: Score | None = None


def scored(evaluate: Evaluate, predict: Predict) -> Score:
    """Return what a model scores; not a number counts as -inf.

    Raises:
        OptionsError: `evaluate` gives neither a number nor one number per sample.
    """
    found = evaluate(predict)
    if isinstance(found, Score):
        return found
    if found is None:  # a function without a return; numpy would read it as not a number
        raise _senseless(found)
    try:
        array = np.asarray(found, np.float64)
    except (TypeError, ValueError) as error:
        raise _senseless(found) from error
    if array.ndim > 1 or not array.size:
        raise _senseless(found)
    if array.ndim == 0:
        return Score(_counted(float(array)))
    return Score(_counted(float(array.mean())), len(array), lambda rows: float(array[rows].mean()))


def compared(before: Score, after: Score, *, limit: float, seed: int) -> Evaluation:
    """Return both scores, with the interval of the drop where scores of single samples are known.

    Raises:
        OptionsError: The scores are of different numbers of samples.
    """
    if before.rows != after.rows:
        raise OptionsError(
            f"evaluate gave {before.rows} scores for the original and {after.rows} for a candidate; expected the same"
            " samples each time"
        )
    return Evaluation(before.value, after.value, limit, before.rows, drop_interval(before, after, seed=seed))


def drop_interval(before: Score, after: Score, *, seed: int) -> tuple[float, float] | None:
    """Return the 95 % interval of the drop by a paired bootstrap over the samples; None without single scores."""
    if before.of_rows is None or after.of_rows is None or before.rows is None:
        return None
    draws = np.random.default_rng(seed)
    drops = []
    for _ in range(_RESAMPLES):
        rows = draws.integers(before.rows, size=before.rows)
        drops.append(before.of_rows(rows) - after.of_rows(rows))
    low, high = np.percentile(drops, _INTERVAL)
    return float(low), float(high)


def evaluation_warning(found: Evaluation) -> str | None:
    """Return what to tell where the samples are too few to see the drop that is allowed, or None."""
    if found.interval is None or (found.interval[1] - found.interval[0]) / 2 <= found.limit:
        return None
    half = (found.interval[1] - found.interval[0]) / 2
    return (
        f"{found.rows:,} labelled samples are too few to tell a drop of {found.limit:g}: it is known to ± {half:.3g};"
        " give more of them, or allow more"
    )


def _counted(value: float) -> float:
    return value if np.isfinite(value) else float("-inf")


def _senseless(found: object) -> OptionsError:
    shape = f"an array of shape {np.shape(found)}" if isinstance(found, np.ndarray) else f"{found!r}"
    return OptionsError(f"evaluate gave {shape}; expected one number, or an array of one number per sample")
