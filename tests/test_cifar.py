"""CIFAR in both published layouts, and pickles that are something else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cifar_examples as example
import numpy as np
import pytest

from rankfold.models import array_pickle, cifar
from rankfold.models.labelled_images import LabelledImages


def check(found: LabelledImages, seeds: range | list[int], each: list[int], classes: tuple[str, ...]) -> None:
    parts = [example.some_rows(count, len(classes), seed=seed) for seed, count in zip(seeds, each, strict=True)]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(found.images, pixels.reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes == classes
    assert (found.channels, found.image_size) == (3, 32)
    assert not found.images.flags.writeable
    assert not found.labels.flags.writeable


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_is_read(tmp_path: Path, binary: bool, inside: bool) -> None:
    name = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    example.write_cifar10(tmp_path / name, binary=binary)
    folder = tmp_path / name if inside else tmp_path
    check(cifar.read(folder, "train"), range(5), [4] * 5, example.TEN)
    check(cifar.read(folder, "test"), [5], [4], example.TEN)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path, binary: bool, inside: bool) -> None:
    name = "cifar-100-binary" if binary else "cifar-100-python"
    example.write_cifar100(tmp_path / name, binary=binary)
    folder = tmp_path / name if inside else tmp_path
    check(cifar.read(folder, "train", kind="cifar100"), [0], [6], example.HUNDRED)
    check(cifar.read(folder, "test", kind="cifar100"), [1], [4], example.HUNDRED)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    pixels, labels = example.some_rows(4, 10)
    content = {b"data": pixels, b"labels": labels.tolist()}
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol))
    found = array_pickle.load(tmp_path / "x")
    np.testing.assert_array_equal(found["data"], pixels)
    assert found["labels"] == labels.tolist()
    (tmp_path / "x").write_bytes(pickle.dumps({"data": np.asfortranarray(pixels)}, protocol))
    np.testing.assert_array_equal(array_pickle.load(tmp_path / "x")["data"], pixels)


def cut(length: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:length]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("data_batch_3.bin", cut(-1), r"data_batch_3\.bin: 12,291 bytes, expected a multiple of 3,073 .*cut short"),
        ("data_batch_3.bin", cut(-3073), r"data_batch_3\.bin: 3 images, the others have 4; fetch it again"),
        ("data_batch_3.bin", cut(0), r"data_batch_3\.bin: 0 bytes"),
        ("data_batch_3.bin", lambda raw: b"\x0a" + raw[1:], r"image 8 has the label 10; expected 0 to 9; fetch it"),
        ("batches.meta.txt", cut(20), r"batches\.meta\.txt: 2 names of classes, expected 10 of CIFAR-10"),
    ],
)
def test_damaged_binaries_are_refused(
    tmp_path: Path, file: str, change: Callable[[bytes], bytes], message: str
) -> None:
    example.write_cifar10(tmp_path, binary=True)
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match=message):
        cifar.read(tmp_path, "train")


def test_another_set_is_not_taken_for_cifar100(tmp_path: Path) -> None:
    example.write_cifar100(tmp_path, binary=True)
    (tmp_path / "train.bin").write_bytes(bytes(3073 * 7))
    with pytest.raises(
        ValueError, match=r"train\.bin: 21,511 bytes, expected a multiple of 3,074 \(2 of labels and 3,072"
    ):
        cifar.read(tmp_path, "train", kind="cifar100")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-10 there: neither data_batch_1 .* cifar-10-batches-bin"):
        cifar.read(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"no CIFAR-100 there: neither test .*Python version"):
        cifar.read(tmp_path, "test", kind="cifar100")
    example.write_cifar10(tmp_path, binary=False)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4: missing; CIFAR-10's train split has 5 such files"):
        cifar.read(tmp_path, "train")
    (tmp_path / "batches.meta").unlink()
    with pytest.raises(FileNotFoundError, match=r"batches\.meta"):
        cifar.read(tmp_path, "test")


PIXELS, LABELS = example.some_rows(4, 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"labels": LABELS.tolist()}, "'data' is NoneType, expected rows of 3,072 bytes"),
        ({b"data": PIXELS[:, :1024], b"labels": LABELS.tolist()}, r"'data' is \(4, 1024\), expected rows of 3,072"),
        ({b"data": PIXELS, b"fine_labels": LABELS.tolist()}, "'labels' is no list of class numbers; is it CIFAR-10"),
        ({b"data": PIXELS, b"labels": [b"1", 2, 3, 4]}, "'labels' is no list of class numbers"),
        ({b"data": PIXELS, b"labels": [1, 2, 3]}, "4 images but 3 labels; fetch it again"),
        ({b"data": PIXELS, b"labels": [1, 2, 3, -4]}, "image 3 has the label -4"),
        ([1, 2], "a pickled list, expected a dict"),
        ({b"data": PIXELS.astype(np.uint16)}, "it holds an array of type 'u2', expected unsigned bytes"),
    ],
)
def test_pickles_of_other_content_are_refused(tmp_path: Path, content: example.Content, message: str) -> None:
    example.write_cifar10(tmp_path, binary=False)
    (tmp_path / "test_batch").write_bytes(example.python2_pickle(content))
    with pytest.raises(ValueError, match=message):
        cifar.read(tmp_path, "test")


@pytest.mark.parametrize(
    "call",
    [b"cos\nsystem\n(U\x04true", b"cbuiltins\neval\n(U\x011", b"cnumpy\nload\n(U\x01x", b"cnumpy\nmemmap\n(U\x01x"],
)
def test_nothing_that_a_pickle_names_is_called(tmp_path: Path, call: bytes) -> None:
    name = b".".join(call[1:].split(b"\n")[:2]).decode()
    (tmp_path / "x").write_bytes(b"\x80\x02}U\x04data" + call + b"tRs.")
    with pytest.raises(
        ValueError, match=rf"x: not a pickle of arrays as published \(it asks for {name}, and nothing but"
    ):
        array_pickle.load(tmp_path / "x")


def test_arrays_of_objects_and_arrays_without_their_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps({"data": np.array([[None]])}, 4))
    with pytest.raises(ValueError, match="an array of type 'O8', expected unsigned bytes"):
        array_pickle.load(tmp_path / "x")
    whole = example.python2_pickle({b"data": PIXELS})
    (tmp_path / "x").write_bytes(whole.replace(b"J\x00\x0c\x00\x00", b"J\x00\x0d\x00\x00"))  # 3,072 becomes 3,328
    with pytest.raises(ValueError, match=r"an array of shape \(4, 3328\) without its bytes"):
        array_pickle.load(tmp_path / "x")


def test_a_pickle_cut_or_spoilt_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    """No byte makes the reader raise anything but its own error, and no cut goes unnoticed."""
    whole = example.python2_pickle({b"labels": [1, 2], b"data": PIXELS[:1, :9]})
    path = tmp_path / "x"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="x: "):
            array_pickle.load(path)
    random, done = np.random.default_rng(0), 0
    for place, value in zip(random.integers(0, len(whole), 600), random.integers(0, 256, 600), strict=True):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            done += isinstance(array_pickle.load(path), dict)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017  # some are read
    assert 0 < done < 600
