"""The sets of images that networks can be trained on, by name; needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rankfold.models import cifar, fashion_mnist, image_folder
from rankfold.models.labelled_images import LabelledImages, Splits

Name = Literal["fashion-mnist", "cifar10", "cifar100", "folder"]
NAMES: tuple[Name, ...] = get_args(Name)


def read(name: Name, folder: Path, *, image_size: int | None = None) -> Splits:
    """Return both splits of a set from the folder that holds it.

    A `folder` set has the sub-folders `train` and `test`, each with one sub-folder of images per class; `image_size`
    is for it alone.

    Raises:
        ImportError: A `folder` set, and Pillow is not installed.
        OSError: A file is missing or cannot be read.
        ValueError: A file is not what it should be, or the splits do not fit each other.
    """
    if name not in NAMES:
        raise ValueError(f"no set {name!r}; expected one of {', '.join(NAMES)}")
    if image_size is not None and name != "folder":
        raise ValueError(f"{name} has images of one size; image_size (--image-size) is for a folder of images")
    splits = Splits(*(_split(name, folder, split, image_size) for split in ("train", "test")))
    train, test = splits.train, splits.test
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{folder}: only one of train and test has the classes {', '.join(odd)}; expected the same")
    if train.image_size != test.image_size:
        raise ValueError(
            f"{folder}: train images have {train.image_size} × {train.image_size} pixels, test images "
            f"{test.image_size} × {test.image_size}; give image_size (--image-size)"
        )
    return splits


def _split(name: Name, folder: Path, split: str, image_size: int | None) -> LabelledImages:
    if name == "fashion-mnist":
        return fashion_mnist.read(folder, split)
    if name == "folder":
        if not (folder / split).is_dir():
            raise FileNotFoundError(f"{folder / split}: no such folder; expected {folder.name}/{split}/CLASS/IMAGE")
        return image_folder.read(folder / split, image_size=image_size)
    return cifar.read(folder, split, kind=name)
