"""One training run: its steps, its averaged weights and its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.networks import Shape, build
from rankfold.models.recipe import Recipe, augment, build_optimizer, decay_schedule, rate_at
from rankfold.training.low_rank_term import LowRankTerm
from rankfold.training.weight_decay import DecaySchedule, decay_factor, set_weight_decay

NORM_IMAGES = 5000  # batch normalisations are measured on so many; 1,000 or 20,000 change the accuracy by 0.1 %
_AT_ONCE, _PIXELS_AT_ONCE = 500, 500 * 32 * 32  # images, and their pixels, that are only run, not trained on

ExtraLoss = Callable[[nn.Module], Tensor]


class Stateful(Protocol):
    """What a checkpoint keeps beside the network: made of tensors, numbers, text, lists and dicts."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Go on from a state."""


def as_pixels(images: Tensor) -> Tensor:
    """Return images as networks take them: bytes become float32 in [0, 1], float32 stays."""
    if images.dtype != torch.uint8:
        return images
    # In the plain layout: numpy gives an axis of one channel strides by which torch chooses other kernels.
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 255


def _at_once(images: Tensor) -> int:
    return max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // images[0, 0].numel()))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images (count, channels, size, size) whose largest logit is their label."""
    model.eval()
    device = _device(model)
    batches = zip(images.split(_at_once(images)), labels.split(_at_once(images)), strict=True)
    hits = [(model(as_pixels(x.to(device))).argmax(1) == y.to(device)).sum() for x, y in batches]
    return float(sum(hits)) / len(labels)


@torch.no_grad()
def measure_norms(model: nn.Module, images: Tensor) -> None:
    """Measure the statistics of a network's batch normalisations, if it has any, on images (count, channels, …).

    Averaged weights have statistics of their own; an average of those seen on the way is not near them.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # every batch counts the same
    model.train()
    for batch in images.split(_at_once(images)):
        model(as_pixels(batch.to(_device(model))))
    model.eval()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


class Run:
    """One training run, resumable from `folder/checkpoint.pt` at the last finished epoch.

    `extra_loss`, if given, is called at each step, after the forward pass, and what it returns is added to the loss.
    `extra_state`, if given, is saved and resumed with the rest. The recipe's low-rank term has hooks on the network
    until `close` is called. The network, its average and the optimizer are on `device`; first weights, the order and
    the augmentation are drawn on the CPU, so that they are the same everywhere.
    """

    def __init__(
        self,
        shape: Shape,
        recipe: Recipe,
        folder: Path,
        *,
        extra_loss: ExtraLoss | None = None,
        extra_state: Stateful | None = None,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.shape, self.recipe, self.folder, self.extra_loss = shape, recipe, folder, extra_loss
        self.device = torch.device(device)
        self.model = build(shape, drop_path=recipe.drop_path).to(self.device)
        self.average = build(shape).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = build_optimizer(self.model, recipe)
        self.low_rank = None if recipe.low_rank is None else LowRankTerm(recipe.low_rank)
        if self.low_rank is not None:
            self.low_rank.attach(self.model)
        self.stateful: dict[str, Stateful] = {
            name: part for name, part in (("low_rank", self.low_rank), ("extra", extra_state)) if part is not None
        }
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.epoch, self.best, self.best_epoch = 0, -1.0, -1
        self.history: list[tuple[float, float]] = []  # mean loss and validation accuracy of each epoch

    def close(self) -> None:
        """Take the run's own hooks off the network."""
        if self.low_rank is not None:
            self.low_rank.detach()

    def outside(self) -> dict[str, float]:
        """Return the share of energy outside of each projection of the low-rank term, none without one."""
        return {} if self.low_rank is None else self.low_rank.shares

    def resume(self) -> None:
        """Load the checkpoint if there is one.

        Raises:
            ValueError: It was made with another shape or recipe.
        """
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True, map_location="cpu")  # as the state of generators has to be
        wanted = {"shape": asdict(self.shape), "recipe": asdict(self.recipe)}
        # What a recipe of an earlier version does not say was then as the defaults say.
        made_with = {**saved["settings"], "recipe": asdict(Recipe()) | saved["settings"]["recipe"]}
        if made_with != wanted:
            raise ValueError(f"{path} was made with {made_with}, not {wanted}; give another --out")
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["torch_rng"])
        self.epoch, self.best, self.best_epoch = saved["epoch"], saved["best"], saved["best_epoch"]
        self.history = saved["history"]
        for name, part in self.stateful.items():
            if name not in saved:
                raise ValueError(f"{path} holds no state of {name!r}: it was made without; give another --out")
            part.load_state_dict(saved[name])

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state: dict[str, Any] = {
            "settings": {"shape": asdict(self.shape), "recipe": asdict(self.recipe)},
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": self.history,
            **{name: part.state_dict() for name, part in self.stateful.items()},
        }
        save_whole(state, self.folder / "checkpoint.pt")

    def train_epoch(self, images: Tensor, labels: Tensor) -> float:
        """Train over all images (count, channels, size, size) once, in whole batches, and return the mean loss.

        Images are bytes, or float32 in [0, 1].

        Raises:
            ValueError: There are fewer images than one batch.
        """
        if len(images) < self.recipe.batch:
            raise ValueError(
                f"{len(images)} training images; one batch takes {self.recipe.batch}; set a smaller batch (--batch)"
            )
        self.model.train()
        batches = shuffled_batches(len(images), self.recipe.batch, self.generator)
        total = 0.0
        for index, chosen in enumerate(batches):
            self._set_rates(self.epoch * len(batches) + index, len(batches))
            moved = augment(as_pixels(images[chosen]), self.recipe, self.generator)
            total += self._step(moved.to(self.device), labels[chosen].to(self.device))
        measure_norms(self.average, images[:NORM_IMAGES])
        return total / len(batches)

    def _set_rates(self, step: int, steps_per_epoch: int) -> None:
        rate = rate_at(step, steps_per_epoch, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        schedule = decay_schedule(steps_per_epoch, self.recipe)
        if schedule != DecaySchedule():
            set_weight_decay(self.optimizer, decay_factor(schedule, step, self.recipe.epochs * steps_per_epoch))

    def _step(self, images: Tensor, labels: Tensor) -> float:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            logits = self.model(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        if self.extra_loss is not None:
            loss = loss + self.extra_loss(self.model)
        if self.low_rank is not None:
            loss = loss + self.low_rank.loss()
        take_step(loss, self.optimizer, self.model, self.average, kept=self.recipe.average)
        return loss.item()

    def finish_epoch(self, loss: float, images: Tensor, labels: Tensor) -> None:
        """Score the averaged weights on the validation images, keep them if they are the best, and checkpoint."""
        score = accuracy(self.average, images, labels)
        self.epoch += 1
        self.history.append((loss, score))
        if score > self.best:
            self.best, self.best_epoch = score, self.epoch
            save_whole(self.average.state_dict(), self.folder / "best.pt")
        self.save()


def shuffled_batches(count: int, batch: int, generator: torch.Generator) -> Sequence[Tensor]:
    """Return the numbers of images in whole batches, each (batch,), in a new order; what fills none is left out."""
    order = torch.randperm(count, generator=generator)
    batches: Sequence[Tensor] = order[: count // batch * batch].split(batch)
    return batches


def take_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, model: nn.Module, average: nn.Module, *, kept: float
) -> None:
    """Take a step by a loss, gradients clipped to norm 1, and move the averaged weights, of which `kept` stays."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        for mean, now in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - kept)


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Save a state with torch, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)
