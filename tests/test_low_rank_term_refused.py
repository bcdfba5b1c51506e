"""What the low-rank term refuses: settings, modules and activations that make no sense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from low_rank_examples import HIDDEN, hooks, inputs, network
from torch import Tensor, nn

from rankfold.errors import OptionsError
from rankfold.training.low_rank import LowRank
from rankfold.training.low_rank_term import LowRankTerm, low_rank_term

WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: LowRank({}), "no modules"),
    (lambda: LowRank({"0": 0}), "rank 0 of '0'; expected 1 at least"),
    (lambda: LowRank({"0": 2}, weight=-1.0), r"weight is -1\.0"),
    (lambda: LowRank({"0": 2}, norm_weight=float("nan")), "norm_weight is nan"),
    (lambda: LowRank({"0": 2}, renew_every=0), "renew_every is 0"),
    (lambda: LowRank({"0": 2}, memory=1.0), r"memory is 1\.0"),
    (lambda: LowRank({"0": 2}, method="svd"), "method is 'svd'; expected one of exact, randomized, nystrom"),
    (lambda: LowRank({"0": 2}, norm="none"), "norm is 'none'; expected one of floor, unit"),
    (lambda: LowRank({"0": 2}, rows="all"), "rows is 'all'; expected one of positions, samples"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        make()


def test_an_unknown_module_is_named_with_near_ones() -> None:
    model = nn.ModuleDict({"layer1": nn.ReLU(), "layer2": nn.ReLU(), "head": nn.ReLU()})
    with pytest.raises(OptionsError, match=r"no module 'layer3'; near it, or among all, are layer[12], layer[12]$"):
        LowRankTerm(LowRank({"layer3": 2})).attach(model)
    assert hooks(model) == 0
    term = LowRankTerm(LowRank({"head": 2}))
    term.attach(model)
    with pytest.raises(OptionsError, match="on a model already"):
        term.attach(model)


def loss_of(model: nn.Module, settings: LowRank, given: Tensor) -> Tensor:
    with low_rank_term(model, settings) as term:
        model(given)
        return term.loss()


def test_what_cannot_be_is_refused() -> None:
    model = network()
    with pytest.raises(OptionsError, match="module '0', whose activations have 12 features; expected 1 to 11"):
        loss_of(model, LowRank({"0": 12}), inputs())
    with pytest.raises(OptionsError, match="module '0' gave 4 rows for rank 4; expected more rows"):
        loss_of(model, HIDDEN, inputs(4))
    with pytest.raises(OptionsError, match="activations of module '0' are not finite"):
        loss_of(model, HIDDEN, inputs() * float("nan"))
    with pytest.raises(OptionsError, match="no projection of '0' yet; take a step in training mode"):
        loss_of(network().eval(), HIDDEN, inputs())
    with low_rank_term(model, HIDDEN) as term, pytest.raises(OptionsError, match="module '0' has not run since"):
        term.loss()
    spoiling = nn.Sequential(nn.Linear(6, 12), nn.ReLU(inplace=True))
    with pytest.raises(OptionsError, match="output of module '0' was changed in place after it"):
        loss_of(spoiling, HIDDEN, inputs())
    pair = nn.Sequential(nn.LSTM(6, 12))
    with pytest.raises(OptionsError, match="module '0' returns a tuple; expected one tensor"):
        loss_of(pair, HIDDEN, inputs())
    flat = nn.Sequential(nn.Flatten(0))
    with pytest.raises(OptionsError, match=r"module '0' returns a tensor \(240,\) of float32; expected one tensor"):
        loss_of(flat, HIDDEN, inputs())
