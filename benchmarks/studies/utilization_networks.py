"""The networks whose utilization is compared: two that exist already, and one shape trained here in three ways."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import dinov2
from benchmarks.common import fashion_mnist, write_whole
from benchmarks.studies.masked_images import pretrain
from rankfold.models import demo
from rankfold.models import fashion_mnist as fashion
from rankfold.models.export import export_network
from rankfold.models.labelled_images import LabelledImages, as_input
from rankfold.models.networks import build
from rankfold.models.recipe import Recipe
from rankfold.models.train import VALIDATION_SHARE, train
from rankfold.models.training_run import as_pixels
from rankfold.models.vit import ViT, ViTShape
from rankfold.values import Feed, Provider

Kind = Literal["vit", "dinov2", "untrained", "supervised", "masked"]
Told = Callable[[int, float], None]
FOUND: tuple[Kind, ...] = ("vit", "dinov2")
TRAINED: tuple[Kind, ...] = ("untrained", "supervised", "masked")
_BATCH = 16
_AT_ONCE = 128  # images read at a time, a multiple of the batch; of DINOv2's 224 × 224 pixels they take 77 MB


@dataclass(frozen=True)
class Settings:
    """What is trained here, and on how many images.

    Attributes:
        shape, recipe: Of the networks that are trained; the seed is that of each run.
        images: They see the first so many training images, but for the twelfth part that only validates.
        measured: Utilization is of the first so many training images, for all networks.
        seeds: Of weights, order and split.
    """

    shape: ViTShape
    recipe: Recipe
    images: int
    measured: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where models and runs are kept, and where networks are trained and run."""

    work: Path
    device: Provider = "cpu"


@dataclass(frozen=True)
class Network:
    """One network; `seed` is None for one that was not trained here."""

    kind: Kind
    seed: int | None = None

    @property
    def name(self) -> str:
        """Return what its files are called."""
        return self.kind if self.seed is None else f"{self.kind}-{self.seed}"


def networks(settings: Settings) -> tuple[Network, ...]:
    """Return all networks, those that are quick first."""
    return (
        *map(Network, FOUND),
        *(Network(kind, seed) for seed in settings.seeds for kind in TRAINED),
    )


def epochs_of(network: Network, settings: Settings) -> int:
    """Return for how many epochs a network is trained here."""
    return settings.recipe.epochs if network.kind in ("supervised", "masked") else 0


def model_of(network: Network, settings: Settings, place: Place, *, told: Told) -> Path:
    """Return a network's ONNX file; one that is trained here is trained first, unless its file is there.

    Beside it stands `NAME.trained.json` with what the training came to.

    Args:
        network, settings: Which one, and how it is trained.
        place: For the file and checkpoints.
        told: Is called after each epoch with its number and its mean loss.
    """
    if network.kind == "vit":
        return demo.embedded_model()
    if network.kind == "dinov2":
        return dinov2.backbone(place.work)
    path = place.work / f"{network.name}.onnx"
    if not path.exists():
        export_network(_trained(network, settings, place, told), settings.shape, path)
    return path


def feeds(network: Network, model: Path, count: int) -> Iterator[Feed]:
    """Yield the first training images in batches, as the network takes them."""
    name = onnx.load(model, load_external_data=False).graph.input[0].name
    for start in range(0, count, _AT_ONCE):
        part = _as_given(network, start, min(_AT_ONCE, count - start))
        for place in range(0, len(part), _BATCH):
            yield {name: part[place : place + _BATCH]}


def batch_count(count: int) -> int:
    """Return how many batches `feeds` yields."""
    return -(-count // _BATCH)


def training_images(count: int) -> LabelledImages:
    """Return the first training images of Fashion-MNIST."""
    split = fashion.read(fashion_mnist(), "train")
    return replace(split, images=split.images[:count], labels=split.labels[:count])


def parted(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which images `train` trains on with a seed, and which ones validate, each in its order."""
    order = np.random.default_rng(seed).permutation(count)
    return order[count // VALIDATION_SHARE :], order[: count // VALIDATION_SHARE]


def probe_accuracy(network: ViT, images: LabelledImages, seed: int) -> float:
    """Return how many validation images a linear layer on the network's pooled features tells, as a share.

    The layer is fitted by least squares to one-hot labels of the images that were trained on: what labels can be read
    off the features, however the network was trained. `network` keeps its weights and loses its head.
    """
    used, held = parted(len(images.labels), seed)
    network.head = nn.Identity()
    rows = [_features(network, torch.from_numpy(images.images[part])) for part in (used, held)]
    wanted = np.eye(len(images.classes))[images.labels[used]]
    layer = np.linalg.lstsq(rows[0], wanted, rcond=None)[0]
    return float(((rows[1] @ layer).argmax(axis=1) == images.labels[held]).mean())


def _as_given(network: Network, start: int, count: int) -> NDArray[np.float32]:
    if network.kind == "dinov2":
        return dinov2.images("train", count, start=start)
    return as_input(training_images(start + count).images[start:])


def _trained(network: Network, settings: Settings, place: Place, told: Told) -> ViT:
    assert network.seed is not None
    images, began = training_images(settings.images), time.monotonic()
    seeded = replace(settings, recipe=replace(settings.recipe, seed=network.seed))
    run = replace(place, work=place.work / network.name)
    match network.kind:
        case "supervised":
            found, reached = _supervised(seeded, images, run, told)
        case "masked":
            found, reached = _masked(seeded, images, run, told)
        case _:
            torch.manual_seed(network.seed)  # the first weights of both trainings with this seed
            found, reached = _vit(settings.shape).eval(), {}
    copy = _vit(settings.shape).eval()
    copy.load_state_dict(found.state_dict())
    reached |= {
        "probe_accuracy": probe_accuracy(copy, images, network.seed),
        "minutes_since_resumed": (time.monotonic() - began) / 60,
    }
    write_whole(place.work / f"{network.name}.trained.json", json.dumps(reached, indent=2) + "\n")
    return found


def _supervised(settings: Settings, images: LabelledImages, run: Place, told: Told) -> tuple[ViT, dict[str, Any]]:
    """Return the averaged weights after the last step, not those of the best epoch: the other training has no best."""
    trained = train(
        settings.shape,
        settings.recipe,
        images,
        run.work,
        told=lambda state, _: told(state.epoch, state.history[-1][0]),
        device=run.device,
    )
    found = _vit(settings.shape).eval()
    saved = torch.load(run.work / "checkpoint.pt", weights_only=True, map_location="cpu")
    found.load_state_dict(saved["average"])
    losses, scores = zip(*trained.history, strict=True)
    return found, {"losses": losses, "validation_accuracies": scores}


def _masked(settings: Settings, images: LabelledImages, run: Place, told: Told) -> tuple[ViT, dict[str, Any]]:
    used, _ = parted(len(images.labels), settings.recipe.seed)
    seen = torch.from_numpy(images.images[used])
    found = pretrain(settings.shape, settings.recipe, seen, run.work, told=told, device=run.device)
    return found.encoder, {"losses": found.losses}


def _vit(shape: ViTShape) -> ViT:
    network = build(shape)
    assert isinstance(network, ViT)
    return network


@torch.no_grad()
def _features(network: ViT, images: Tensor) -> NDArray[np.float64]:
    """Return pooled features and a one, (count, width + 1)."""
    pooled = torch.cat([network(as_pixels(batch)) for batch in images.split(500)])
    return np.concatenate([pooled.double().numpy(), np.ones((len(pooled), 1))], axis=1)
