"""Choosing one rank per site under a budget, from any error curve and any cost per site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rankfold.errors import PlanError
from rankfold.values import Form, folded_parameters

# Ranks that are no multiple of the vector width made models with fewer parameters no faster. With AVX-512 an odd
# multiple of 8 takes 3 to 5 % longer per rank than a multiple of 16; in narrow layers steps of 16 would be too coarse.
RANK_QUANTUM, WIDE_RANK_QUANTUM = 8, 16
NARROW = 256  # features of the narrower side, below which the smaller step is taken
# The runtime's products on a CPU go over the inner size in blocks of 256, each with one more pass over the result: at
# rank 264 a pair of 384 × 1536 took 18 % longer than at 256, for 3 % more rank. So none is offered that closely above
# a block.
INNER_BLOCK, CLOSELY_ABOVE = 256, 32
# Two products in place of one pay only where they save clearly: a fold that keeps more than this share is not offered.
LARGEST_SHARE = 0.8
# A pivoted fold has to save this share of a pair of its rank; below, it would buy less than a twentieth more rank.
LEAST_PIVOT_SAVING = 0.05
# Beside two products a pivoted fold copies the features of one side, by a Split and an Add or by a Concat, whatever its
# rank. A feature takes as long as some 20 multiply-adds on an AMD EPYC, as some 45 on an Intel Xeon with AVX-512
# (`python -m benchmarks.pivoted`), where a square layer of 384 features took 1.15 to 1.3 times as long as a pair of as
# many parameters. So copying may take this share of what the products take: in a ViT-S it takes more in every layer,
# in wider models less.
COPIED_FEATURE = 45
MOST_COPYING = 1 / 32


@dataclass(frozen=True)
class Choice:
    """One thing to do with a site: a rank, or None for staying dense; its cost, its predicted error and its form."""

    rank: int | None
    cost: float
    error: float
    form: Form = "pair"


@dataclass(frozen=True)
class Curve:
    """What can be done with one site, by rising cost; staying dense comes last, with error 0."""

    site: str
    choices: tuple[Choice, ...]

    @property
    def dense(self) -> Choice:
        """Return the choice of leaving the site as it is."""
        return self.choices[-1]


def chosen_form(rank: int, in_features: int, out_features: int, *, pivots: bool) -> Form:
    """Return the one form in which a rank is offered: pivoted where it can be, saves enough and costs little time.

    Args:
        rank: The rank.
        in_features, out_features: The site's sizes.
        pivots: Whether the site can be pivoted at all.
    """
    narrower = min(in_features, out_features)
    if not pivots or rank >= narrower or rank / (in_features + out_features) < LEAST_PIVOT_SAVING:
        return "pair"
    products = folded_parameters(in_features, out_features, rank, "pivoted")  # of one row, multiply-adds
    return "pivoted" if COPIED_FEATURE * narrower <= MOST_COPYING * products else "pair"


def rank_quantum(in_features: int, out_features: int) -> int:
    """Return what the ranks of a layer are multiples of."""
    return RANK_QUANTUM if min(in_features, out_features) < NARROW else WIDE_RANK_QUANTUM


def candidate_ranks(in_features: int, out_features: int, *, pivots: bool = False) -> tuple[int, ...]:
    """Return the aligned ranks that save enough against the dense weight, rising; empty where none does.

    Ranks closely above a multiple of `INNER_BLOCK` are left out, for they take longer than they are worth.
    Where the form changes, the last pairs may cost as much as the first that is pivoted; those are left out, so that
    costs rise with the rank.
    """
    ranks: list[int] = []
    least = float(in_features * out_features)
    quantum = rank_quantum(in_features, out_features)
    for rank in range(min(in_features, out_features) // quantum * quantum, 0, -quantum):
        if rank > INNER_BLOCK and 0 < rank % INNER_BLOCK <= CLOSELY_ABOVE:
            continue
        form = chosen_form(rank, in_features, out_features, pivots=pivots)
        cost = folded_parameters(in_features, out_features, rank, form)
        if cost <= LARGEST_SHARE * in_features * out_features and cost < least:
            ranks.append(rank)
            least = cost
    return tuple(reversed(ranks))


def parameter_curve(
    site: str, sizes: tuple[int, int], tail: Callable[[int], float], *, blocks: int = 1, pivots: bool = False
) -> Curve:
    """Return a site's curve with parameters as cost and `tail(rank)` as error; `sizes` are (in, out) features."""
    folded = []
    for rank in candidate_ranks(*sizes, pivots=pivots):
        form = chosen_form(rank, *sizes, pivots=pivots)
        folded.append(Choice(rank, blocks * folded_parameters(*sizes, rank, form), tail(rank), form))
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
