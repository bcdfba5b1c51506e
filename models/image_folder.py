"""A folder of image files with one sub-folder per class, read with Pillow."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.models.labelled_images import LabelledImages, labelled

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their classes, none of them read yet.

    Attributes:
        paths: The files.
        labels: (count,) int64, numbers of classes from 0 on.
        classes: The classes' names, in the order of their numbers.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        self.labels.setflags(write=False)


def listed(folder: Path) -> ImageFiles:
    """Return the image files below `folder`, classes and files in the order of their names.

    Each sub-folder is a class; files of other kinds (by suffix) in it are passed over.

    Raises:
        OSError: A folder is missing or cannot be read.
        ValueError: There are no classes, or a class without images.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder}: no sub-folders; expected one per class, with its images inside")
    files = [(path, number) for number, place in enumerate(classes) for path in _image_files(place)]
    labels = np.array([number for _, number in files], np.int64)
    return ImageFiles(tuple(path for path, _ in files), labels, tuple(path.name for path in classes))


def read(folder: Path, *, image_size: int | None = None) -> LabelledImages:
    """Return all images of `listed(folder)` as (count, 3, size, size).

    Images become RGB. With an `image_size` the shorter side is scaled to it (bicubic) and the middle cut out; without
    one all have to be square and of one size.

    Raises:
        ImportError: Pillow is not installed.
        OSError: A folder or file is missing or cannot be read.
        ValueError: There are no classes, a class without images, a damaged image, or one of another size.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}, expected 1 at least")
    files = listed(folder)
    size = decoded(files.paths[0], image_size).shape[1] if image_size is None else image_size
    images = np.empty((len(files.paths), 3, size, size), np.uint8)
    for place, path in zip(images, files.paths, strict=True):
        place[:] = _of_size(path, decoded(path, image_size), size)
    return labelled(folder, images, files.labels, files.classes)


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder}: no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return files


def _of_size(path: Path, image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    if image.shape[1:] != (size, size):
        high, wide = image.shape[1:]
        raise ValueError(
            f"{path}: {wide} × {high} pixels, expected {size} × {size}; give image_size (--image-size) to bring all "
            "images to one square size"
        )
    return image


def decoded(path: Path, image_size: int | None) -> NDArray[np.uint8]:
    """Return one image in RGB as (3, height, width), scaled and cut as `read` does it.

    Raises:
        ImportError: Pillow is not installed.
        OSError: The file is missing or cannot be read.
        ValueError: It is damaged.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: pip install 'rankfold[images]'") from error
    try:
        # Pillow warns of damaged notes in a file, which its pixels do not need; pixels that lack are an error.
        with warnings.catch_warnings(action="ignore", category=UserWarning), Image.open(path) as file:
            image: Image.Image = file.convert("RGB")
    except (FileNotFoundError, PermissionError):
        raise
    # What Pillow raises for damaged files: OSError for most, the others by format; and for images of absurd size.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error}); replace or remove it") from error
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)
