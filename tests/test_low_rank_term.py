"""A loss term on activations: its value and gradient, its hooks, and going on after an interruption."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from low_rank_examples import HIDDEN, hooks, inputs, network
from torch import Tensor, nn

from rankfold.errors import OptionsError
from rankfold.training.low_rank import LowRank
from rankfold.training.low_rank_term import LowRankTerm, low_rank_term


def through_memory(state: dict[str, object], path: Path) -> dict[str, object]:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("norm", ["floor", "unit"])
@pytest.mark.parametrize("rows", ["positions", "samples"])
def test_value_and_gradient_are_those_of_the_formula(norm: str, rows: str) -> None:
    """Written out for one activation a (samples, channels, places), z = a - μ: with the projection held constant,

    `∂/∂a w mean ‖z - PPᵀz‖² / s = 2 w (z - PPᵀz) / (n s)`, and `∂/∂a v mean |1 - ‖z‖²| = -2 v sign(1 - ‖z‖²) z / n`,
    or `-2 v z / (n s)` where the mean squared norm is below s, else 0.
    """
    model = nn.Identity().double()
    outer = nn.Sequential(model)
    activation = 0.3 * torch.randn(30, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    settings = LowRank({"0": 2}, weight=0.7, norm_weight=0.2, norm=norm, rows=rows, renew_every=2)
    with low_rank_term(outer, settings) as term:
        outer(2 * activation)
        term.loss()
        given = activation.clone().requires_grad_()
        outer(given)
        value = term.loss()  # no renewal at this step
        value.backward()
        projection = term.projections["0"]
    z = (activation.movedim(1, -1).reshape(-1, 4) if rows == "positions" else activation.flatten(1)) - projection.mean
    count, energies = len(z), z.square().sum(1)
    residual = z - z @ projection.basis @ projection.basis.T
    if norm == "unit":
        expected = 0.7 * residual.square().sum(1).mean() + 0.2 * (1 - energies).abs().mean()
        slope = (2 * 0.7 * residual - 2 * 0.2 * (1 - energies).sign()[:, None] * z) / count
    else:
        scale = projection.scale
        assert energies.mean() < scale
        expected = 0.7 * residual.square().sum(1).mean() / scale + 0.2 * (1 - energies.mean() / scale)
        slope = (2 * 0.7 * residual - 2 * 0.2 * z) / (count * scale)
    slope = slope.reshape(30, 2, 2, 4).movedim(-1, 1) if rows == "positions" else slope.reshape(activation.shape)
    # Sums of a hundred numbers about 1, in another order: some tens of units of 2.2e-16.
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(given.grad, slope, rtol=0, atol=1e-14)
    assert not any(part.requires_grad for part in (projection.basis, projection.mean, projection.scale))


def test_a_norm_above_the_floor_costs_nothing() -> None:
    outer = nn.Sequential(nn.Identity())
    only_norm = LowRank({"0": 2}, weight=0.0, renew_every=100)
    with low_rank_term(outer, only_norm) as term:
        outer(inputs())
        first = term.loss()
        outer(3 * inputs())
        above = term.loss()
        outer(0.5 * inputs())
        below = term.loss()
    assert float(first) == pytest.approx(0.0, abs=1e-6)  # 1 less a mean of 40 squares by itself, in float32
    assert float(above) == 0.0
    # The mean of 40 rows is one of 6 unknowns short of its own: (x/2 - μ) has .25 of the spread and .25 ‖μ‖² more.
    spread, mean = float((inputs() - inputs().mean(0)).square().sum(1).mean()), float(inputs().mean(0).square().sum())
    assert float(below) == pytest.approx(1 - (0.25 * spread + 0.25 * mean) / spread, abs=1e-6)


@pytest.mark.parametrize("method", ["exact", "randomized", "nystrom"])
def test_activations_of_a_known_rank_cost_nothing(method: str) -> None:
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU())
    with low_rank_term(model, LowRank({"0": 3}, norm_weight=0.0, method=method)) as term:
        model(inputs(features=3))
        # Squares of float32's rounding, 6e-8, some units of it, as a share: far below 1e-12.
        assert 0 <= float(term.loss().detach()) < 1e-12
        assert term.shares["0"] < 1e-12


def test_projections_are_renewed_in_training_alone_every_so_many_steps() -> None:
    model = network()
    with low_rank_term(model, HIDDEN) as term:
        seen = []
        for seed, training in enumerate([True, False, False, True, True, False, True]):
            model.train(training)
            model(inputs(seed=seed))
            term.loss()
            seen.append((term.steps, term.projections["0"].renewals))
    assert seen == [(1, 1), (1, 1), (1, 1), (2, 1), (3, 2), (3, 2), (4, 2)]


def test_a_module_that_runs_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner(2 * x)

    twice, once = Twice(), nn.Sequential(nn.Identity())
    with low_rank_term(twice, LowRank({"inner": 2})) as one, low_rank_term(once, LowRank({"0": 2})) as other:
        twice(inputs())
        once(torch.cat([inputs(), 2 * inputs()]))
        assert torch.equal(one.loss(), other.loss())


def test_several_modules_add_up() -> None:
    model = network()
    values = []
    for ranks in ({"0": 4, "2": 1}, {"0": 4}, {"2": 1}):
        with low_rank_term(model, LowRank(ranks)) as term:
            model(inputs())
            values.append(float(term.loss().detach()))
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-6)  # float32's rounding of two numbers


def test_a_pass_whose_loss_nobody_asked_for_is_let_go() -> None:
    model = network()
    values = []
    for passes in ([0], [1, 2, 0]):
        with low_rank_term(model, HIDDEN) as term:
            for seed in passes:
                model(inputs(seed=seed))
            values.append(term.loss())
    assert torch.equal(*values)


def test_under_autocast_the_term_is_float32() -> None:
    model, term = network(), LowRankTerm(HIDDEN)
    term.attach(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = model[0](inputs())
        loss = term.loss()
    assert made.dtype == torch.bfloat16
    assert (loss.dtype, term.projections["0"].basis.dtype) == (torch.float32, torch.float32)
    fresh = LowRankTerm(LowRank({"0": 4}))
    outer = nn.Sequential(nn.Identity())
    fresh.attach(outer)
    outer(made.float())
    assert torch.equal(loss, fresh.loss())
    loss.backward()
    assert model[0].weight.grad.abs().max() > 0


def test_hooks_are_gone_afterwards_and_random_numbers_untouched() -> None:
    model = network()
    before = torch.get_rng_state()
    with low_rank_term(model, HIDDEN) as term:
        assert hooks(model) == 2
        model(inputs())
        term.loss()
    assert torch.equal(torch.get_rng_state(), before)
    assert hooks(model) == 0
    with pytest.raises(ZeroDivisionError), low_rank_term(model, HIDDEN):
        _ = 1 / 0
    assert hooks(model) == 0
    with pytest.raises(OptionsError, match="it is on no model; attach it"):
        term.loss()


def train(model: nn.Module, term: LowRankTerm, steps: range, optimizer: torch.optim.Optimizer) -> None:
    for seed in steps:
        x = inputs(seed=seed)
        loss = nn.functional.mse_loss(model(x), x[:, :3]) + term.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("method", ["randomized", "nystrom"])
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path, method: str) -> None:
    settings = replace(HIDDEN, method=method, renew_every=3)
    whole, part = network(), network()
    term = LowRankTerm(settings)
    term.attach(whole)
    train(whole, term, range(9), torch.optim.SGD(whole.parameters(), lr=0.1))
    first = LowRankTerm(settings)
    first.attach(part)
    train(part, first, range(5), torch.optim.SGD(part.parameters(), lr=0.1))
    resumed_model = network(seed=7)
    resumed_model.load_state_dict(deepcopy(part.state_dict()))
    resumed = LowRankTerm(settings)
    resumed.load_state_dict(through_memory(first.state_dict(), tmp_path / "term.pt"))
    assert resumed.shares == first.shares
    resumed.attach(resumed_model)
    train(resumed_model, resumed, range(5, 9), torch.optim.SGD(resumed_model.parameters(), lr=0.1))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed_model.state_dict()[name])
    assert torch.equal(term.projections["0"].carried, resumed.projections["0"].carried)
    with pytest.raises(OptionsError, match=r"saved state is of .*'memory': 0\.9.*give the same settings"):
        LowRankTerm(replace(settings, memory=0.5)).load_state_dict(first.state_dict())


def effective_rank(rows: Tensor) -> float:
    """Return exp of the entropy of the covariance's eigenvalues as shares."""
    shares = torch.linalg.eigvalsh(torch.cov(rows.T.double())).clamp_min(1e-300)
    shares = shares / shares.sum()
    return float((-(shares * shares.log()).sum()).exp())


def test_the_term_lowers_the_rank_of_what_it_is_on() -> None:
    """The same network, data and steps, with the term's weight 0 or 1; sizes do not vanish."""
    ranks, sizes = [], []
    for weight in (0.0, 1.0):
        model = network()
        with low_rank_term(model, LowRank({"0": 2}, weight=weight, norm_weight=weight)) as term:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            train(model, term, range(200), optimizer)
        rows = model[0](inputs(400, seed=1000)).detach()
        ranks.append(effective_rank(rows))
        sizes.append(float((rows - rows.mean(0)).square().sum(1).mean()))
    # Six inputs of equal variance into twelve features: near 5 of 6 without; the term asks for 2.
    assert ranks[0] > 4
    assert ranks[1] < 2.5
    assert sizes[1] > 0.5 * sizes[0]
