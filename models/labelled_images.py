"""Labelled images: what every reader here returns, and how the networks take them; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelledImages:
    """Images with their classes.

    Attributes:
        images: (count, channels, height, width) uint8.
        labels: (count,) int64, numbers of classes from 0 on.
        classes: The classes' names, in the order of their numbers.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.images.setflags(write=False)
        self.labels.setflags(write=False)

    @property
    def channels(self) -> int:
        """Return the channels of an image."""
        return int(self.images.shape[1])

    @property
    def image_size(self) -> int:
        """Return the pixels along one side; images are square."""
        return int(self.images.shape[2])


@dataclass(frozen=True)
class Splits:
    """What is trained on, and what is scored once, last."""

    train: LabelledImages
    test: LabelledImages


def as_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images as the networks take them: float32 in [0, 1], in the same shape."""
    return (images / np.float32(255)).astype(np.float32)


def labelled(
    source: Path, images: NDArray[np.uint8], labels: NDArray[np.integer], classes: tuple[str, ...]
) -> LabelledImages:
    """Return images (count, channels, size, size) and labels (count,) as one value.

    Raises:
        ValueError: There are none, their numbers differ, or a label has no class; the message begins with `source`.
    """
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels; expected as many")
    if len(images) == 0:
        raise ValueError(f"{source}: no images; expected at least one")
    numbers = labels.astype(np.int64)
    outside = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
    if len(outside):
        raise ValueError(
            f"{source}: image {outside[0]} has the label {numbers[outside[0]]}; expected 0 to {len(classes) - 1}; "
            "fetch it again"
        )
    return LabelledImages(images, numbers, classes)
