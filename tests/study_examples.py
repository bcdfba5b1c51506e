"""Small made-up images for the studies, and what a study's folder and page are patched to."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmarks.studies import page as page_module
from benchmarks.studies.image_sets import Counts, ImageSet, divided

from rankfold.models.labelled_images import LabelledImages


def images(count: int, *, size: int, channels: int, seed: int) -> LabelledImages:
    """Return dark and bright images with noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    pixels = random.integers(0, 120, (count, channels, size, size)) + 100 * labels[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), labels, ("dark", "bright"))


def image_set(counts: Counts, *, size: int, channels: int) -> ImageSet:
    """Return images of three kinds."""
    train = images(counts.training + counts.choosing, size=size, channels=channels, seed=0)
    return divided(train, images(counts.test, size=size, channels=channels, seed=1), counts)


def redirect(study: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a study write into a folder."""
    page = folder / "studies.md"
    page.write_text(f"# Studies\n<!-- {study.NAME}: begin -->\nNot measured yet.\n<!-- {study.NAME}: end -->\nend\n")
    for name, place in (("RESULTS", folder / "results"), ("STUDIES", page), ("PICTURES", folder / "pictures")):
        monkeypatch.setattr(page_module, name, place)
