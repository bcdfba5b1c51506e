"""The command-line options of a training, and the network and the recipe that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch

from rankfold.models import datasets
from rankfold.models.labelled_images import Splits
from rankfold.models.networks import REFERENCES, STANDARD, Reference, Shape
from rankfold.models.recipe import LEARNING_RATES, Optimizer, Recipe
from rankfold.models.size_options import add_size_options
from rankfold.models.sizes import Sizes, sized
from rankfold.training.low_rank import LowRank, Norm
from rankfold.training.low_rank_projection import Method, Rows
from rankfold.training.weight_decay import Form

DEVICES = ("cpu", "cuda")
_SIZES = ("width", "depth", "form", "patch_size")
_RECIPE = (
    "epochs",
    "batch",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "seed",
    "decay_form",
    "decay_end",
    "decay_warmup_epochs",
)
_LOW_RANK = tuple(field.name for field in fields(LowRank) if field.name not in {"ranks", "seed"})


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the network and everything about its images, its size and how it is trained."""
    parser.add_argument("network", choices=[*REFERENCES, *STANDARD], help="the network to train")
    parser.add_argument("--dataset", choices=datasets.NAMES, default=datasets.NAMES[0], help="default: %(default)s")
    parser.add_argument("--data", type=Path, required=True, help="folder with the set's files as published")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results; resumed if there")
    parser.add_argument("--image-size", type=int, help="pixels that a folder's images are scaled and cut to")
    add_size_options(parser)
    parser.add_argument("--epochs", type=int, help="default: the network's recipe, as for all below")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--optimizer", choices=get_args(Optimizer))
    parser.add_argument("--learning-rate", type=float, help="the highest, after the warm-up")
    parser.add_argument("--decay-form", choices=get_args(Form), help="how weight decay changes (default: constant)")
    parser.add_argument("--decay-end", type=float, help="factor of the weight decay at the last step (default: 0)")
    parser.add_argument("--decay-warmup-epochs", type=float, help="in which weight decay rises (default: 0)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where it is trained (default: cpu)")
    _add_low_rank_options(parser)


def _add_low_rank_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("activations of low rank")
    group.add_argument("--low-rank", type=_ranks, metavar="MODULE:RANK,…", help="such as layer3:32,layer4:16")
    defaults = LowRank({"": 1})
    for name, kind, text in (
        ("weight", float, "of the reconstruction's error in the loss"),
        ("norm_weight", float, "of the term that keeps norms"),
        ("norm", get_args(Norm), "norms not below the first batch's, or all 1"),
        ("renew_every", int, "steps from one projection to the next"),
        ("memory", float, "weight of earlier batches in a projection"),
        ("method", get_args(Method), "of finding a projection"),
        ("rows", get_args(Rows), "what a row of an activation is"),
    ):
        option, said = f"--low-rank-{name.replace('_', '-')}", f"{text} (default: {getattr(defaults, name)})"
        if isinstance(kind, tuple):
            group.add_argument(option, choices=kind, help=said)
        else:
            group.add_argument(option, type=kind, help=said)
    group.add_argument(
        "--low-rank-centred", action=argparse.BooleanOptionalAction, help="rows about their mean (default: so)"
    )


def _ranks(text: str) -> dict[str, int]:
    """Return the ranks that `MODULE:RANK,…` says."""
    found: dict[str, int] = {}
    for part in text.split(","):
        name, _, rank = part.strip().rpartition(":")
        if not name or not rank.isdecimal() or name in found:
            raise argparse.ArgumentTypeError(f"{part!r} in {text!r}; expected MODULE:RANK, each module once")
        found[name] = int(rank)
    return found


def asked(options: argparse.Namespace, splits: Splits) -> Reference[Shape]:
    """Return the network of a command line, in the size of its images, and its recipe.

    Raises:
        OptionsError: What is said of low rank makes no sense.
        ValueError: The network has no such size, or the recipe makes no sense.
    """
    if options.network in REFERENCES:
        return _as_shipped(options)
    sizes = Sizes(splits.train.image_size, splits.train.channels, len(splits.train.classes), **_given(options, _SIZES))
    standard = STANDARD[options.network]
    return replace(standard, shape=sized(standard.shape, sizes), recipe=_recipe(standard.recipe, options))


def _as_shipped(options: argparse.Namespace) -> Reference[Shape]:
    other = [f"--{name.replace('_', '-')}" for name in _given(options, _SIZES)]
    if other or options.dataset != datasets.NAMES[0]:
        raise ValueError(
            f"{options.network} has one size and is for {datasets.NAMES[0]}; leave out "
            f"{', '.join(other) or '--dataset'}, or choose one of {', '.join(STANDARD)}"
        )
    reference = REFERENCES[options.network]
    return replace(reference, recipe=_recipe(reference.recipe, options))


def _given(options: argparse.Namespace, names: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, prefix + name, None)) is not None}


def _recipe(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return a recipe with what a command line says; another optimizer comes with a learning rate of its own."""
    if options.optimizer not in {None, recipe.optimizer}:
        recipe = replace(recipe, learning_rate=LEARNING_RATES[options.optimizer])
    return replace(recipe, low_rank=_low_rank(options), **_given(options, _RECIPE))


def _low_rank(options: argparse.Namespace) -> LowRank | None:
    said = _given(options, _LOW_RANK, "low_rank_")
    if options.low_rank is not None:
        return LowRank(options.low_rank, **said)
    if said:
        names = ", ".join(f"--low-rank-{name.replace('_', '-')}" for name in said)
        raise ValueError(f"{names} without --low-rank; name the modules, such as --low-rank layer3:32")
    return None
