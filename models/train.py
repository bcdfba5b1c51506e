"""Train the reference networks: `python -m rankfold.models.train NETWORK --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankfold.models import fashion_mnist
from rankfold.models.export import export_network
from rankfold.models.networks import REFERENCES, Reference, build
from rankfold.models.recipe import Recipe
from rankfold.models.training_run import Run, accuracy

VALIDATION_SHARE = 12  # one training image in twelve (5,000 of 60,000); the checkpoint is chosen on them


def train_network(data: Path, folder: Path, reference: Reference, *, threads: int) -> dict[str, Any]:
    """Train a network on `data`'s training split and return what the run reached.

    The averaged weights of the best validation accuracy are kept in `folder/best.pt` and written as ONNX in the end;
    the test split is scored once, last. Called again after an interruption it goes on at the last finished epoch,
    and ends with the weights that it would have had without.

    Raises:
        OSError: A file cannot be read or written.
        ValueError: The data is not what it should be, or `folder` holds the run of another shape or recipe.
    """
    shape, recipe = reference.shape, reference.recipe
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(shape, recipe, folder)
    run.resume()
    images, labels = _tensors(data, "train", recipe.seed)
    held, used = slice(0, len(images) // VALIDATION_SHARE), slice(len(images) // VALIDATION_SHARE, None)
    while run.epoch < recipe.epochs:
        began = time.monotonic()
        loss = run.train_epoch(images[used], labels[used])
        score = run.finish_epoch(images[held], labels[held])
        _show(run, loss, score, time.monotonic() - began)
    best = build(shape)
    best.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    reached = {
        "validation_accuracy": run.best,
        "test_accuracy": accuracy(best, *_tensors(data, "test")),
        "epoch": run.best_epoch,
        "shape": asdict(shape),
        "recipe": asdict(recipe),
    }
    export_network(best, shape, folder / reference.file)
    _write_whole(json.dumps(reached, indent=2) + "\n", folder / "reached.json")
    return reached


def _tensors(data: Path, split: str, shuffle_seed: int | None = None) -> tuple[Tensor, Tensor]:
    found = fashion_mnist.read(data, split)
    order = np.arange(len(found.images))
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(order))
    images = torch.from_numpy(fashion_mnist.as_input(found.images[order]))
    return images, torch.from_numpy(found.labels[order].astype(np.int64))


def _write_whole(text: str, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _show(run: Run, loss: float, score: float, seconds: float) -> None:
    left = (run.recipe.epochs - run.epoch) * seconds / 60
    print(
        f"epoch {run.epoch}/{run.recipe.epochs}  loss {loss:.4f}  validation {score:.4f}"
        f"  best {run.best:.4f} (epoch {run.best_epoch})  {seconds:.0f} s, {left:.0f} min left",
        file=sys.stderr,
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rankfold.models.train", description=__doc__)
    parser.add_argument("network", choices=list(REFERENCES), help="the network to train")
    parser.add_argument("--data", type=Path, required=True, help="folder with Fashion-MNIST's four idx.gz files")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results; resumed if there")
    parser.add_argument("--epochs", type=int, help="default: as the shipped network was trained")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line above: progress on stderr, what was reached on stdout as JSON."""
    parser = _parser()
    options = parser.parse_args(arguments)
    reference = REFERENCES[options.network]
    epochs = reference.recipe.epochs if options.epochs is None else options.epochs
    reference = replace(reference, recipe=replace(reference.recipe, epochs=epochs, seed=options.seed))
    try:
        reached = train_network(options.data, options.out, reference, threads=options.threads)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
