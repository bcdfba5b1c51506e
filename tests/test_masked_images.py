"""Training on hidden patches: what is asked for, that it learns, and that an interruption changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.studies.masked_images import HIDDEN, MaskedViT, hide, pretrain, targets

from rankfold.models.recipe import Recipe
from rankfold.models.vit import ViTShape

SHAPE = ViTShape(image_size=8, patch_size=4, width=16, depth=1, heads=2, classes=2)
RECIPE = Recipe(
    epochs=4, batch=16, learning_rate=1e-2, warmup_epochs=1, drop_path=0.0, erase=0.0, shift=0, average=0.5,
    precision="float32",
)  # fmt: skip


def stripes(count: int) -> torch.Tensor:
    """Return images whose patches are all alike, so that any patch tells what a hidden one holds."""
    random = np.random.default_rng(0)
    patch = random.random((count, 1, 1, 4)).repeat(4, axis=2)
    return torch.tensor(np.tile(patch, (1, 1, 2, 2)), dtype=torch.float32)


def test_as_many_patches_of_each_image_are_hidden_by_the_seed() -> None:
    found = hide(50, 49, torch.Generator().manual_seed(1))
    assert (found.sum(1) == round(HIDDEN * 49)).all()
    assert len({tuple(row.tolist()) for row in found}) == 50
    assert torch.equal(found, hide(50, 49, torch.Generator().manual_seed(1)))


def test_targets_are_the_patches_in_the_tokens_order() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    found = targets(image, 4)
    first = image[0, 0, :4, 4:].flatten()
    np.testing.assert_allclose(found[0, 1], (first - first.mean()) / first.std(correction=0), rtol=1e-5)  # float32


def test_hidden_patches_are_not_seen() -> None:
    torch.manual_seed(0)
    model, image = MaskedViT(SHAPE).eval(), torch.rand(1, 1, 8, 8)
    hidden = torch.tensor([[True, False, False, False]])
    within, without = image.clone(), image.clone()
    within[..., :4, :4] += 1
    without[..., 4:, 4:] += 1
    assert torch.equal(model.guessed(within, hidden), model.guessed(image, hidden))
    assert not torch.equal(model.guessed(without, hidden), model.guessed(image, hidden))
    away = (model.guessed(image, hidden) - targets(image, 4)[hidden]).abs().mean()
    assert torch.equal(model(image, hidden), away)


def test_it_learns_and_an_interruption_changes_nothing(tmp_path: Path) -> None:
    losses: list[float] = []
    images = stripes(160)
    whole = pretrain(SHAPE, RECIPE, images, tmp_path / "whole", told=lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]

    def stop(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(SHAPE, RECIPE, images, tmp_path / "cut", told=stop)
    resumed = pretrain(SHAPE, RECIPE, images, tmp_path / "cut")
    assert whole.losses == resumed.losses == tuple(losses)
    states = (found.encoder.state_dict() for found in (whole, resumed))
    for (name, value), other in zip(next(states).items(), next(states).values(), strict=True):
        assert torch.equal(value, other), name
    with pytest.raises(ValueError, match="was made with"):
        pretrain(SHAPE, replace(RECIPE, seed=1), images, tmp_path / "cut")
