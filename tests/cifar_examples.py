"""Small CIFAR sets in the published layouts, the pickles byte by byte as Python 2 wrote them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUNDRED = tuple(f"kind_{number:02}" for number in range(100))
Content = bytes | int | list | dict | NDArray[np.uint8]


def python2_pickle(value: Content) -> bytes:
    """Return a pickle of protocol 2 as Python 2 writes it: text is a string of bytes, arrays name numpy's functions."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: Content) -> bytes:
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(part) for pair in value.items() for part in pair) + b"u"
    kind = value.dtype.str[1:].encode()
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = (
        b"cnumpy\ndtype\nU"
        + bytes([len(kind)])
        + kind
        + b"K\x00K\x01\x87R(K\x03U\x01|NNN"
        + _pickled(-1) * 2
        + b"K\x00tb"
    )
    extents = _pickled(value.shape[0]) + _pickled(value.shape[1]) + b"\x86"
    return empty + b"(K\x01" + extents + dtype + b"\x89" + _pickled(value.tobytes()) + b"tb"


def some_rows(count: int, classes: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels (count, 3072) and class numbers (count,)."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3072), dtype=np.uint8), random.integers(0, classes, count)


def write_cifar10(folder: Path, *, binary: bool, each: int = 4) -> None:
    """Write five files of training images and one of test images, `each` in every file, and the names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        pixels, labels = some_rows(each, 10, seed=number)
        if binary:
            rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            content = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": pixels}
            content[b"filenames"] = [b"leptodactylus_pentadactylus_s_000004.png"] * each
            (folder / name).write_bytes(python2_pickle(content))
    names = {b"num_cases_per_batch": each, b"label_names": [name.encode() for name in TEN], b"num_vis": 3072}
    if binary:
        (folder / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    else:
        (folder / "batches.meta").write_bytes(python2_pickle(names))


def write_cifar100(folder: Path, *, binary: bool, train: int = 6, test: int = 4) -> None:
    """Write a file of training and one of test images, and the names of classes; coarse labels are all 19."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "test": test}.items()):
        pixels, labels = some_rows(count, 100, seed=seed)
        if binary:
            marks = np.stack([np.full(count, 19), labels], axis=1).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(np.concatenate([marks, pixels], axis=1).tobytes())
        else:
            content = {b"fine_labels": labels.tolist(), b"coarse_labels": [19] * count, b"data": pixels}
            (folder / name).write_bytes(python2_pickle({b"filenames": [b"a.png"] * count, **content}))
    if binary:
        (folder / "fine_label_names.txt").write_text("\n".join(HUNDRED) + "\n")
    else:
        meta = {b"fine_label_names": [name.encode() for name in HUNDRED], b"coarse_label_names": [b"x"] * 20}
        (folder / "meta").write_bytes(python2_pickle(meta))
