"""Make the files that ship: `python -m rankfold.models.pack NETWORK --data DIR --trained DIR --out DIR`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from rankfold.models import demo, fashion_mnist
from rankfold.models.export import export_network
from rankfold.models.networks import REFERENCES, Reference, Shape, build

CALIBRATION_IMAGES = 512
TEST_IMAGES = 1000
SEED = 0


def pack(reference: Reference[Shape], data: Path, weights: Path, folder: Path) -> None:
    """Write the network of `weights` as ONNX, and the calibration and test images of all networks, into `folder`.

    The calibration images are a seeded draw from the training split, in file order; the test images are the first of
    the test split, with their labels.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: A data file is not what it should be.
    """
    network = build(reference.shape)
    network.load_state_dict(torch.load(weights, weights_only=True))
    export_network(network, reference.shape, folder / reference.file)
    train = fashion_mnist.read(data, "train").images
    drawn = np.sort(np.random.default_rng(SEED).choice(len(train), CALIBRATION_IMAGES, replace=False))
    with _whole(folder / demo.CALIBRATION_FILE) as file:
        np.savez_compressed(file, image=fashion_mnist.as_input(train[drawn]))
    test = fashion_mnist.read(data, "test")
    images, labels = fashion_mnist.as_input(test.images[:TEST_IMAGES]), test.labels[:TEST_IMAGES].astype(np.int64)
    with _whole(folder / demo.TEST_FILE) as file:
        np.savez_compressed(file, image=images, labels=labels)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        yield file
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line above."""
    parser = argparse.ArgumentParser(prog="python -m rankfold.models.pack", description=__doc__)
    parser.add_argument("network", choices=list(REFERENCES), help="the network that was trained")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four idx.gz files")
    parser.add_argument("--trained", type=Path, required=True, help="folder of a finished training, with best.pt")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into: models/ of the checkout")
    options = parser.parse_args(arguments)
    try:
        pack(REFERENCES[options.network], options.data, options.trained / "best.pt", options.out)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error


if __name__ == "__main__":
    main()
