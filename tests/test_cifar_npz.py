"""The benchmarks' CIFAR-10 in one file of JPEGs, and as the published binary version."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from benchmarks import cifar_npz
from PIL import Image

from rankfold.models import cifar

NAMES = np.array([f"class {number}" for number in range(10)])


def jpeg(shade: int, size: int = 32) -> np.ndarray:
    """Return an image of one shade, which JPEG keeps to one step of its 8 bits."""
    file = BytesIO()
    Image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(file, "JPEG", quality=95)
    return np.frombuffer(file.getvalue(), np.uint8)


def write(path: Path, **changed: np.ndarray | None) -> Path:
    content: dict[str, np.ndarray] = {"classes": np.char.replace(NAMES, " ", "_")}
    for split, shades in (("train", range(0, 200, 20)), ("test", range(5, 9))):
        files = [jpeg(shade) for shade in shades]
        content |= {
            f"{split}_jpeg": np.concatenate(files),
            f"{split}_offsets": np.cumsum([0, *map(len, files)]),
            f"{split}_labels": np.arange(len(files), dtype=np.uint8),
        }
    content = {key: value for key, value in {**content, **changed}.items() if value is not None}
    np.savez(path, **content)
    return path


def test_images_are_read_and_written_as_published(tmp_path: Path) -> None:
    file = write(tmp_path / "x.npz")
    found = cifar_npz.read(file, "train")
    assert found.images.shape == (10, 3, 32, 32)
    assert np.abs(found.images.astype(int) - np.arange(0, 200, 20)[:, None, None, None]).max() <= 1
    cifar_npz.write_binary(file, tmp_path)
    for split in ("train", "test"):
        direct, written = cifar_npz.read(file, split), cifar.read(tmp_path, split)
        np.testing.assert_array_equal(written.images, direct.images)
        np.testing.assert_array_equal(written.labels, direct.labels)
        assert written.classes == direct.classes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": None}, "no train_labels there; it has "),
        ({"train_offsets": np.arange(3)}, "train_offsets do not divide"),
        ({"train_labels": np.full(10, 10, np.uint8)}, "image 0 has the label 10"),
        ({"train_labels": np.zeros(9, np.uint8)}, "10 images but 9 labels"),
        (
            {"train_jpeg": jpeg(1, 16), "train_offsets": np.array([0, len(jpeg(1, 16))])},
            r"image 0: \(16, 16, 3\), expected",
        ),
        ({"train_jpeg": np.zeros(9, np.uint8), "train_offsets": np.array([0, 9])}, "train image 0: no readable JPEG"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, changed: dict[str, np.ndarray | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cifar_npz.read(write(tmp_path / "x.npz", **changed), "train")


def test_the_file_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR10_NPZ", "/some/x.npz")
    assert cifar_npz.npz() == Path("/some/x.npz")
    monkeypatch.delenv("CIFAR10_NPZ")
    with pytest.raises(SystemExit, match=r"name the \.npz of CIFAR-10 in \$CIFAR10_NPZ"):
        cifar_npz.npz()
