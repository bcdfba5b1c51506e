"""What is asked of activations that are trained toward low rank, and how far they are from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from rankfold.errors import OptionsError
from rankfold.training.low_rank_projection import Method, Projection, Renewal, Rows

Norm = Literal["floor", "unit"]
_TINY = 1e-12  # below the mean squared norm of activations that matter, above what divides to infinity in float32


@dataclass(frozen=True)
class LowRank:
    """A training term that pushes activations toward low rank.

    The idea is that of Sanyal, Kanade, Torr and Dokania 2018 (arXiv 1804.07090). Every default and every form here is
    our choice.

    Attributes:
        ranks: The rank of each module's activations, by the module's name in `model.named_modules()`.
        weight, norm_weight: Of the reconstruction's error, and of the term that keeps norms.
        norm: `floor`: rows' mean squared norm shall not fall below that of the first batch; both terms are shares of
            that. `unit`: each row shall have norm 1, the paper's; both terms are as they come.
        renew_every: Steps from one renewal of the projection to the next.
        memory: Weight of the batches before at a renewal, from 0 (the newest batch alone) to below 1.
        method: `randomized`, `nystrom` or `exact`.
        rows: `positions`: a row is one place of one sample, its features the channels, as folding needs it;
            `samples`: a row is all of a sample's numbers.
        centred: Whether rows are taken about their mean; norms are then those about the mean.
        seed: Of the method's draws, which leave torch's own random numbers alone.
    """

    ranks: Mapping[str, int]
    weight: float = 1.0
    norm_weight: float = 1.0
    norm: Norm = "floor"
    renew_every: int = 10
    memory: float = 0.9
    method: Method = "randomized"
    rows: Rows = "positions"
    centred: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ranks:
            raise OptionsError("low-rank term: no modules; give at least one name with its rank, such as layer3: 32")
        for name, rank in self.ranks.items():
            if rank < 1:
                raise OptionsError(f"low-rank term: rank {rank} of {name!r}; expected 1 at least")
        for field in ("weight", "norm_weight"):
            if not 0 <= getattr(self, field) < math.inf:
                raise OptionsError(f"low-rank term: {field} is {getattr(self, field)}; expected a number from 0 on")
        if self.renew_every < 1:
            raise OptionsError(f"low-rank term: renew_every is {self.renew_every}; expected 1 at least")
        if not 0 <= self.memory < 1:
            raise OptionsError(f"low-rank term: memory is {self.memory}; expected a number from 0 to below 1")
        for field, choices in (("norm", Norm), ("method", Method), ("rows", Rows)):
            if getattr(self, field) not in get_args(choices):
                expected = ", ".join(get_args(choices))
                raise OptionsError(f"low-rank term: {field} is {getattr(self, field)!r}; expected one of {expected}")

    def renewal(self, name: str) -> Renewal:
        """Return how the projection of a module is renewed."""
        return Renewal(self.ranks[name], self.method, self.centred, self.memory, self.seed)


@dataclass(frozen=True)
class Distance:
    """How far rows are from low rank.

    Attributes:
        reconstruction: (), with gradient: the mean squared distance from the projection, in units of `norm`'s form.
        norm: (), with gradient: how far norms are from what they shall be.
        share: (), without: the rows' energy outside of the projection, as a share of all of it.
    """

    reconstruction: Tensor
    norm: Tensor
    share: Tensor


def distance(rows: Tensor, projection: Projection, norm: Norm) -> Distance:
    """Return how far rows (count, features) are from a projection, which is taken as constant.

    With `z = row - mean`, P the basis and s the scale (1 for `unit`): the reconstruction's error is
    `mean ‖z - P Pᵀ z‖² / s`; the norm's term is `mean |1 - ‖z‖²|` for `unit`, `max(0, 1 - mean ‖z‖² / s)` for `floor`.
    """
    about = rows - projection.mean
    outside = (about - about @ projection.basis @ projection.basis.T).square().sum(1).mean()
    energies = about.square().sum(1)
    share = outside.detach() / energies.detach().mean().clamp_min(_TINY)
    if norm == "unit":
        return Distance(outside, (1 - energies).abs().mean(), share)
    scale = projection.scale.clamp_min(_TINY)
    return Distance(outside / scale, (1 - energies.mean() / scale).clamp_min(0), share)
