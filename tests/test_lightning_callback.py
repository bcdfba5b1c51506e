"""The hooks of the Lightning callback: their names, their order, and what they do to the loss.

Lightning is no dependency; a stand-in calls the hooks as its trainer does. The page on training names the version that
the callback was run with.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from low_rank_examples import hooks
from torch import Tensor, nn

from rankfold.errors import OptionsError, RuntimeUnavailableError
from rankfold.training.lightning_callback import low_rank_callback
from rankfold.training.low_rank import LowRank
from rankfold.training.low_rank_term import low_rank_term

LOW_RANK = LowRank({"net.0": 3}, renew_every=2)


class Callback:
    """The part of Lightning's class that matters: every hook is there, and does nothing."""

    def on_fit_start(self, trainer: object, pl_module: object) -> None: ...
    def on_train_batch_start(self, trainer: object, pl_module: object, batch: object, batch_idx: int) -> None: ...
    def on_before_backward(self, trainer: object, pl_module: object, loss: Tensor) -> None: ...
    def on_validation_batch_end(self, *parts: object) -> None: ...
    def on_exception(self, trainer: object, pl_module: object, exception: BaseException) -> None: ...
    def teardown(self, trainer: object, pl_module: object, stage: str) -> None: ...
    def state_dict(self) -> dict[str, object]: ...
    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...


@pytest.fixture
def _lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    outer, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
    inner.Callback = Callback
    monkeypatch.setitem(sys.modules, "lightning", outer)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)


class Wrapped(nn.Module):
    """A module whose steps do not go through its own forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def inputs(seed: int) -> Tensor:
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))


def fit(callback: Callback, module: Wrapped, *, accumulated: int = 1, scale: float | None = None) -> list[Tensor]:
    """Call the hooks as Lightning's loop does: validation between two training batches; return the gradients."""
    scaler = None if scale is None else SimpleNamespace(get_scale=lambda: scale)
    trainer = SimpleNamespace(accumulate_grad_batches=accumulated, precision_plugin=SimpleNamespace(scaler=scaler))
    callback.on_fit_start(trainer, module)
    found = []
    for seed in range(3):
        callback.on_train_batch_start(trainer, module, inputs(seed), seed)
        loss = module.net(inputs(seed)).square().mean() / accumulated
        loss = loss if scale is None else loss * scale
        module.zero_grad()
        callback.on_before_backward(trainer, module, loss)
        loss.backward()
        found.append(module.net[0].weight.grad.clone())
        module.eval()
        module.net(inputs(10 + seed))
        callback.on_validation_batch_end(trainer, module, None, inputs(10 + seed), 0)
        module.train()
    callback.teardown(trainer, module, "fit")
    return found


def expected_gradients() -> list[Tensor]:
    module, found = Wrapped(), []
    with low_rank_term(module, LOW_RANK) as term:
        for seed in range(3):
            loss = module.net(inputs(seed)).square().mean() + term.loss()
            module.zero_grad()
            loss.backward()
            found.append(module.net[0].weight.grad.clone())
    return found


@pytest.mark.usefixtures("_lightning")
@pytest.mark.parametrize(("accumulated", "scale"), [(1, None), (4, None), (2, 1024.0)])
def test_the_callback_adds_the_term_in_the_loss_own_scale(accumulated: int, scale: float | None) -> None:
    module, callback = Wrapped(), low_rank_callback(LOW_RANK)
    assert isinstance(callback, Callback)
    found = fit(callback, module, accumulated=accumulated, scale=scale)
    for there, wanted in zip(found, expected_gradients(), strict=True):
        # Powers of two as factors change no bit but where a sum is taken in another order.
        torch.testing.assert_close(there * accumulated / (scale or 1), wanted, rtol=0, atol=1e-6)
    assert hooks(module) == 0
    assert callback.term.steps == 3
    assert set(callback.term.shares) == {"net.0"}


@pytest.mark.usefixtures("_lightning")
def test_a_callback_goes_on_from_a_checkpoint_and_lets_go_at_an_error() -> None:
    first, second = low_rank_callback(LOW_RANK), low_rank_callback(LOW_RANK)
    fit(first, Wrapped())
    second.load_state_dict(first.state_dict())
    assert second.term.steps == 3
    assert torch.equal(second.term.projections["net.0"].basis, first.term.projections["net.0"].basis)
    module = Wrapped()
    second.on_fit_start(SimpleNamespace(), module)
    second.on_exception(SimpleNamespace(), module, RuntimeError())
    assert hooks(module) == 0


@pytest.mark.usefixtures("_lightning")
def test_hooks_of_other_names_would_never_be_called() -> None:
    own = {name for name in vars(type(low_rank_callback(LOW_RANK)).__mro__[1]) if name.startswith("on_")}
    assert own <= set(vars(Callback))
    with pytest.raises(OptionsError, match=r"no module 'net\.9'"):
        low_rank_callback(LowRank({"net.9": 1})).on_fit_start(SimpleNamespace(), Wrapped())


def test_without_lightning_one_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeUnavailableError, match=r"needs lightning\.pytorch or pytorch_lightning, which is not"):
        low_rank_callback(LOW_RANK)
    with pytest.raises(RuntimeUnavailableError, match="needs pytorch_lightning, which is not installed"):
        low_rank_callback(LOW_RANK, package="pytorch_lightning")
