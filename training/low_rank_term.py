"""A loss term that pushes chosen activations of any torch module toward low rank, by forward hooks alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rankfold.errors import OptionsError
from rankfold.training.low_rank import LowRank, distance
from rankfold.training.low_rank_projection import Projection, as_rows, renewed


class LowRankTerm:
    """The term of one training: what its hooks keep of a forward pass, and the projections.

    `shares` holds, by module, the energy outside of the projection at the last call of `loss`, as a share of all.
    """

    def __init__(self, low_rank: LowRank) -> None:
        self.low_rank = low_rank
        self.steps = 0  # calls of `loss` in training mode
        self.projections: dict[str, Projection] = {}
        self._shares: dict[str, Tensor] = {}
        self._kept: dict[str, list[tuple[Tensor, int]]] = {}
        self._handles: list[RemovableHandle] = []
        self._model: nn.Module | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of each module's energy that lay outside of its projection."""
        return {name: float(share) for name, share in self._shares.items()}

    def attach(self, model: nn.Module) -> None:
        """Put hooks on a model's modules.

        Raises:
            OptionsError: The model has no module of a name, or the term is on a model already.
        """
        if self._handles:
            raise OptionsError("low-rank term: it is on a model already; detach it first")
        modules = dict(model.named_modules())
        for name in self.low_rank.ranks:
            if name not in modules:
                raise OptionsError(_unknown(name, [known for known in modules if known]))
        self._model = model
        self._handles = [model.register_forward_pre_hook(lambda _model, _given: self.forget())]
        self._handles += [modules[name].register_forward_hook(self._keeper(name)) for name in self.low_rank.ranks]

    def detach(self) -> None:
        """Take all hooks off the model, and let go of what they kept; projections stay."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._model = [], None
        self._kept.clear()

    def loss(self) -> Tensor:
        """Return the term () of the last forward pass: all modules' errors and norm terms by their weights, summed.

        Gradients flow to the activations alone. In training mode every `renew_every`-th call renews the projections
        first, from these very activations; in evaluation mode they stay as they are. Sums are float32 or wider,
        inside autocast too.

        Raises:
            OptionsError: A module did not run since the last call, changed its output later or has none of a size that
                the rank fits; or there is no projection yet and the model is in evaluation mode.
        """
        if self._model is None:
            raise OptionsError("low-rank term: it is on no model; attach it, or call it inside of low_rank_term(...)")
        training = self._model.training
        kept = {name: self._taken(name) for name in self.low_rank.ranks}
        parts: list[Tensor] = []
        for name, activations in kept.items():
            with torch.autocast(activations[0].device.type, enabled=False):
                rows = torch.cat([as_rows(activation, self.low_rank.rows) for activation in activations])
                parts.append(self._part(name, rows, training=training))
        self.steps += training
        self._kept.clear()
        return torch.stack(parts).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return what a training goes on from to the same bits: settings, steps and projections."""
        return {
            "settings": _plain(self.low_rank),
            "steps": self.steps,
            "projections": {name: _fields(projection) for name, projection in self.projections.items()},
            "shares": dict(self._shares),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            OptionsError: It is that of a term with other settings.
        """
        if state["settings"] != _plain(self.low_rank):
            raise OptionsError(
                f"low-rank term: the saved state is of {state['settings']}, not of {_plain(self.low_rank)}; "
                "give the same settings, or begin anew"
            )
        self.steps = state["steps"]
        self.projections = {name: Projection(**parts) for name, parts in state["projections"].items()}
        self._shares = dict(state["shares"])

    def forget(self) -> None:
        """Let go of what hooks kept of earlier passes; each forward pass of the model as a whole begins with it."""
        self._kept.clear()

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _given: object, made: object) -> None:
            if not isinstance(made, Tensor) or not made.is_floating_point() or made.ndim < 2:
                raise OptionsError(
                    f"low-rank term: module {name!r} returns {_described(made)}; expected one tensor of numbers, "
                    "samples first; name a module inside of it, or the one after it"
                )
            self._kept.setdefault(name, []).append((made, _version(made)))

        return keep

    def _taken(self, name: str) -> list[Tensor]:
        kept = self._kept.get(name)
        if not kept:
            raise OptionsError(f"low-rank term: module {name!r} has not run since the last loss; run the model first")
        if any(_version(activation) != version for activation, version in kept):
            raise OptionsError(
                f"low-rank term: the output of module {name!r} was changed in place after it; name the module that "
                "changed it (an activation with inplace=True, say), or set inplace=False there"
            )
        return [activation for activation, _ in kept]

    def _part(self, name: str, rows: Tensor, *, training: bool) -> Tensor:
        projection = self.projections.get(name)
        if projection is not None:
            projection = _like(projection, rows)
        if training and self.steps % self.low_rank.renew_every == 0:
            _check_rows(name, self.low_rank.ranks[name], rows, first=projection is None)
            projection = renewed(projection, rows, self.low_rank.renewal(name))
        if projection is None:
            raise OptionsError(f"low-rank term: no projection of {name!r} yet; take a step in training mode first")
        self.projections[name] = projection
        found = distance(rows, projection, self.low_rank.norm)
        self._shares[name] = found.share
        return self.low_rank.weight * found.reconstruction + self.low_rank.norm_weight * found.norm


@contextmanager
def low_rank_term(model: nn.Module, low_rank: LowRank) -> Iterator[LowRankTerm]:
    """Hold a term whose hooks are on a model, and taken off in the end.

    ```
    with low_rank_term(model, LowRank({"layer3": 32})) as term:
        loss = criterion(model(x), y) + term.loss()
    ```

    Raises:
        OptionsError: As `LowRankTerm.attach` does.
    """
    term = LowRankTerm(low_rank)
    term.attach(model)
    try:
        yield term
    finally:
        term.detach()


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3) or known[:8]
    return f"low-rank term: the model has no module {name!r}; near it, or among all, are {', '.join(near)}"


def _check_rows(name: str, rank: int, rows: Tensor, *, first: bool) -> None:
    count, features = rows.shape
    if rank >= features:
        raise OptionsError(
            f"low-rank term: rank {rank} of module {name!r}, whose activations have {features} features; "
            f"expected 1 to {features - 1}"
        )
    if first and count <= rank:
        raise OptionsError(
            f"low-rank term: module {name!r} gave {count} rows for rank {rank}; expected more rows than that; "
            "give larger batches, or rows='positions'"
        )
    if not rows.isfinite().all():
        raise OptionsError(
            f"low-rank term: activations of module {name!r} are not finite: training has diverged; lower the learning "
            "rate or the term's weights"
        )


def _described(made: object) -> str:
    if isinstance(made, Tensor):
        return f"a tensor {tuple(made.shape)} of {str(made.dtype).removeprefix('torch.')}"
    return f"a {type(made).__name__}"


def _version(activation: Tensor) -> int:
    return 0 if activation.is_inference() else activation._version  # noqa: SLF001  # as autograd itself checks it


def _fields(projection: Projection) -> dict[str, Any]:
    return {field.name: getattr(projection, field.name) for field in fields(projection)}


def _plain(low_rank: LowRank) -> dict[str, Any]:
    return asdict(replace(low_rank, ranks=dict(low_rank.ranks)))


def _like(projection: Projection, rows: Tensor) -> Projection:
    """Return a projection on the device of rows, and of their type."""
    basis, mean, carried, scale = (
        part.to(rows) for part in (projection.basis, projection.mean, projection.carried, projection.scale)
    )
    return Projection(basis, mean, carried, scale, projection.renewals)
