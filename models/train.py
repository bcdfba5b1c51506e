"""Train a network on labelled images: `python -m rankfold.models.train NETWORK --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rankfold.errors import RankfoldError
from rankfold.models import datasets
from rankfold.models.export import export_network
from rankfold.models.labelled_images import LabelledImages, Splits
from rankfold.models.networks import Reference, Shape, build
from rankfold.models.recipe import Recipe
from rankfold.models.train_options import add_training_options, asked
from rankfold.models.training_run import ExtraLoss, Run, Stateful, accuracy

VALIDATION_SHARE = 12  # one training image in twelve (5,000 of 60,000); the checkpoint is chosen on them


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        network: The averaged weights of the best epoch, in evaluation mode.
        last: The weights after the last step, not averaged; its batch normalisations hold what they saw on the way.
        best_epoch, validation_accuracy: That of `network`; epochs count from 1.
        history: Mean loss and validation accuracy of each epoch.
        outside: Of each module of the recipe's low-rank term, the energy of activations outside of the projection at
            the last step, as a share of all of it.
    """

    network: nn.Module
    last: nn.Module
    best_epoch: int
    validation_accuracy: float
    history: tuple[tuple[float, float], ...]
    outside: Mapping[str, float]


def train(
    shape: Shape,
    recipe: Recipe,
    images: LabelledImages,
    folder: Path,
    *,
    extra_loss: ExtraLoss | None = None,
    extra_state: Stateful | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
    told: Callable[[Run, float], None] | None = None,
    device: str = "cpu",
) -> Trained:
    """Train a network; called again after an interruption it goes on at the last finished epoch, to the same weights.

    One image in twelve validates: the averaged weights that know most of them are kept in `folder/best.pt`.

    Args:
        shape, recipe: The network's sizes, and how it is trained.
        images: All that may be trained on.
        folder: Where checkpoints are kept; it is made.
        extra_loss: Gives a scalar that is added to the loss, at each step after the forward pass; give the same again
            to go on. Where it draws random numbers from torch's own generator, these are resumed as well.
        extra_state: Saved with each checkpoint, and resumed: what `extra_loss` keeps from step to step.
        prepare: Is called once with the network, before the first step: to put hooks on its layers, say, which stay
            on what is returned as `last`.
        told: Is called after each epoch with the run and the epoch's seconds.
        device: Where it is trained; on another than the CPU an interruption may change the last bits. What is returned
            is on the CPU.

    Raises:
        OptionsError: The recipe's low-rank term does not fit the network.
        OSError: A checkpoint cannot be read or written.
        ValueError: There are too few images, there is no such device, or `folder` holds the run of another shape or
            recipe.
    """
    if len(images.labels) < VALIDATION_SHARE:
        raise ValueError(f"{len(images.labels)} images to train on; expected {VALIDATION_SHARE} at least")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch finds no GPU; leave --device out, or install torch for CUDA")
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(shape, recipe, folder, extra_loss=extra_loss, extra_state=extra_state, device=device)
    run.resume()
    if prepare is not None:
        prepare(run.model)
    inputs, labels = _shuffled(images, recipe.seed)
    held, used = slice(0, len(inputs) // VALIDATION_SHARE), slice(len(inputs) // VALIDATION_SHARE, None)
    while run.epoch < recipe.epochs:
        began = time.monotonic()
        loss = run.train_epoch(inputs[used], labels[used])
        run.finish_epoch(loss, inputs[held], labels[held])
        if told is not None:
            told(run, time.monotonic() - began)
    run.close()
    best = build(shape)
    best.load_state_dict(torch.load(folder / "best.pt", weights_only=True, map_location="cpu"))
    return Trained(best.eval(), run.model.eval().cpu(), run.best_epoch, run.best, tuple(run.history), run.outside())


def train_network(
    splits: Splits, folder: Path, reference: Reference[Shape], *, threads: int, device: str = "cpu"
) -> dict[str, Any]:
    """Train a network, write it as ONNX and what it reached as JSON into `folder`, and return the latter.

    Progress goes to stderr; the test split is scored once, last.

    Raises:
        OSError: A file cannot be read or written.
        OptionsError, ValueError: As `train` does.
    """
    shape, recipe = reference.shape, reference.recipe
    torch.set_num_threads(threads)
    trained = train(shape, recipe, splits.train, folder, told=_show, device=device)
    reached = {
        "validation_accuracy": trained.validation_accuracy,
        "test_accuracy": accuracy(trained.network, torch.tensor(splits.test.images), torch.tensor(splits.test.labels)),
        "epoch": trained.best_epoch,
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "classes": list(splits.train.classes),
    }
    if trained.outside:
        reached["outside_low_rank"] = trained.outside
    export_network(trained.network, shape, folder / reference.file)
    write_whole(json.dumps(reached, indent=2) + "\n", folder / "reached.json")
    return reached


def _shuffled(images: LabelledImages, seed: int) -> tuple[Tensor, Tensor]:
    order = np.random.default_rng(seed).permutation(len(images.labels))
    return torch.from_numpy(images.images[order]), torch.from_numpy(images.labels[order].astype(np.int64))


def write_whole(text: str, path: Path) -> None:
    """Write a text file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _show(run: Run, seconds: float) -> None:
    left = (run.recipe.epochs - run.epoch) * seconds / 60
    loss, score = run.history[-1]
    outside = "".join(f"  outside {name} {share:.4f}" for name, share in run.outside().items())
    print(
        f"epoch {run.epoch}/{run.recipe.epochs}  loss {loss:.4f}  validation {score:.4f}"
        f"  best {run.best:.4f} (epoch {run.best_epoch}){outside}  {seconds:.0f} s, {left:.0f} min left",
        file=sys.stderr,
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rankfold.models.train", description=__doc__)
    add_training_options(parser)
    parser.add_argument("--weight-decay", type=float, help="of matrices and kernels")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line above: progress on stderr, what was reached on stdout as JSON."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        splits = datasets.read(options.dataset, options.data, image_size=options.image_size)
        reached = train_network(
            splits, options.out, asked(options, splits), threads=options.threads, device=options.device
        )
    except (OSError, ValueError, ImportError, RankfoldError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
