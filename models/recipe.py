"""How the reference networks are trained: hyper-parameters, augmentation, learning rate and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are those of the ViT that ships with the package.

    `drop_path` is for networks whose branches can be dropped: the ResNet's cannot.
    """

    epochs: int = 30
    batch: int = 256
    learning_rate: float = 1e-3
    warmup_epochs: float = 2.0
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    drop_path: float = 0.1
    shift: int = 2
    erase: float = 0.5
    average: float = 0.998
    seed: int = 0


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return (batch, 1, 28, 28) images flipped, shifted by up to `shift` pixels, one box of a share `erase` blanked."""
    count, _, size, _ = images.shape
    pad = functional.pad(images, [recipe.shift] * 4)

    def offsets() -> Tensor:
        draws = torch.randint(0, 2 * recipe.shift + 1, (count, 1), generator=generator)
        return draws + torch.arange(size)

    rows, columns = offsets(), offsets()
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    shifted = pad[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    corner = torch.randint(0, size, (count, 2), generator=generator)
    extent = torch.randint(4, 13, (count, 2), generator=generator)
    extent[torch.rand(count, generator=generator) >= recipe.erase] = 0
    place = torch.arange(size)
    inside = (place >= corner[..., None]) & (place < (corner + extent)[..., None])
    return shifted.masked_fill(inside[:, 0, :, None] & inside[:, 1, None, :], 0.0)[:, None]


def rate_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the learning rate at a step: linear warm-up, then half a cosine to zero."""
    warm, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices alone: biases, norms and positions are left free."""
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and name != "position"]
    free = [p for name, p in model.named_parameters() if p.ndim < 2 or name == "position"]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)
