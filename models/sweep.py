"""Train a network at several weight decays and seeds: `python -m rankfold.models.sweep NETWORK --data DIR --out DIR`.

Each run has a folder of its own and goes on where it was interrupted; `sweep.json` says what came of all of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from rankfold.errors import RankfoldError
from rankfold.models import datasets
from rankfold.models.labelled_images import LabelledImages, Splits
from rankfold.models.networks import Reference, Shape
from rankfold.models.train import train_network, write_whole
from rankfold.models.train_options import add_training_options, asked
from rankfold.models.weight_ranks import SHARE, weight_ranks

SUMMARY = "sweep.json"
_SWEPT = ("weight_decay", "seed")


def sweep(
    splits: Splits,
    folder: Path,
    reference: Reference[Shape],
    *,
    weight_decays: Sequence[float],
    seeds: Sequence[int],
    threads: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a network at each weight decay with each seed, and return the summary, which `folder` holds as well.

    Finished runs are not trained again, an interrupted one goes on at its last epoch; further weight decays and seeds
    join those that are there already.

    Args:
        splits: The images; each run scores the test split once, last.
        folder: Where it all is kept, `decay-DECAY-seed-SEED` for each run.
        reference: The network with its recipe; the recipe's weight decay and seed are those of the sweep instead.
        weight_decays, seeds: Of the runs.
        threads: Of torch.
        device: Where it is trained.

    Raises:
        OptionsError: As `train` does.
        OSError: A file cannot be read or written.
        ValueError: As `train` does, or `folder` holds a sweep of other images, sizes or recipe.
    """
    settings = _settings(splits, reference)
    recipes = [
        replace(reference.recipe, weight_decay=decay, seed=seed) for decay, seed in product(weight_decays, seeds)
    ]
    _check_settings(folder / SUMMARY, settings)
    folder.mkdir(parents=True, exist_ok=True)
    rows = _earlier(folder / SUMMARY)
    _write(settings, rows, folder)
    for recipe in recipes:
        name = run_name(recipe.weight_decay, recipe.seed)
        if name not in rows:
            rows[name] = _trained(splits, folder / name, replace(reference, recipe=recipe), (threads, device))
            _write(settings, rows, folder)
    return _summary(settings, rows)


def run_name(weight_decay: float, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"decay-{float(weight_decay)!r}-seed-{seed}"


def table(summary: Mapping[str, Any]) -> str:
    """Return a Markdown table of a summary: each weight decay's mean over seeds, of accuracy and over layers."""
    lines = [
        "| weight decay | runs | test accuracy | mean stable rank | mean effective rank | mean distance to classes |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    decays = sorted({run["weight_decay"] for run in summary["runs"]})
    for decay in decays:
        runs = [run for run in summary["runs"] if run["weight_decay"] == decay]
        layers = [layer for run in runs for layer in run["layers"]]
        ranks = (_mean(layer[name] for layer in layers) for name in ("stable_rank", "effective_rank"))
        far = _mean(layer["distance_to_classes"] for layer in layers)
        score = _mean(run["test_accuracy"] for run in runs)
        lines.append(f"| {decay:g} | {len(runs)} | {score:.4f} | {' | '.join(f'{r:.2f}' for r in ranks)} | {far:.4f} |")
    return "\n".join(lines)


def _trained(splits: Splits, folder: Path, run: Reference[Shape], where: tuple[int, str]) -> dict[str, Any]:
    """Train one run with so many threads on a device."""
    print(f"{folder.name}:", file=sys.stderr, flush=True)
    reached = train_network(splits, folder, run, threads=where[0], device=where[1])
    classes = len(splits.train.classes)
    best = torch.load(folder / "best.pt", weights_only=True, map_location="cpu")
    last = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")["model"]
    return {
        **{name: getattr(run.recipe, name) for name in _SWEPT},
        **{name: reached[name] for name in ("validation_accuracy", "test_accuracy", "epoch")},
        "layers": [asdict(rank) for rank in weight_ranks(best, classes)],
        "layers_last": [asdict(rank) for rank in weight_ranks(last, classes)],
    }


def _settings(splits: Splits, reference: Reference[Shape]) -> dict[str, Any]:
    recipe = {name: value for name, value in asdict(reference.recipe).items() if name not in _SWEPT}
    settings = {
        "images": {"train": _digest(splits.train), "test": _digest(splits.test)},
        "classes": list(splits.train.classes),
        "shape": asdict(reference.shape),
        "recipe": recipe,
        "share": SHARE,
    }
    as_written: dict[str, Any] = json.loads(json.dumps(settings))
    return as_written


def _digest(images: LabelledImages) -> str:
    found = hashlib.sha256(images.images.tobytes())
    found.update(images.labels.tobytes())
    return found.hexdigest()[:16]


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if not path.exists():
        return
    there = json.loads(path.read_text(encoding="utf-8"))["settings"]
    other = [name for name in settings if settings[name] != there.get(name)]
    if other:
        differ = "; ".join(f"{name} was {there.get(name)}, is {settings[name]}" for name in other)
        raise ValueError(f"{path} is of a sweep with other settings: {differ}; give another --out")


def _earlier(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return {run_name(run["weight_decay"], run["seed"]): run for run in runs}


def _summary(settings: Mapping[str, Any], rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(rows.values(), key=lambda row: (row["weight_decay"], row["seed"]))
    return {"settings": dict(settings), "runs": ordered}


def _write(settings: Mapping[str, Any], rows: Mapping[str, dict[str, Any]], folder: Path) -> None:
    write_whole(json.dumps(_summary(settings, rows), indent=2) + "\n", folder / SUMMARY)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _numbers(text: str) -> list[float]:
    try:
        return sorted({float(part) for part in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers with commas between") from error


def _seeds(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; expected whole numbers with commas between") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rankfold.models.sweep", description="Train a network at several weight decays and seeds."
    )
    add_training_options(parser)
    parser.add_argument("--weight-decays", type=_numbers, required=True, metavar="DECAY,…", help="such as 1e-4,1e-3")
    parser.add_argument("--seeds", type=_seeds, default=[0], metavar="SEED,…", help="default: 0")
    parser.set_defaults(weight_decay=None, seed=None)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line above: progress on stderr, a table of means on stdout."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        splits = datasets.read(options.dataset, options.data, image_size=options.image_size)
        reference = asked(options, splits)
        swept = {"weight_decays": options.weight_decays, "seeds": options.seeds, "device": options.device}
        summary = sweep(splits, options.out, reference, **swept, threads=options.threads)
    except (OSError, ValueError, ImportError, RankfoldError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print(table(summary))


if __name__ == "__main__":
    main()
