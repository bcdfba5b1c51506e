"""What the tests of training share: a tiny network, a short recipe, and coloured noise to learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rankfold.models.labelled_images import LabelledImages
from rankfold.models.mlp import MLPShape
from rankfold.models.networks import STANDARD

TINY_MLP = MLPShape(image_size=8, in_channels=3, width=16, depth=2, classes=2)
PLAIN = replace(STANDARD["mlp"].recipe, epochs=3, batch=8, warmup_epochs=1.0, weight_decay=0.0, shift=1, average=0.5)


def some_images(count: int, size: int = 8, classes: int = 2) -> LabelledImages:
    """Return coloured noise, each class brighter than the one before."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    bright = labels[:, None, None, None] * (150 // classes)
    images = (random.integers(0, 100, (count, 3, size, size)) + bright).astype(np.uint8)
    return LabelledImages(images, labels, tuple(map(str, range(classes))))


def same(first: nn.Module, second: nn.Module) -> bool:
    parts = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, there) for (name, value), (other, there) in parts)
