"""Training on any set of labelled images: the function and the recipe's parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train_examples import PLAIN, TINY_MLP, same, some_images

from rankfold.models.labelled_images import LabelledImages, as_input
from rankfold.models.networks import Shape, build
from rankfold.models.recipe import Recipe, augment
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.train import train
from rankfold.models.training_run import Run, accuracy, as_pixels, measure_norms
from rankfold.models.vgg import VGGShape
from rankfold.models.vit_class_token import ClassTokenViTShape


def test_training_learns_and_says_how(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    images = some_images(108)
    done = train(TINY_MLP, PLAIN, images, tmp_path, told=lambda run, seconds: seen.append((run.epoch, seconds >= 0)))
    assert seen == [(1, True), (2, True), (3, True)]
    losses, scores = zip(*done.history, strict=True)
    assert losses[-1] < 0.5 * losses[0]
    assert done.validation_accuracy == max(scores) == 1.0
    assert done.best_epoch == scores.index(1.0) + 1
    assert not done.network.training
    assert not same(done.network, done.last)
    assert accuracy(done.network, torch.tensor(images.images), torch.tensor(images.labels)) > 0.95


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        (DeepResNetShape(8, 3, (4, 8), (1, 1), form="cifar", classes=2), PLAIN),
        (VGGShape(8, 3, (4, 8), (1, 1), hidden=6, classes=2), PLAIN),
        (ClassTokenViTShape(8, 4, 3, width=16, depth=2, heads=2, classes=2), Recipe(3, 8, drop_path=0.3, average=0.5)),
    ],
    ids=["resnet", "vgg with dropout", "vit with dropped paths"],
)
def test_an_interrupted_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Shape, recipe: Recipe
) -> None:
    images = some_images(48)
    calls = []

    def extra(model: nn.Module) -> Tensor:
        calls.append(1)
        return 1e-3 * sum(value.square().sum() for value in model.parameters())

    whole = train(shape, recipe, images, tmp_path / "whole", extra_loss=extra)
    steps = len(calls)
    assert steps == 3 * (44 // 8)
    whole_epoch = Run.train_epoch

    def interrupted(run: Run, *tensors: Tensor) -> float:
        if run.epoch == 2:
            raise KeyboardInterrupt
        return whole_epoch(run, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(shape, recipe, images, tmp_path / "parts", extra_loss=extra)
    resumed = train(shape, recipe, images, tmp_path / "parts", extra_loss=extra)
    assert len(calls) == 2 * steps
    assert resumed.history == whole.history
    assert same(resumed.last, whole.last)
    assert same(resumed.network, whole.network)
    again = train(shape, recipe, images, tmp_path / "parts", extra_loss=extra)  # done already: nothing is trained
    assert len(calls) == 2 * steps
    assert same(again.last, whole.last)


# One step over all 44 images that are not held out, at the full rate.
ONE_STEP = replace(PLAIN, epochs=1, batch=44, momentum=0.0)


def test_the_extra_loss_is_added_at_every_step(tmp_path: Path) -> None:
    """The extra term moves the weights by its own gradient times the rate, and nothing else."""
    labels = np.arange(48) % 3 // 2  # two of three are of class 0
    black = LabelledImages(np.zeros((48, 3, 8, 8), np.uint8), labels, ("0", "1"))  # the last bias alone has a gradient
    slope = torch.tensor([1e-3, -2e-3])
    plain, pulled = (
        train(TINY_MLP, ONE_STEP, black, tmp_path / name, extra_loss=extra).last.head.bias.detach()
        for name, extra in (("plain", None), ("pulled", lambda model: (slope * model.head.bias).sum()))
    )
    assert 1e-3 < plain.abs().max() < 0.02
    # Biases of at most 0.02, each rounded once: 0.02 * 6e-8 twice.
    torch.testing.assert_close(pulled - plain, -ONE_STEP.learning_rate * slope, rtol=0, atol=3e-9)


def test_hooks_see_what_the_step_computes(tmp_path: Path) -> None:
    """`prepare` puts a hook on a layer, `extra_loss` reads what it kept: a term on activations."""
    kept: dict[str, Tensor] = {}

    def prepare(model: nn.Module) -> None:
        model.layers[1].register_forward_hook(lambda _module, _given, made: kept.update(hidden=made))

    def extra(_model: nn.Module) -> Tensor:
        assert (kept["hidden"].shape, kept["hidden"].requires_grad) == ((8, 16), True)
        return 10 * kept["hidden"].square().mean()

    def size(trained: nn.Module) -> float:
        x = as_pixels(torch.tensor(some_images(48).images)).flatten(1)
        with torch.no_grad():
            return float(trained.layers[1](trained.layers[0](x).relu()).square().mean())

    plain = train(TINY_MLP, PLAIN, some_images(48), tmp_path / "plain").last
    small = train(TINY_MLP, PLAIN, some_images(48), tmp_path / "small", extra_loss=extra, prepare=prepare).last
    assert size(small) < 0.5 * size(plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_takes_its_share_of_the_weights_and_not_of_the_biases(tmp_path: Path, optimizer: str) -> None:
    """Without momentum, rate times decay of the weight itself, in both forms of weight decay."""
    recipe = replace(ONE_STEP, optimizer=optimizer, learning_rate=0.01)
    free, decayed = (
        train(TINY_MLP, replace(recipe, weight_decay=decay), some_images(48), tmp_path / str(decay)).last
        for decay in (0.0, 0.5)
    )
    torch.manual_seed(recipe.seed)
    new = build(TINY_MLP)
    shares = {name: 0.01 * 0.5 if name.endswith("weight") else 0.0 for name, _ in new.named_parameters()}
    for name, value in new.named_parameters():
        found = free.get_parameter(name) - decayed.get_parameter(name)
        # Weights below 2, rounded a few times by either run: some units of 1.2e-7.
        torch.testing.assert_close(found, shares[name] * value, rtol=0, atol=1e-6)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="11 images to train on; expected 12 at least"):
        train(TINY_MLP, PLAIN, some_images(11), tmp_path)
    with pytest.raises(ValueError, match="11 training images; one batch takes 12"):
        train(TINY_MLP, replace(PLAIN, batch=12), some_images(12), tmp_path)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no GPU; leave --device out"):
        train(TINY_MLP, PLAIN, some_images(24), tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


def test_bytes_become_the_same_pixels_in_torch_as_in_numpy() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(as_pixels(torch.tensor(every)).numpy(), as_input(every))
    floats = torch.rand(1, 1, 4, 4)
    assert as_pixels(floats) is floats


def crops(image: Tensor, shift: int) -> Iterator[Tensor]:
    """Yield every crop of a padded image (channels, size, size), and its mirror image."""
    size = image.shape[-1]
    padded = nn.functional.pad(image, [shift] * 4)
    for row in range(2 * shift + 1):
        for column in range(2 * shift + 1):
            crop = padded[:, row : row + size, column : column + size]
            yield crop
            yield crop.flip(2)


def test_augmentation_is_a_crop_of_the_padded_image_or_its_mirror_image() -> None:
    images = torch.rand(600, 3, 6, 6)
    made = augment(images, Recipe(shift=2, erase=0.0), torch.Generator().manual_seed(0))
    found = set()
    for before, after in zip(images, made, strict=True):
        matches = [number for number, crop in enumerate(crops(before, 2)) if torch.equal(crop, after)]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) == 50  # all 5 × 5 places, mirrored or not: 600 draws miss one of them in 3 of 10,000 cases


def test_boxes_are_blanked_in_all_channels() -> None:
    made = augment(torch.ones(64, 3, 20, 20), Recipe(shift=0, erase=1.0), torch.Generator().manual_seed(0))
    assert torch.equal(made[:, :1].expand_as(made), made)
    assert (made.amin(dim=(1, 2, 3)) == 0).all()
    assert set(made.unique().tolist()) == {0.0, 1.0}


def test_large_images_are_scored_a_few_at_a_time() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.norm(x).mean((2, 3)).expand(-1, 2)

    network = Counting()
    large = torch.zeros(30, 1, 224, 224, dtype=torch.uint8)
    assert accuracy(network, large, torch.zeros(30, dtype=torch.int64)) == 1.0
    measure_norms(network, large)
    assert seen == [10] * 6
