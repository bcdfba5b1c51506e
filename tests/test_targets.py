"""The smallest plan within a limit, against the optimum that enumeration finds on the same samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from target_examples import LAYERS, Enumerated, enumerated

from rankfold import answers
from rankfold.errors import PlanError
from rankfold.passes.allocate import Curve
from rankfold.search import Search
from rankfold.targets import Reached, Target, cost_of, smallest

SEEDS = (0, 1, 2)
MEASURED = answers._MOST_MEASURED + answers._MORE_PER_SITE * LAYERS


@pytest.fixture(scope="module", params=SEEDS)
def every(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enumerated]:
    with enumerated(tmp_path_factory.mktemp("chain"), request.param) as found:
        yield found


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enumerated]:
    with enumerated(tmp_path_factory.mktemp("chain"), 7) as found:
        yield found


def errors(every: Enumerated) -> NDArray[np.float64]:
    away = every.outputs - every.outputs[-1]
    return np.sqrt(np.einsum("psf,psf->p", away, away) / np.sum(every.outputs[-1] ** 2)).astype(np.float64)


def drops(every: Enumerated) -> NDArray[np.float64]:
    """Return by how many points the mean cosine to label vectors falls: the original's outputs, with noise."""
    original = every.outputs[-1]
    noise = np.random.default_rng(7).standard_normal(original.shape)
    labels = original + 0.5 * original.std() * noise
    lengths = np.sqrt(np.einsum("psf,psf->ps", every.outputs, every.outputs)) * np.linalg.norm(labels, axis=1)
    cosines = 100 * (np.einsum("psf,sf->ps", every.outputs, labels) / lengths).mean(1)
    return cosines[-1] - cosines


def reached(every: Enumerated, losses: NDArray[np.float64], limit: float, *, rough: bool) -> Reached:
    most, last = (answers._MOST_EVALUATED, answers._LAST_EVALUATED) if rough else (MEASURED, answers._LAST_MEASURED)
    target = Target(lambda plan: float(losses[every.place(plan)]), limit, most, last, answers._ROUGH if rough else 0.0)
    return smallest(every.fresh, target, rounds=every.known.study.rounds)


def test_the_enumeration_is_what_the_session_computes(every: Enumerated) -> None:
    lab, expected = every.search.lab, errors(every)
    assert len(every.plans) == 7**LAYERS
    for place in (0, 4000, 9999, len(every.plans) - 1):
        by_session = np.sqrt(lab.loss(every.plans[place], lab.comparing))
        # both in float32, through five layers of 88 products
        assert expected[every.place(every.plans[place])] == pytest.approx(by_session, abs=1e-4)


@pytest.mark.parametrize("limit", [0.03, 0.1, 0.2, 0.4])
def test_an_error_is_met_with_the_fewest_parameters(every: Enumerated, limit: float) -> None:
    losses = errors(every)
    found = reached(every, losses, limit, rough=False)
    optimum = every.costs[losses <= limit].min()
    assert found.lost == losses[every.place(found.plan)] <= limit
    assert optimum <= found.cost == cost_of(found.plan) <= optimum + every.quantum
    assert found.measured <= MEASURED


@pytest.mark.parametrize("limit", [0.2, 1.0, 4.0])
def test_a_drop_is_met_with_few_evaluations(every: Enumerated, limit: float) -> None:
    losses = drops(every)
    found = reached(every, losses, limit, rough=True)
    optimum = every.costs[losses <= limit].min()
    assert found.lost <= limit
    assert found.cost <= optimum + every.quantum
    assert found.measured <= answers._MOST_EVALUATED


def test_one_step_further_is_the_least_bad_of_the_smaller_plans_measured(one: Enumerated) -> None:
    losses, limit = errors(one), 0.1
    found = reached(one, losses, limit, rough=False)
    assert found.next_plan is not None
    assert found.next_lost == losses[one.place(found.next_plan)] > limit
    assert cost_of(found.next_plan) < found.cost


def test_without_rounds_all_layers_have_one_ratio(one: Enumerated) -> None:
    losses = errors(one)
    target = Target(lambda plan: float(losses[one.place(plan)]), 0.1, 40, 0)
    found = smallest(one.fresh, target, rounds=0)
    shares = [choice.cost / one.search.curves[0].dense.cost for choice in found.plan.values()]
    # every layer is as large as the others, so that they are a step apart at most; the last step is to staying dense
    assert max(shares) - min(shares) <= one.quantum / one.search.curves[0].dense.cost
    assert found.lost <= 0.1
    assert found.cost >= reached(one, losses, 0.1, rough=False).cost


def test_a_limit_that_no_fold_keeps_is_refused_with_what_the_best_loses(one: Enumerated) -> None:
    losses = errors(one)
    with pytest.raises(PlanError, match=r"no fold keeps the limit of 1e-09: the least that any plan tried loses"):
        reached(one, losses, 1e-9, rough=False)


def test_a_loss_that_is_infinite_keeps_no_limit(one: Enumerated) -> None:
    losses = np.where(np.arange(len(one.plans)) % 2, errors(one), np.inf)
    found = reached(one, losses, 0.3, rough=False)
    assert one.place(found.plan) % 2


def test_a_layer_that_can_only_stay_dense_is_left_so(one: Enumerated) -> None:
    first, *others = one.search.curves
    search = Search(one.search.lab, (Curve(first.site, (first.dense,)), *others))
    losses = errors(one)
    target = Target(lambda plan: float(losses[one.place(plan)]), 0.2, MEASURED, answers._LAST_MEASURED)
    found = smallest(search, target, rounds=1)
    assert found.plan[first.site] == first.dense
    fixed = np.array([plan[first.site].rank is None for plan in one.plans])
    assert found.cost <= one.costs[fixed & (losses <= 0.2)].min() + one.quantum
