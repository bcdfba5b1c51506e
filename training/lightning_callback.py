"""The low-rank term as a callback of Lightning, which is no dependency and imported when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor

from rankfold.errors import RuntimeUnavailableError
from rankfold.training.low_rank import LowRank
from rankfold.training.low_rank_term import LowRankTerm

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def low_rank_callback(low_rank: LowRank, *, package: str | None = None) -> Any:
    """Return a callback for `Trainer(callbacks=[…])` that adds the term to the loss before each backward pass.

    Module names are those of the LightningModule, which optimizes automatically, in one process. The term counts in
    full in each batch; where gradients are accumulated over several, it is their mean as the loss is. Checkpoints keep
    its projections. The callback's `term` has the shares.

    Args:
        low_rank: The term's settings.
        package: `lightning.pytorch` or `pytorch_lightning`, the one that the trainer is of; None takes the first that
            is installed.

    Raises:
        RuntimeUnavailableError: Neither package is installed.
    """
    return type("LowRankCallback", (_LowRankHooks, _callback_class(package)), {})(low_rank)


def _callback_class(package: str | None) -> type:
    tried = _PACKAGES if package is None else (package,)
    for name in tried:
        try:
            found: type = import_module(name).Callback
        except ModuleNotFoundError as error:
            if error.name not in {name, name.partition(".")[0]}:
                raise  # it is there, and lacks something itself
            continue
        return found
    raise RuntimeUnavailableError(
        f"the low-rank callback needs {' or '.join(tried)}, which is not installed; run pip install lightning, or use "
        "rankfold.training.low_rank_term in a training loop of your own"
    )


class _LowRankHooks:
    """The hooks that Lightning calls, by its names."""

    def __init__(self, low_rank: LowRank) -> None:
        super().__init__()
        self.term = LowRankTerm(low_rank)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Put the term's hooks on the module."""
        self.term.attach(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Forget other passes: a module's steps need not go through its own `forward`."""
        self.term.forget()

    def on_validation_batch_end(self, *_of_the_batch: Any) -> None:
        """Forget the batch's activations: nothing asks for their term."""
        self.term.forget()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:  # noqa: ARG002
        """Add the term to a loss that is divided by the batches accumulated and scaled for float16 already.

        In place, since Lightning goes on with the tensor it has; it is a quotient or a product, whose backward pass
        does not need its value.
        """
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        loss.add_(self.term.loss() * (scale / trainer.accumulate_grad_batches))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Take the hooks off."""
        self.term.detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Take the hooks off."""
        self.term.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self.term.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.term.load_state_dict(state_dict)
