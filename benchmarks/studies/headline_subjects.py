"""What the headline study compresses: the embedded ViT, or a checkpoint of one's own with a folder of images."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import fashion_mnist
from rankfold.models import demo, image_folder
from rankfold.models import fashion_mnist as fashion
from rankfold.models.export_checkpoint import export_checkpoint
from rankfold.models.image_folder import ImageFiles
from rankfold.models.sizes import Sizes
from rankfold.runtime_calib.threads import available_cpus

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

_BATCH = 100  # images scored, and kept in one file, at a time: 60 MB of ImageNet's
_DRAW_SEED = 0  # of which training images calibrate and which tune; the same for all runs


@dataclass(frozen=True)
class Subject:
    """A classifier, `image` to `logits`, and its images.

    Attributes:
        title: What tables and pictures call it.
        model: The original.
        calibration: Training images to fold by, as `compress` takes them.
        training: Labelled training images to fine-tune on.
        test: Opens the test images: batches of them and their labels.
    """

    title: str
    model: Path
    calibration: Path
    training: Path
    test: Callable[[], Iterator[tuple[Images, Labels]]]


def embedded(work: Path, training_images: int) -> Subject:
    """Return the ViT that ships, its calibration images, the first training images and all 10,000 test images."""
    training = work / f"training-{training_images}.npz"
    if not training.exists():
        split = fashion.read(fashion_mnist(), "train")
        count = min(training_images, len(split.labels))
        _save(training, fashion.as_input(split.images[:count]), split.labels[:count])

    def test() -> Iterator[tuple[Images, Labels]]:
        split = fashion.read(fashion_mnist(), "test")
        for start in range(0, len(split.labels), _BATCH):
            part = slice(start, start + _BATCH)
            yield fashion.as_input(split.images[part]), split.labels[part]

    return Subject("embedded ViT, Fashion-MNIST", demo.embedded_model(), demo.calibration_data(), training, test)


@dataclass(frozen=True)
class Framing:
    """How an image file becomes what a network reads.

    Attributes:
        image_size: Pixels along a side of what is read.
        crop: Share of the shorter side that it shows, in (0, 1]; the middle of it.
        mean, deviation: Of each channel, of values in [0, 1]: it is taken off, and divided by.
    """

    image_size: int
    crop: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop (--crop) is {self.crop}; expected a share above 0 and up to 1, such as 0.875")
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(
                f"mean and deviation (--mean, --std) are {self.mean} and {self.deviation}; expected three numbers each,"
                " for red, green and blue, the deviations above 0"
            )

    def image(self, path: Path) -> Images:
        """Return an image as (3, image_size, image_size)."""
        size = self.image_size
        large = max(size, round(size / self.crop))
        edge = (large - size) // 2
        pixels = image_folder.decoded(path, large)[:, edge : edge + size, edge : edge + size]
        mean, deviation = (np.array(part, np.float32)[:, None, None] for part in (self.mean, self.deviation))
        framed: Images = ((pixels / np.float32(255) - mean) / deviation).astype(np.float32)
        return framed


@dataclass(frozen=True)
class Checkpoint:
    """A network's weights and the images that it was trained for.

    Attributes:
        network: One of `rankfold.models.networks.STANDARD`.
        weights: A state dict, or safetensors.
        images: The folder, with `train/CLASS/IMAGE` and `test/CLASS/IMAGE`.
        sizes: Of the network, in the classes of the folder.
        calibration_images: Drawn from `train`, to fold by.
    """

    network: str
    weights: Path
    images: Path
    sizes: Sizes
    framing: Framing
    calibration_images: int

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides the results, by name."""
        places = {"weights": digest(self.weights), "images": str(self.images.resolve())}
        return asdict(self) | places


def checkpoint(work: Path, source: Checkpoint, training_images: int) -> Subject:
    """Return a checkpoint as ONNX, images drawn from `train` to fold by and to tune on, and all images of `test`.

    What is drawn is written in small files; images are never all in memory. No image both folds and tunes.

    Raises:
        OSError: A file or folder is missing or cannot be read.
        ValueError: The weights or the images do not fit.
    """
    train, tested = (image_folder.listed(source.images / split) for split in ("train", "test"))
    if train.classes != tested.classes:
        raise ValueError(
            f"{source.images}: train has {len(train.classes)} classes, test {len(tested.classes)}, or other names; "
            "expected the same folders in both"
        )
    calibrating = source.calibration_images
    if len(train.paths) < calibrating + training_images:
        raise ValueError(
            f"{source.images / 'train'}: {len(train.paths)} images, expected {calibrating} to fold by and "
            f"{training_images} to tune on; give fewer (--calibration-images, --training-images)"
        )
    model = work / f"{source.network}.onnx"
    if not model.exists():
        export_checkpoint(source.network, source.weights, model, source.sizes)
    drawn = np.random.default_rng(_DRAW_SEED).permutation(len(train.paths))
    parts = {"calibration": drawn[:calibrating], "training": drawn[calibrating:][:training_images]}
    for name, numbers in parts.items():
        _write_parts(work / name, batches(train, numbers, source.framing))
    return Subject(
        f"{source.network}, {len(train.classes)} classes",
        model,
        work / "calibration",
        work / "training",
        lambda: batches(tested, range(len(tested.paths)), source.framing),
    )


def batches(files: ImageFiles, numbers: Sequence[int], framing: Framing) -> Iterator[tuple[Images, Labels]]:
    """Yield some of the files, read side by side, and their labels."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(numbers), _BATCH):
            part = numbers[start : start + _BATCH]
            found = pool.map(framing.image, [files.paths[number] for number in part])
            yield np.stack(list(found)), files.labels[list(part)]


def _write_parts(folder: Path, parts: Iterator[tuple[Images, Labels]]) -> None:
    """Write a folder of `.npz` files, whole or not at all."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for number, (images, labels) in enumerate(parts):
        _save(partial / f"{number:06d}.npz", images, labels)
    os.replace(partial, folder)


def _save(path: Path, images: Images, labels: Labels) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, image=images, labels=labels)
    os.replace(partial, path)


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
