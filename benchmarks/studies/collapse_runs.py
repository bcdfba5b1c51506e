"""Networks of several weight decays: trained, and each layer's rank measured beside the collapse of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.studies.image_sets import Counts, ImageSet, feed, first, right
from benchmarks.studies.tasks import Row
from rankfold import Options
from rankfold.models.export import export_network
from rankfold.models.labelled_images import Splits
from rankfold.models.networks import STANDARD, Reference, Shape, build
from rankfold.models.resnet import ResNetShape
from rankfold.models.sizes import Sizes, sized
from rankfold.models.sweep import run_name, sweep
from rankfold.models.weight_ranks import weight_ranks
from rankfold.passes.collapse import Collapse
from rankfold.representations import Representations, measure_activations
from rankfold.values import Provider

_BATCH = 100  # samples at once while measuring
_LAST = "last.onnx"


@dataclass(frozen=True)
class Scale:
    """How large the study of one network is.

    Attributes:
        counts: Of the images.
        epochs, batch: Of each run. Small batches make more steps of few images, and weight decay works by the step.
        measured: Training images that collapse is measured on.
        width: Factor of the MLP's features; of the ResNet, of the channels of `ResNetShape`.
        decays: The weight decays, from the smallest on.
    """

    counts: Counts
    epochs: int
    batch: int
    measured: int
    width: float
    decays: tuple[float, ...]


@dataclass(frozen=True)
class Subject:
    """One network on its images.

    Attributes:
        name: `mlp` or `resnet`.
        scale: How large it is.
        images: What it is trained and scored on.
    """

    name: str
    scale: Scale
    images: ImageSet


@dataclass(frozen=True)
class Place:
    """Where a study runs: its folder, the threads that it may use, and where networks are trained and run."""

    work: Path
    threads: int
    device: Provider = "cpu"


def reference_of(subject: Subject) -> Reference[Shape]:
    """Return the network and its recipe: SGD, weight decay in the gradient, images not moved.

    Images that are moved are harder to know by heart, and collapse is what follows upon knowing them all.
    """
    images, scale, standard = subject.images.training, subject.scale, STANDARD["mlp"]
    recipe = replace(standard.recipe, epochs=scale.epochs, batch=scale.batch, shift=0)
    shape: Shape
    if subject.name == "mlp":
        sizes = Sizes(images.image_size, images.channels, len(images.classes), scale.width)
        shape = sized(standard.shape, sizes)
    else:
        whole = ResNetShape(images.image_size, images.channels, classes=len(images.classes))
        shape = replace(whole, widths=tuple(max(1, round(scale.width * width)) for width in whole.widths))
    return Reference(shape, recipe, f"{subject.name}.onnx")


def trained(place: Place, subject: Subject, decay: float, seed: int) -> Row:
    """Train one run of the sweep in the folder of its network, from its last finished epoch on."""
    splits = Splits(subject.images.training, subject.images.test)
    folder, reference = place.work / subject.name, reference_of(subject)
    found = sweep(
        splits, folder, reference, weight_decays=[decay], seeds=[seed], threads=place.threads, device=place.device
    )
    (run,) = (run for run in found["runs"] if (run["weight_decay"], run["seed"]) == (decay, seed))
    return {key: run[key] for key in ("weight_decay", "seed", "validation_accuracy", "epoch")}


def measured(place: Place, subject: Subject, decay: float, seed: int) -> Row:
    """Measure the averaged weights after the last step: ranks, collapse on training images, accuracies.

    Those of the best epoch, which a sweep exports, may be from early on, before weight decay has done its work.
    """
    folder, reference = place.work / subject.name / run_name(decay, seed), reference_of(subject)
    state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")["average"]
    network = build(reference.shape)
    network.load_state_dict(state)
    export_network(network, reference.shape, folder / _LAST)
    images = first(subject.images.training, subject.scale.measured)
    found = measure_activations(
        folder / _LAST,
        [feed(images, labels=True)],
        collapse=True,
        options=Options(batch_size=_BATCH, provider=place.device),
    )
    return {
        "network": subject.name,
        "weight_decay": decay,
        "seed": seed,
        "training_accuracy": float(right(folder / _LAST, images).mean()),
        "test_accuracy": float(right(folder / _LAST, subject.images.test).mean()),
        "layers": _layers(state, found, len(images.classes)),
    }


def _layers(state: Mapping[str, Any], found: Representations, classes: int) -> list[Row]:
    """Return each layer's ranks, of the weight that was trained, and the collapse of what it reads."""
    before = {weight.site.rpartition("/")[0]: weight.before for weight in found.weights}
    return [
        {
            **asdict(line),
            "most": min(line.out_features, line.in_features),
            "before": _variability(before.get(line.layer)),
        }
        for line in weight_ranks(state, classes)
    ]


def _variability(collapse: Collapse | None) -> Row | None:
    if collapse is None:
        return None
    return {name: getattr(collapse, name) for name in ("cluster_variation", "within_share", "nc1")}
