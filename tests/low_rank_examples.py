"""What the tests of the low-rank term share: a small network, rows for it, and how many hooks a network has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankfold.training.low_rank import LowRank

HIDDEN = LowRank({"0": 4}, renew_every=2)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def inputs(count: int = 40, features: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
