"""Choosing ranks: never over the budget, more budget never worse, plans that contain one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfold.errors import PlanError
from rankfold.passes.allocate import (
    COPIED_FEATURE,
    LARGEST_SHARE,
    LEAST_PIVOT_SAVING,
    MOST_COPYING,
    Choice,
    Curve,
    allocate,
    candidate_ranks,
    chosen_form,
    parameter_curve,
    rank_quantum,
    within_error,
)

few = settings(max_examples=60, deadline=None)


def curve(name: str, fan_in: int, fan_out: int, seed: int) -> Curve:
    """Return the curve of a spectrum that falls at random."""
    values = np.sort(np.random.default_rng(seed).exponential(size=min(fan_in, fan_out)))[::-1]
    tails = np.append(np.cumsum(values[::-1])[::-1] / values.sum(), 0.0)
    return parameter_curve(name, (fan_in, fan_out), lambda rank: float(tails[rank]))


@st.composite
def models(draw: st.DrawFn) -> list[Curve]:
    sides = st.sampled_from([8, 16, 20, 33, 64, 96])
    shapes = draw(st.lists(st.tuples(sides, sides, st.integers(0, 99)), min_size=1, max_size=6))
    return [curve(f"s{place}", *shape) for place, shape in enumerate(shapes)]


def dense(curves: list[Curve]) -> float:
    return sum(one.dense.cost for one in curves)


def least(curves: list[Curve]) -> float:
    return sum(one.choices[0].cost for one in curves)


def spent(choices: dict[str, Choice]) -> float:
    return sum(choice.cost for choice in choices.values())


def error(choices: dict[str, Choice]) -> float:
    return sum(choice.error for choice in choices.values())


@few
@given(models(), st.floats(0, 1))
def test_a_plan_is_never_over_its_budget(curves: list[Curve], share: float) -> None:
    budget = least(curves) + share * (dense(curves) - least(curves))
    chosen = allocate(curves, budget)
    assert list(chosen) == [one.site for one in curves]
    assert spent(chosen) <= budget
    assert all(chosen[one.site] in one.choices for one in curves)


@few
@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_budget_contains_the_smaller_ones_plan(curves: list[Curve], first: float, second: float) -> None:
    low, high = sorted(least(curves) + share * (dense(curves) - least(curves)) for share in (first, second))
    small, large = allocate(curves, low), allocate(curves, high)
    assert error(large) <= error(small)
    for one in curves:
        assert one.choices.index(small[one.site]) <= one.choices.index(large[one.site])


@few
@given(models())
def test_the_whole_budget_keeps_everything_and_the_least_the_least(curves: list[Curve]) -> None:
    assert all(choice.rank is None for choice in allocate(curves, dense(curves)).values())
    assert spent(allocate(curves, least(curves))) == least(curves)


@few
@given(models())
def test_less_than_the_least_is_refused(curves: list[Curve]) -> None:
    with pytest.raises(PlanError, match="cannot be met: the smallest ranks together cost"):
        allocate(curves, least(curves) - 1)


@few
@given(models(), st.floats(0.3, 1))
def test_the_budget_is_used_but_for_less_than_the_largest_step(curves: list[Curve], share: float) -> None:
    budget = max(share * dense(curves), least(curves))
    steps = [b.cost - a.cost for one in curves for a, b in zip(one.choices, one.choices[1:], strict=False)]
    assert budget - spent(allocate(curves, budget)) < max(steps, default=dense(curves) + 1)


def test_ratios_are_uniform_to_half_a_step() -> None:
    curves = [curve("a", 256, 256, 1), curve("b", 128, 512, 2), curve("c", 512, 512, 3)]
    chosen = allocate(curves, 0.5 * dense(curves))
    for one in curves:
        step = one.choices[1].cost - one.choices[0].cost
        # Every step is due at its middle: at one level each site is within half its own step, and the last step
        # that did not fit leaves at most half of another.
        assert abs(chosen[one.site].cost - 0.5 * one.dense.cost) <= step


def test_of_steps_due_at_once_the_more_useful_comes_first() -> None:
    flat, steep = (
        Curve(name, (Choice(8, 8.0, gain), Choice(16, 16.0, 0.0), Choice(None, 32.0, 0.0)))
        for name, gain in (("flat", 0.1), ("steep", 0.9))
    )
    chosen = allocate([flat, steep], 24.0)
    assert (chosen["flat"].rank, chosen["steep"].rank) == (8, 16)


@few
@given(st.integers(1, 300), st.integers(1, 300))
def test_ranks_are_multiples_of_the_quantum_and_save(fan_in: int, fan_out: int) -> None:
    ranks = candidate_ranks(fan_in, fan_out)
    quantum = rank_quantum(fan_in, fan_out)
    assert all(rank % quantum == 0 and rank > 0 for rank in ranks)
    assert all(rank * (fan_in + fan_out) <= LARGEST_SHARE * fan_in * fan_out for rank in ranks)
    assert list(ranks) == sorted(set(ranks))
    following = (ranks[-1] if ranks else 0) + quantum
    assert following * (fan_in + fan_out) > LARGEST_SHARE * fan_in * fan_out  # none is left out


@few
@given(st.integers(1, 1000), st.integers(1, 4000))
def test_with_pivots_every_rank_has_one_form_and_costs_rise(fan_in: int, fan_out: int) -> None:
    found = parameter_curve("a", (fan_in, fan_out), lambda _: 0.5, blocks=3, pivots=True)
    *folded, dense = found.choices
    assert dense == Choice(None, 3 * fan_in * fan_out, 0.0)
    costs = [choice.cost for choice in found.choices]
    assert costs == sorted(set(costs))
    for choice in folded:
        assert choice.rank is not None
        assert choice.rank % rank_quantum(fan_in, fan_out) == 0
        assert not 256 < choice.rank <= 288
        narrower, without = min(fan_in, fan_out), choice.rank * (fan_in + fan_out - choice.rank)
        saves = choice.rank >= LEAST_PIVOT_SAVING * (fan_in + fan_out) and choice.rank < narrower
        pivoted = saves and COPIED_FEATURE * narrower <= MOST_COPYING * without
        assert choice.form == ("pivoted" if pivoted else "pair")
        assert choice.cost == 3 * (without + (not pivoted) * choice.rank**2)
        assert choice.cost <= LARGEST_SHARE * dense.cost
    assert len(folded) >= len(candidate_ranks(fan_in, fan_out)) - 1  # one pair at most gives way to a pivoted fold


def test_pivoted_ranks_reach_further() -> None:
    # 768 · 3072 at three quarters of its parameters: 448 · 3,840 = 1,720,320 as a pair, 512 · 3,328 = 1,703,936
    # pivoted.
    found = parameter_curve("a", (768, 3072), lambda _: 0.5, pivots=True)
    affordable = [choice for choice in found.choices if choice.cost <= 0.75 * 768 * 3072]
    assert (affordable[-1].rank, affordable[-1].form, affordable[-1].cost) == (512, "pivoted", 1_703_936)


def test_where_copying_takes_long_pairs_are_offered() -> None:
    # Copying 384 features takes as long as 17,280 multiply-adds, a 32nd of 552,960; of 384 · 1536 = 589,824 a fold
    # keeps four fifths at most.
    found = parameter_curve("a", (384, 1536), lambda _: 0.5, pivots=True)
    assert {choice.form for choice in found.choices} == {"pair"}
    assert chosen_form(256, 768, 768, pivots=True) == "pair"
    assert chosen_form(512, 2048, 2048, pivots=True) == "pair"
    assert chosen_form(1024, 2048, 2048, pivots=True) == "pivoted"


def test_small_sites_offer_nothing() -> None:
    assert candidate_ranks(16, 16) == ()
    assert curve("a", 16, 16, 0).choices == (Choice(None, 256, 0.0),)


@few
@given(models(), st.floats(0, 1))
def test_within_error_takes_the_cheapest_that_is_good_enough(curves: list[Curve], allowed: float) -> None:
    chosen = within_error(curves, allowed)
    for one in curves:
        assert chosen[one.site].error <= allowed
        cheaper = one.choices[: one.choices.index(chosen[one.site])]
        assert all(choice.error > allowed for choice in cheaper)


def test_any_cost_and_any_error_will_do() -> None:
    # Milliseconds and a measured sensitivity, say.
    curves = [
        Curve("a", (Choice(8, 0.1, 0.4), Choice(24, 0.3, 0.05), Choice(None, 0.35, 0.0))),
        Curve("b", (Choice(16, 1.0, 0.2), Choice(None, 3.0, 0.0))),
    ]
    chosen = allocate(curves, 1.4)
    assert (chosen["a"].rank, chosen["b"].rank) == (None, 16) or spent(chosen) <= 1.4
    assert spent(chosen) == pytest.approx(1.3, rel=0, abs=1e-12)  # sums of four decimals
