"""A Vision Transformer trained without labels: patches of each image are hidden, and it has to say what was there.

Masked image modelling as in SimMIM (Xie et al. 2022, arXiv 2111.09886): the encoder reads a learnt token in place of
each hidden patch, one linear layer makes pixels of what comes out, and the loss is their mean absolute error. Pixels
are scaled to mean 0 and variance 1 within each patch, as He et al. 2022 (arXiv 2111.06377) do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankfold.models.networks import build
from rankfold.models.recipe import Recipe, augment, build_optimizer, rate_at
from rankfold.models.training_run import as_pixels, save_whole, shuffled_batches, take_step
from rankfold.models.vit import ViT, ViTShape

HIDDEN = 0.6  # share of the patches, SimMIM's
_FLAT = 1e-6  # added to the variance of a patch, of values in [0, 1]: a black one has none


class MaskedViT(nn.Module):
    """An encoder, the token it reads where patches are hidden, and what makes pixels of its answers."""

    def __init__(self, shape: ViTShape, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = build(shape, drop_path=drop_path)
        assert isinstance(self.encoder, ViT)
        self.hidden = nn.Parameter(torch.zeros(shape.width))
        self.pixels = nn.Linear(shape.width, shape.in_channels * shape.patch_size**2)
        nn.init.trunc_normal_(self.hidden, std=0.02)

    def forward(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Return the loss of images (batch, channels, size, size) whose patches `hidden` (batch, tokens) are unseen."""
        return (self.guessed(image, hidden) - targets(image, self.encoder.patch.kernel_size[0])[hidden]).abs().mean()

    def guessed(self, image: Tensor, hidden: Tensor) -> Tensor:
        """Return what the hidden patches are taken for, (hidden patches, channels · patch²)."""
        encoder = self.encoder
        tokens = encoder.patch(image).flatten(2).transpose(1, 2)
        tokens = torch.where(hidden[..., None], self.hidden, tokens) + encoder.position
        for block in encoder.blocks:
            tokens = block(tokens)
        found: Tensor = self.pixels(encoder.norm(tokens)[hidden])
        return found


def targets(image: Tensor, patch: int) -> Tensor:
    """Return the pixels of each patch, (batch, tokens, channels · patch²), of mean 0 and variance 1 within it."""
    pixels = nn.functional.unfold(image, patch, stride=patch).transpose(1, 2)
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True, correction=0)
    return (pixels - mean) / (variance + _FLAT).sqrt()


def hide(count: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Return which patches are hidden, (count, tokens) of booleans, as many of each image."""
    order = torch.rand(count, tokens, generator=generator).argsort(1)
    return order < round(HIDDEN * tokens)


@dataclass(frozen=True)
class Pretrained:
    """What a training came to.

    Attributes:
        encoder: Its averaged weights after the last step, in evaluation mode.
        losses: Mean loss of each epoch.
    """

    encoder: ViT
    losses: tuple[float, ...]


def pretrain(
    shape: ViTShape,
    recipe: Recipe,
    images: Tensor,
    folder: Path,
    *,
    told: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> Pretrained:
    """Train an encoder on images (count, channels, size, size).

    A run that was interrupted goes on at its last finished epoch, to the same weights.

    Args:
        shape, recipe: Sizes, and how it is trained; labels have no part in it.
        images: Bytes, or float32 in [0, 1].
        folder: Where the checkpoint is kept; it is made.
        told: Is called after each epoch with its number and its mean loss.
        device: Where it is trained; the encoder that is returned is on the CPU.

    Raises:
        ValueError: `folder` holds a run of another shape or recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(shape, recipe, folder / "checkpoint.pt", torch.device(device))
    while state.epoch < recipe.epochs:
        loss = state.train_epoch(images)
        if told is not None:
            told(state.epoch, loss)
    encoder = state.average.encoder
    assert isinstance(encoder, ViT)
    return Pretrained(encoder.eval().cpu(), tuple(state.losses))


class _State:
    def __init__(self, shape: ViTShape, recipe: Recipe, file: Path, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.file, self.device = recipe, file, device
        self.settings = {"shape": asdict(shape), "recipe": asdict(recipe)}
        self.model = MaskedViT(shape, drop_path=recipe.drop_path).to(device)
        self.average = MaskedViT(shape).to(device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = build_optimizer(self.model, recipe)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.epoch = 0
        self.losses: list[float] = []  # the mean of each epoch
        if file.exists():
            self._resume(torch.load(file, weights_only=True, map_location="cpu"))

    def _resume(self, saved: dict[str, Any]) -> None:
        if saved["settings"] != self.settings:
            raise ValueError(f"{self.file} was made with {saved['settings']}, not {self.settings}; give another folder")
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["torch_rng"])
        self.epoch, self.losses = saved["epoch"], saved["losses"]

    def train_epoch(self, images: Tensor) -> float:
        """Train over all images once, in whole batches, checkpoint, and return the mean loss."""
        self.model.train()
        recipe, total = self.recipe, 0.0
        batches = shuffled_batches(len(images), recipe.batch, self.generator)
        for index, chosen in enumerate(batches):
            rate = rate_at(self.epoch * len(batches) + index, len(batches), recipe)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total += self._step(augment(as_pixels(images[chosen]), recipe, self.generator))
        self.epoch += 1
        self.losses.append(total / len(batches))
        self._save()
        return self.losses[-1]

    def _step(self, images: Tensor) -> float:
        tokens = self.model.encoder.position.shape[1]
        hidden = hide(len(images), tokens, self.generator).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            loss: Tensor = self.model(images.to(self.device), hidden)
        take_step(loss, self.optimizer, self.model, self.average, kept=self.recipe.average)
        return loss.item()

    def _save(self) -> None:
        content = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "epoch": self.epoch,
            "losses": self.losses,
        }
        save_whole(content, self.file)
