"""The one budget that a caller stated."""

from __future__ import annotations

from dataclasses import dataclass

from rankfold.budgets import MaxError, Speedup, Utilized
from rankfold.errors import PlanError
from rankfold.evaluation import Evaluate, MaxDrop
from rankfold.options import Options, is_number
from rankfold.values import Energy, Keep, RankPlan

Budget = Keep | Energy | Utilized | MaxError | MaxDrop | Speedup | RankPlan

_SHARES: dict[str, type[Keep | Energy | Utilized]] = {"keep": Keep, "energy": Energy, "utilized": Utilized}
_NAMES = "keep, energy, plan, max_error, max_drop with evaluate, speedup, and utilized"


@dataclass(frozen=True)
class Stated:
    """What a caller may state; exactly one of these, `max_drop` with `evaluate`."""

    keep: float | None = None
    energy: float | None = None
    plan: RankPlan | None = None
    max_error: float | None = None
    max_drop: float | None = None
    evaluate: Evaluate | None = None
    speedup: float | None = None
    utilized: float | None = None


def stated_budget(stated: Stated) -> Budget:
    """Return the one budget among these.

    Raises:
        PlanError: There are none or several, or it makes no sense.
    """
    evaluate = stated.evaluate
    if (stated.max_drop is None) != (evaluate is None):
        raise PlanError("max_drop and evaluate belong together: how much less a model may score, and the score")
    if evaluate is not None and not callable(evaluate):
        raise PlanError(f"evaluate is a {type(evaluate).__name__}; expected a function that takes predict")
    names = ("keep", "energy", "plan", "max_error", "max_drop", "speedup", "utilized")
    given = [(name, value) for name in names if (value := getattr(stated, name)) is not None]
    if len(given) != 1:
        raise PlanError(f"{len(given)} budgets were given; expected exactly one of {_NAMES}")
    ((name, value),) = given
    if name == "plan":
        if not isinstance(value, RankPlan):
            raise PlanError(f"the plan is a {type(value).__name__}; expected a RankPlan, as make_plan returns it")
        return value
    return _checked(name, value, evaluate)


def searches(budget: Budget, options: Options) -> bool:
    """Tell whether a budget is met by trying plans on held-out samples."""
    if isinstance(budget, MaxError | MaxDrop):
        return True
    return isinstance(budget, Keep | Speedup) and options.allocation == "searched"


def _checked(name: str, value: object, evaluate: Evaluate | None) -> Budget:
    """Return the budget of that name."""
    number = float(value) if is_number(value) else float("nan")  # type: ignore[arg-type]
    if name in _SHARES:
        if not 0 < number <= 1:
            raise PlanError(f"the share is {value!r}; expected a number above 0 and at most 1")
        return _SHARES[name](number)
    if name == "max_error":
        if not 0 < number < float("inf"):
            raise PlanError(f"max_error is {value!r}; expected a relative L2 above 0, such as 0.05")
        return MaxError(number)
    if name == "speedup":
        if not 1 < number < float("inf"):
            raise PlanError(f"speedup is {value!r}; expected a factor above 1, such as 1.5")
        return Speedup(number)
    if not 0 <= number < float("inf") or evaluate is None:
        raise PlanError(f"max_drop is {value!r}; expected a number of 0 or more, in the unit of evaluate")
    return MaxDrop(number, evaluate)
