"""A folder of images with one sub-folder per class, and the sets by name."""

from __future__ import annotations

import sys
from pathlib import Path

import cifar_examples
import numpy as np
import pytest
from PIL import Image

from rankfold.models import datasets, image_folder
from rankfold.models.labelled_images import labelled


def write(path: Path, *, size: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    """Write an image (width, height) and return its pixels, (height, width, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    pixels = [
        write(tmp_path / name, seed=n) for n, name in enumerate(("cat/b.png", "ant/2.png", "cat/a.bmp", "ant/1.PNG"))
    ]
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / "ant" / ".hidden").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "list.csv").touch()
    found = image_folder.read(tmp_path)
    assert found.classes == ("ant", "cat")
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(found.images, np.stack([pixels[n] for n in (3, 1, 2, 0)]).transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a" / "grey.png")
    found = image_folder.read(tmp_path).images
    np.testing.assert_array_equal(found, np.broadcast_to(grey, (1, 3, 8, 8)))


def test_images_are_scaled_by_the_shorter_side_and_cut_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    wide = np.zeros((8, 40, 3), np.uint8)
    wide[:, 8:32] = 200  # the middle fifth is all that stays, and its neighbours that bicubic scaling weighs
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    write(tmp_path / "a" / "small.png", size=(2, 3))
    found = image_folder.read(tmp_path, image_size=4)
    assert found.images.shape == (2, 3, 4, 4)
    np.testing.assert_array_equal(found.images[1], 200)


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "a" / "2.png", size=(9, 8))
    message = r"2\.png: 9 × 8 pixels, expected 8 × 8; give image_size \(--image-size\)"
    with pytest.raises(ValueError, match=message):
        image_folder.read(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"2\.png: 9 × 8 pixels"):
        image_folder.read(tmp_path)


def test_folders_without_classes_or_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sub-folders; expected one per class"):
        image_folder.read(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=r"a: no images; expected files ending in \.bmp, \.jpeg"):
        image_folder.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        image_folder.read(tmp_path / "none")


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_damaged_images_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a" / f"1.{kind}"
    write(path, size=(40, 40))
    whole = path.read_bytes()
    for length in (0, 3, 30, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"1\.{kind}: not a readable image .*replace or remove it"):
            image_folder.read(tmp_path)


def test_without_pillow_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "1.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"needs Pillow: pip install 'rankfold\[images\]'"):
        image_folder.read(tmp_path)


def test_sets_are_read_by_name(tmp_path: Path) -> None:
    cifar_examples.write_cifar10(tmp_path / "ten", binary=True)
    cifar_examples.write_cifar100(tmp_path / "hundred", binary=False)
    for split, size in (("train", (6, 4)), ("test", (4, 4))):
        write(tmp_path / "folder" / split / "a" / "1.png", size=size)
    assert len(datasets.read("cifar10", tmp_path / "ten").train.labels) == 20
    assert len(datasets.read("cifar100", tmp_path / "hundred").test.classes) == 100
    assert datasets.read("folder", tmp_path / "folder", image_size=4).train.image_size == 4
    with pytest.raises(ValueError, match="no set 'mnist'; expected one of fashion-mnist, cifar10, cifar100, folder"):
        datasets.read("mnist", tmp_path)
    with pytest.raises(ValueError, match="image_size is 0, expected 1 at least"):
        datasets.read("folder", tmp_path / "folder", image_size=0)
    with pytest.raises(ValueError, match="cifar10 has images of one size"):
        datasets.read("cifar10", tmp_path / "ten", image_size=16)


def test_splits_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"train: no such folder; expected {tmp_path.name}/train/CLASS/IMAGE"):
        datasets.read("folder", tmp_path)
    write(tmp_path / "train" / "a" / "1.png")
    write(tmp_path / "test" / "a" / "1.png", size=(4, 4))
    with pytest.raises(ValueError, match="train images have 8 × 8 pixels, test images 4 × 4"):
        datasets.read("folder", tmp_path)
    write(tmp_path / "test" / "b" / "1.png", size=(4, 4))
    with pytest.raises(ValueError, match="only one of train and test has the classes b"):
        datasets.read("folder", tmp_path)


def test_labels_and_images_have_to_fit(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="2 images but 1 labels"):
        labelled(tmp_path, images, np.zeros(1, np.int64), ("a",))
    with pytest.raises(ValueError, match="no images"):
        labelled(tmp_path, images[:0], np.zeros(0, np.int64), ("a",))
    with pytest.raises(ValueError, match="image 1 has the label 1; expected 0 to 0"):
        labelled(tmp_path, images, np.array([0, 1]), ("a",))
