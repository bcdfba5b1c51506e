"""How networks are trained: hyper-parameters, augmentation, learning rate and optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankfold.training.low_rank import LowRank
from rankfold.training.weight_decay import DecaySchedule, Form, parameter_groups

Optimizer = Literal["adamw", "sgd"]
LEARNING_RATES: dict[Optimizer, float] = {
    "adamw": 1e-3,
    "sgd": 0.05,
}  # where another optimizer than a recipe's is asked
_POSITIONS = frozenset({"position", "pos_embed", "cls_token"})  # parameters with several axes that are no matrices


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are those of the ViT that ships with the package.

    Attributes:
        epochs, batch: How often all images are seen, and how many at a time.
        learning_rate, warmup_epochs: The highest rate, and how long it takes to get there.
        weight_decay: Of matrices and kernels alone: L2 in the gradient with `sgd`, decoupled with `adamw`.
        label_smoothing: Share of the target that all classes have in common.
        drop_path: Share of samples whose last residual branch is dropped, for transformers.
        shift, erase: Pixels by which an image is moved at most, and the share of images with a box blanked.
        average: How much of the averaged weights stays at a step.
        seed: Of the split, the weights, the order and the augmentation.
        optimizer, momentum: `adamw`, which has no momentum of its own, or `sgd`.
        precision: Of products while training; weights, sums and losses are float32 always.
        decay_form, decay_end, decay_warmup_epochs: How weight decay changes: its form, the factor of it at the last
            step, and the epochs in which it rises from nothing.
        low_rank: Modules whose activations are trained toward low rank; None adds nothing to the loss.
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
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    decay_form: Form = "constant"
    decay_end: float = 0.0
    decay_warmup_epochs: float = 0.0
    low_rank: LowRank | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 at least")
        for name in ("learning_rate", "weight_decay", "decay_end", "decay_warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number from 0 on")


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return images (batch, channels, size, size) flipped at random, shifted, and some with a box blanked.

    A shift by up to `shift` pixels is a crop out of the image with as many black ones around it.
    """
    count, channels, size, _ = images.shape
    pad = functional.pad(images, [recipe.shift] * 4)

    def offsets() -> Tensor:
        draws = torch.randint(0, 2 * recipe.shift + 1, (count, 1), generator=generator)
        return draws + torch.arange(size)

    rows, columns = offsets(), offsets()
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    shifted = pad[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    corner = torch.randint(0, size, (count, 2), generator=generator)
    extent = torch.randint(4, 13, (count, 2), generator=generator)
    extent[torch.rand(count, generator=generator) >= recipe.erase] = 0
    place = torch.arange(size)
    inside = (place >= corner[..., None]) & (place < (corner + extent)[..., None])
    return shifted.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)


def rate_at(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the learning rate at a step: linear warm-up, then half a cosine to zero."""
    warm, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def decay_schedule(steps_per_epoch: int, recipe: Recipe) -> DecaySchedule:
    """Return how a recipe's weight decay changes, its warm-up in whole steps."""
    return DecaySchedule(recipe.decay_form, recipe.decay_end, round(recipe.decay_warmup_epochs * steps_per_epoch))


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, which decays matrices and kernels alone: biases, norms and positions are free."""
    groups = parameter_groups(model, recipe.weight_decay, free=_POSITIONS)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)
