"""Choosing one rank per site under a budget, from any error curve and any cost per site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankfold.errors import PlanError

RANK_QUANTUM = 8  # ranks that are no multiple of the vector width made models with fewer parameters no faster
# Two products in place of one pay only where they save clearly: a fold that keeps more than this share is not offered.
LARGEST_SHARE = 0.8


@dataclass(frozen=True)
class Choice:
    """One thing to do with a site: a rank, or None for staying dense; its cost and its predicted error."""

    rank: int | None
    cost: float
    error: float


@dataclass(frozen=True)
class Curve:
    """What can be done with one site, by rising cost; staying dense comes last, with error 0."""

    site: str
    choices: tuple[Choice, ...]

    @property
    def dense(self) -> Choice:
        """Return the choice of leaving the site as it is."""
        return self.choices[-1]


def candidate_ranks(in_features: int, out_features: int) -> tuple[int, ...]:
    """Return the aligned ranks that save enough against the dense weight, rising; empty where none does."""
    dense, per_rank = in_features * out_features, in_features + out_features
    return tuple(range(RANK_QUANTUM, int(LARGEST_SHARE * dense / per_rank) + 1, RANK_QUANTUM))


def parameter_curve(site: str, sizes: tuple[int, int], tail: Callable[[int], float], *, blocks: int = 1) -> Curve:
    """Return a site's curve with parameters as cost and `tail(rank)` as error; `sizes` are (in, out) features."""
    folded = (Choice(rank, blocks * rank * sum(sizes), tail(rank)) for rank in candidate_ranks(*sizes))
    return Curve(site, (*folded, Choice(None, blocks * sizes[0] * sizes[1], 0.0)))


def allocate(curves: Sequence[Curve], budget: float) -> dict[str, Choice]:
    """Return the choice for every site that a uniform ratio gives within a total cost.

    All sites start at their cheapest choice and climb together: a step is due at the share of the dense cost halfway
    between its ends; among steps due at once the one that mends most per cost comes first. The longest run of steps
    that fits is taken, so that plans for rising budgets contain one another and their errors never rise.

    Raises:
        PlanError: The cheapest choices together cost more than the budget.
    """
    level = dict.fromkeys((curve.site for curve in curves), 0)
    spent = sum(curve.choices[0].cost for curve in curves)
    if spent > budget:
        raise PlanError(f"a cost of {budget:,.0f} cannot be met: the smallest ranks together cost {spent:,.0f}")
    steps = sorted(
        (_due(curve, place), -_mended_per_cost(curve, place), order, place)
        for order, curve in enumerate(curves)
        for place in range(len(curve.choices) - 1)
    )
    for _, _, order, place in steps:
        curve = curves[order]
        spent += curve.choices[place + 1].cost - curve.choices[place].cost
        if spent > budget:
            break
        level[curve.site] = place + 1
    return {curve.site: curve.choices[level[curve.site]] for curve in curves}


def within_error(curves: Sequence[Curve], allowed: float) -> dict[str, Choice]:
    """Return for every site its cheapest choice whose predicted error is at most `allowed`."""
    return {
        curve.site: next((choice for choice in curve.choices if choice.error <= allowed), curve.dense)
        for curve in curves
    }


def _due(curve: Curve, place: int) -> float:
    return (curve.choices[place].cost + curve.choices[place + 1].cost) / 2 / curve.dense.cost


def _mended_per_cost(curve: Curve, place: int) -> float:
    low, high = curve.choices[place], curve.choices[place + 1]
    return (low.error - high.error) / (high.cost - low.cost)
