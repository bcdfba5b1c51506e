"""Options of targets, and of how plans are searched for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args

from cyclopts import Group, Parameter

from rankfold.evaluation import Evaluate
from rankfold.labelled import ScoreName, labelled_evaluate
from rankfold.options import Allocation, Basis, Options
from rankfold.runtime_calib.distance import MetricName
from rankfold.runtime_calib.eval_script import script_evaluate
from rankfold.tools.options import (
    BUDGET_GROUP,
    Budget,
    Limits,
    UsageError,
    UtilizedBudget,
    is_not_negative,
    is_positive,
)

_SCORING = Group("Scoring, for --max-drop", sort_key=1)
_SEARCH = Group("Search", sort_key=4)
_NOT_UTILIZED = UtilizedBudget()
_SCORES: tuple[ScoreName, ...] = get_args(ScoreName)


def _is_faster(_kind: type, value: float | None) -> None:
    if value is not None and not 1 < value < math.inf:
        raise ValueError(f"It must be above 1, and finite; found {value}.")


def _is_a_drop(kind: type, value: float | None) -> None:
    is_not_negative(kind, value)
    if value == math.inf:
        raise ValueError(f"It must be finite; found {value}.")


@Parameter(name="*")
@dataclass(frozen=True)
class Targets:
    """Budgets that are stated by what they cost or bring."""

    max_drop: Annotated[float | None, Parameter(group=BUDGET_GROUP, validator=_is_a_drop)] = None
    """The smallest model that scores at most this much less by --eval, in the score's own unit (percent points for
    the named scores)."""
    speedup: Annotated[float | None, Parameter(group=BUDGET_GROUP, validator=_is_faster)] = None
    """Factor by which the FLOPs of the foldable layers fall; counted, not timed."""
    eval: Annotated[str | None, Parameter(group=_SCORING)] = None
    """A Python script with evaluate(predict), which gives a number or one per sample, higher is better; or accuracy,
    f1, spearman or cosine, by --eval-data."""
    eval_data: Annotated[Path | None, Parameter(group=_SCORING)] = None
    """An .npz of inputs and `labels` to score; it should hold nothing of the calibration data."""
    eval_output: Annotated[str | None, Parameter(group=_SCORING)] = None
    """The output that is scored by it; the first by default."""


@Parameter(name="*")
@dataclass(frozen=True)
class SearchOptions:
    """How plans are searched for."""

    allocation: Annotated[Allocation, Parameter(group=_SEARCH)] = "searched"
    """Try plans on held-out samples, or give all layers the same ratio."""
    basis: Annotated[Basis, Parameter(group=_SEARCH)] = "auto"
    """Errors of layers count by what the output makes of them (loss; takes torch), or by their size alone (data); auto
    goes by the loss where it can."""
    metric: Annotated[MetricName, Parameter(group=_SEARCH)] = "auto"
    """How outputs are judged while searching; auto is KL where an output looks like logits, else relative L2."""
    output_weight: Annotated[tuple[str, ...], Parameter(group=_SEARCH, negative="", show_default=False)] = ()
    """NAME=W: how much an output counts in that judgement, 1 by default; may be given again."""
    forwards: Annotated[int, Parameter(group=_SEARCH, validator=is_positive)] = 100
    """Samples that a search runs per layer at most."""


def with_search(options: Options, search: SearchOptions) -> Options:
    """Return the options with how plans are searched for.

    Raises:
        UsageError: A weight is not written as NAME=W.
    """
    weights = dict(map(_weight, search.output_weight))
    return replace(
        options,
        allocation=search.allocation,
        basis=search.basis,
        metric=search.metric,
        weights=weights,
        forwards=search.forwards,
    )


def check_one_budget(
    budget: Budget, plan: Path | None, targets: Targets, limits: Limits, utilized: UtilizedBudget = _NOT_UTILIZED
) -> bool:
    """Check that exactly one budget was stated, and tell whether it is --max-error, which beside another is a limit.

    Raises:
        UsageError: None or several were, or --max-drop and --eval do not come together.
    """
    stated = {
        "--keep": budget.keep,
        "--energy": budget.energy,
        "--plan": plan,
        "--max-drop": targets.max_drop,
        "--speedup": targets.speedup,
        "--utilized": utilized.utilized,
    }
    found = [name for name, value in stated.items() if value is not None]
    if len(found) > 1 or (not found and limits.max_error is None):
        raise UsageError(
            f"give exactly one of {', '.join(stated)} and --max-error; found {' and '.join(found) or 'none'}"
        )
    if (targets.max_drop is None) != (targets.eval is None):
        raise UsageError("--max-drop and --eval belong together: what may be lost, and of what")
    if utilized.about_zero and utilized.utilized is None:
        raise UsageError("--about-zero goes with --utilized: it says what that variance is about")
    if not found and not limits.max_error:
        raise UsageError("--max-error 0 allows no fold; give more")
    if not found and limits.max_error == math.inf:
        raise UsageError("--max-error inf allows anything; give a relative L2, such as 0.05")
    return not found


def chosen_evaluate(model: Path, targets: Targets, *, batch_size: int) -> Evaluate | None:
    """Return the score that was asked for, if one was.

    Raises:
        UsageError: --eval-data is missing or too much.
        CalibrationDataError: The script or the labels cannot be read.
    """
    if targets.eval is None:
        return None
    named = next((score for score in _SCORES if score == targets.eval), None)
    if named is None:
        if targets.eval_data is not None or targets.eval_output is not None:
            raise UsageError(f"--eval-data and --eval-output go with --eval {', '.join(_SCORES)}, not with a script")
        return script_evaluate(Path(targets.eval))
    if targets.eval_data is None:
        raise UsageError(f"--eval {named} needs --eval-data, an .npz of inputs and labels")
    return labelled_evaluate(model, targets.eval_data, score=named, output=targets.eval_output, batch_size=batch_size)


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise UsageError(f"--output-weight is {text!r}; expected NAME=W with a number W of 0 or more")
    return name, value
