"""Networks with and without the low-rank term: trained, compressed, attacked, and their activations' ranks measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks.studies.image_sets import Counts, ImageSet, feed, first, right
from benchmarks.studies.tasks import Row
from rankfold.activation_study import ActivationRanks
from rankfold.models.labelled_images import Splits
from rankfold.models.networks import STANDARD, Reference
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.sizes import Sizes, sized
from rankfold.models.train import train_network
from rankfold.representations import measure_activations
from rankfold.robustness import attack
from rankfold.threat import Threat
from rankfold.training.low_rank import LowRank
from rankfold.values import Provider

NETWORK = "resnet18"
MODULES = ("layer3", "layer4")  # whose activations the term takes: the last stages, as the paper does
KEEPS = (0.5, 0.25)
EPS = (2 / 255, 4 / 255, 8 / 255)
SHARE = 0.99  # of the variance, whose directions are counted
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4", "pooled")
_BATCH = 50  # samples at once: of the calibration, of the measures and of the attacks


@dataclass(frozen=True)
class Scale:
    """How large the study is.

    Attributes:
        width: Factor of ResNet-18's channels.
        counts: Of the images.
        epochs, choosing_epochs: Of the runs that are compared, and of those that settings are chosen by.
        calibration: Training images that a compression sees.
        measured: Test images that ranks are measured on.
        attacked: Test images that are attacked.
        steps: Of PGD.
    """

    width: float
    counts: Counts
    epochs: int
    choosing_epochs: int
    calibration: int
    measured: int
    attacked: int
    steps: int


@dataclass(frozen=True)
class Term:
    """What is asked of the activations.

    Attributes:
        share: The rank, as a share of a module's channels.
        weight: Of the reconstruction's error in the loss.
    """

    share: float
    weight: float

    @property
    def name(self) -> str:
        """Return what files call it."""
        return f"rank-{self.share:g}-weight-{self.weight:g}"

    def low_rank(self, shape: DeepResNetShape) -> LowRank:
        """Return the term of a network; the class of each module is named `layerN`, N its stage."""
        ranks = {name: max(1, round(self.share * shape.widths[int(name[-1]) - 1])) for name in MODULES}
        return LowRank(ranks, weight=self.weight)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        condition: `plain`, `low-rank` or, where a setting is chosen, its name.
        term: None for none.
        seed: Of the training.
        epochs: How long it is.
    """

    condition: str
    term: Term | None
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Return what its folder and its files are called."""
        return f"{self.condition}-{self.seed}"


@dataclass(frozen=True)
class Place:
    """Where a study runs: its size, images and folder, its threads, and where networks are trained and run."""

    scale: Scale
    images: ImageSet
    work: Path
    threads: int
    device: Provider = "cpu"

    def options(self, seed: int) -> rankfold.Options:
        """Return the settings of compressions, measures and attacks."""
        return rankfold.Options(batch_size=_BATCH, latency_rounds=0, seed=seed, provider=self.device)


def model_of(place: Place, run: Run) -> Path:
    """Return the ONNX file of a run."""
    return place.work / run.name / STANDARD[NETWORK].file


def reference_of(place: Place, run: Run) -> Reference[DeepResNetShape]:
    """Return the network of a run and its recipe."""
    images, standard = place.images.training, STANDARD[NETWORK]
    sizes = Sizes(images.image_size, images.channels, len(images.classes), place.scale.width)
    shape = sized(standard.shape, sizes)
    assert isinstance(shape, DeepResNetShape)
    low_rank = None if run.term is None else run.term.low_rank(shape)
    recipe = replace(standard.recipe, epochs=run.epochs, seed=run.seed, low_rank=low_rank)
    return Reference(shape, recipe, standard.file)


def trained(place: Place, run: Run, *, choosing: bool = False) -> Row:
    """Train, from the last finished epoch on, and score on test images, or on those that settings are chosen on."""
    scored = place.images.choosing if choosing else place.images.test
    splits = Splits(place.images.training, scored)
    reached = train_network(
        splits, place.work / run.name, reference_of(place, run), threads=place.threads, device=place.device
    )
    hits = right(model_of(place, run), scored)
    return {
        "validation_accuracy": reached["validation_accuracy"],
        "epoch": reached["epoch"],
        "outside": reached.get("outside_low_rank", {}),
        "accuracy": float(hits.mean()),
        "right": packed(hits),
    }


def folded(place: Place, run: Run, keep: float, *, choosing: bool = False) -> Row:
    """Compress to a share of the parameters, calibrated on training images, and score as `trained` does."""
    model = model_of(place, run)
    output = model.with_name(f"kept-{keep:g}.onnx")
    calibration = feed(first(place.images.training, place.scale.calibration))
    result = rankfold.compress(model, [calibration], keep=keep, output=output, options=place.options(run.seed))
    hits = right(output, place.images.choosing if choosing else place.images.test)
    return {"kept": result.plan.kept, "accuracy": float(hits.mean()), "right": packed(hits)}


def measured(place: Place, run: Run) -> Row:
    """Measure the ranks of what each stage gives, on test images."""
    images = feed(first(place.images.test, place.scale.measured))
    patterns = ("Relu", "ReduceMean")
    found = measure_activations(
        model_of(place, run), [images], patterns=patterns, collapse=False, options=place.options(run.seed)
    )
    return {
        "stages": {
            stage: {
                "features": line.features,
                "effective": line.ranks.effective,
                "stable": line.ranks.stable,
                "share_rank": line.ranks.share_ranks[SHARE],
            }
            for stage, line in stage_lines(found.activations).items()
        }
    }


def stage_lines(lines: Sequence[ActivationRanks]) -> dict[str, ActivationRanks]:
    """Return the last activation of each stage: the first layer's, each `layerN`'s, and the mean over positions."""
    found: dict[str, ActivationRanks] = {}
    for line in lines:
        inside = re.match(r"(layer\d+)\.", line.node)
        found["pooled" if line.op_type == "ReduceMean" else inside.group(1) if inside else "stem"] = line
    return {stage: found[stage] for stage in STAGES if stage in found}


def attacked(place: Place, run: Run) -> Row:
    """Attack by FGSM and PGD, on test images."""
    scale = place.scale
    threat = Threat(eps=EPS, steps=scale.steps, clip=(0.0, 1.0), samples=scale.attacked)
    images = feed(first(place.images.test, scale.attacked), labels=True)
    found = attack(model_of(place, run), [images], threat=threat, options=place.options(run.seed))
    return {
        "clean": found.models[0].clean.percent / 100,
        "flat": found.models[0].flat.percent / 100,
        "robust": {
            f"{part.place.attack} {round(part.place.eps * 255)}/255": part.right.percent / 100 for part in found.robust
        },
        "warnings": list(found.warnings),
    }


def packed(hits: NDArray[np.bool_]) -> str:
    """Return booleans as text, eight in two letters."""
    return np.packbits(hits).tobytes().hex()


def unpacked(text: str, count: int) -> NDArray[np.bool_]:
    """Return the booleans that `packed` made text of."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)
