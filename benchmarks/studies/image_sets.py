"""The images of the studies: which are trained on, which settings are chosen on, and which only score."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import cifar_npz
from benchmarks.common import fashion_mnist, outputs
from rankfold.models import fashion_mnist as fashion
from rankfold.models.labelled_images import LabelledImages, as_input

_BATCH = 250  # images that are only run


@dataclass(frozen=True)
class Counts:
    """How many images there are of each kind, the first ones of a split.

    Attributes:
        training: Trained on, of the training split; one in twelve of them chooses the epoch.
        choosing: That settings are chosen on: those of the training split after these.
        test: Of the test split.
    """

    training: int
    choosing: int
    test: int


@dataclass(frozen=True)
class ImageSet:
    """Images of three kinds that share none."""

    training: LabelledImages
    choosing: LabelledImages
    test: LabelledImages

    @property
    def digest(self) -> str:
        """Return what tells these images from others."""
        found = hashlib.sha256()
        for part in (self.training, self.choosing, self.test):
            found.update(part.images.tobytes())
            found.update(part.labels.tobytes())
        return found.hexdigest()[:16]


def cifar10(file: Path | None, counts: Counts, work: Path) -> ImageSet:
    """Return CIFAR-10 out of its npz, or of $CIFAR10_NPZ; what was decoded is kept in the work folder."""
    kept = work / f"cifar10-{counts.training}-{counts.choosing}-{counts.test}.npz"
    if not kept.exists():
        place = file or cifar_npz.npz()
        found = divided(cifar_npz.read(place, "train"), cifar_npz.read(place, "test"), counts)
        _keep(found, kept)
    with np.load(kept) as arrays:
        classes = tuple(map(str, arrays["classes"]))
        kinds = ("training", "choosing", "test")
        return ImageSet(*(LabelledImages(arrays[f"{k}_images"], arrays[f"{k}_labels"], classes) for k in kinds))


def fashion_images(counts: Counts) -> ImageSet:
    """Return Fashion-MNIST out of the folder that $FASHION_MNIST names."""
    folder = fashion_mnist()
    return divided(fashion.read(folder, "train"), fashion.read(folder, "test"), counts)


def divided(train: LabelledImages, test: LabelledImages, counts: Counts) -> ImageSet:
    """Divide two splits.

    Raises:
        ValueError: There are too few images.
    """
    wanted = counts.training + counts.choosing
    if wanted > len(train.labels) or counts.test > len(test.labels):
        raise ValueError(
            f"{len(train.labels)} training and {len(test.labels)} test images; expected {wanted} and {counts.test}"
        )
    middle = slice(counts.training, wanted)
    return ImageSet(first(train, counts.training), _part(train, middle), first(test, counts.test))


def first(images: LabelledImages, count: int) -> LabelledImages:
    """Return the first so many."""
    return _part(images, slice(count))


def feed(images: LabelledImages, *, labels: bool = False) -> dict[str, NDArray[np.generic]]:
    """Return images as a model's feed."""
    found: dict[str, NDArray[np.generic]] = {"image": as_input(images.images)}
    return {**found, "labels": images.labels} if labels else found


def right(model: Path, images: LabelledImages) -> NDArray[np.bool_]:
    """Return which images a model classifies rightly, (images,)."""
    answers = outputs(model, as_input(images.images), batch=_BATCH).argmax(axis=1)
    found: NDArray[np.bool_] = answers == images.labels
    return found


def _part(images: LabelledImages, which: slice) -> LabelledImages:
    return LabelledImages(images.images[which].copy(), images.labels[which].copy(), images.classes)


def _keep(found: ImageSet, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"classes": np.array(found.training.classes)}
    for kind in ("training", "choosing", "test"):
        part: LabelledImages = getattr(found, kind)
        arrays |= {f"{kind}_images": part.images, f"{kind}_labels": part.labels}
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez(partial, **arrays)
    partial.replace(path)
