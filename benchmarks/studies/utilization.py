"""How much of its weights a ViT uses, by how it was trained: `python -m benchmarks.studies.utilization --work DIR`.

Garg et al. 2024 (arXiv 2407.04797) report that self-supervised pre-training raises the mean layer utilization (MLU) by
up to 70 %. Compared are the embedded ViT, trained on labels, with DINOv2's ViT-S/14 on the same images; and one ViT
that is trained here twice from the same weights and on the same images, once on labels and once on hidden patches, for
each of three seeds. Every training and every measurement leaves its JSON in the folder; the same command goes on where
it was left, a training at its last finished epoch. When all are there, `results/studies/utilization.json`, the tables
in docs/studies.md and the pictures are written. Test images have no part in it.

`--full` trains a ViT of DINOv2's width and depth on all images for 100 epochs, for a GPU (`--device cuda`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.common import PICTURES, RESULTS, STUDIES, told, write_between, write_results, write_whole
from benchmarks.studies.utilization_figures import ABOUT, SHARES, Row, figures, summary, table
from benchmarks.studies.utilization_networks import (
    Network,
    Place,
    Settings,
    batch_count,
    epochs_of,
    feeds,
    model_of,
    networks,
)
from benchmarks.studies.utilization_pictures import AGAINST_SHARE, DEPTH, write_study_pictures
from rankfold import Options
from rankfold.models.recipe import Recipe
from rankfold.models.vit import ViTShape
from rankfold.pipeline import utilization
from rankfold.tools.pictures import PLOTS_MISSING, is_installed
from rankfold.values import Provider

NAME = "utilization"
# One recipe for both trainings, since weight decay and augmentation by themselves move ranks. An average over a
# hundred steps suits short runs; hidden patches need no boxes blanked on top.
_RECIPE = Recipe(
    epochs=20, batch=128, weight_decay=0.05, label_smoothing=0.0, drop_path=0.0, erase=0.0, average=0.99,
    precision="float32",
)  # fmt: skip
QUICK = Settings(ViTShape(width=96, depth=4, heads=3), _RECIPE, images=12_000, measured=1024, seeds=(0, 1, 2))
FULL = Settings(
    ViTShape(width=384, depth=12, heads=6),
    Recipe(epochs=100, weight_decay=0.05, label_smoothing=0.0, drop_path=0.0, erase=0.0),
    images=60_000, measured=2048, seeds=(0, 1, 2),
)  # fmt: skip
LAYERS = Options(include=("MatMul", "Gemm"), exclude=("head/*",))
_SAID_EVERY_S = 20.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and write the results when all is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for models, checkpoints and one JSON per run, kept")
    parser.add_argument("--full", action="store_true", help="a larger network, all images and more epochs")
    parser.add_argument(
        "--redraw", action="store_true", help="write pictures and tables again from the committed results"
    )
    parser.add_argument("--device", choices=get_args(Provider), default="cpu", help="where networks train and run")
    chosen = parser.parse_args(arguments)
    if chosen.redraw:
        content = json.loads((RESULTS / "studies" / f"{NAME}.json").read_text())
        write_between(NAME, _page(content), STUDIES)
    elif chosen.work is None:
        parser.error("--work says where models and runs are kept; it is needed unless --redraw is given")
    else:
        if not is_installed("matplotlib"):
            raise SystemExit(f"the pictures cannot be drawn: {PLOTS_MISSING}")
        content = study(FULL if chosen.full else QUICK, Place(chosen.work, chosen.device))
        write_results(NAME, content, _page(content), folder=RESULTS / "studies", page=STUDIES)
    PICTURES.mkdir(parents=True, exist_ok=True)
    print(*write_study_pictures(PICTURES, content["networks"]), sep="\n")


def study(settings: Settings, place: Place) -> dict[str, Any]:
    """Run what is not done yet, and return the settings, a row per network and way of counting, and the differences.

    Raises:
        SystemExit: The folder is of other settings.
    """
    place.work.mkdir(parents=True, exist_ok=True)
    _check_settings(settings, place.work / "settings.json")
    rows = []
    for index, network in enumerate(every := networks(settings)):
        later = sum(epochs_of(other, settings) for other in every[index + 1 :])
        model = model_of(network, settings, place, told=_after_epochs(network, settings, later))
        rows += [_measured(network, model, settings, place, about) for about in ABOUT]
    device = torch.cuda.get_device_name() if place.device == "cuda" else "CPU"
    return {"device": device, "settings": asdict(settings), "networks": rows, "differences": summary(rows)}


def _measured(network: Network, model: Path, settings: Settings, place: Place, about: str) -> Row:
    file = place.work / f"{network.name}.{about}.json"
    if not file.exists():
        name, count = f"{network.name}, variance about {about}", settings.measured
        print(f"{name}: measuring on {count} images", flush=True)
        began = time.monotonic()
        batches = told(name)(feeds(network, model, count), "batch", batch_count(count))
        options = replace(LAYERS, centred=about == "mean", provider=place.device)
        found = figures(utilization(model, batches, shares=SHARES, options=options))
        row = {"kind": network.kind, "seed": network.seed, "about": about, "minutes": _minutes(began), **found}
        write_whole(file, json.dumps(row, indent=2) + "\n")
    row = json.loads(file.read_text())
    beside = place.work / f"{network.name}.trained.json"
    return row | {"trained": json.loads(beside.read_text()) if beside.exists() else None}


def _after_epochs(network: Network, settings: Settings, later: int) -> Callable[[int, float], None]:
    """Return what prints a line now and then while a network is trained; after it come `later` epochs of others."""
    before = said = time.monotonic()

    def after(epoch: int, loss: float) -> None:
        nonlocal before, said
        now = time.monotonic()
        left = (now - before) * (settings.recipe.epochs - epoch + later) / 60
        before = now
        if now - said > _SAID_EVERY_S or epoch == settings.recipe.epochs:
            print(
                f"{network.name}: epoch {epoch} of {settings.recipe.epochs}, loss {loss:.4f},"
                f" {left:.1f} minutes left of all trainings",
                flush=True,
            )
            said = now

    return after


def _check_settings(settings: Settings, file: Path) -> None:
    wanted: Any = json.loads(json.dumps(asdict(settings)))
    if file.exists() and (there := json.loads(file.read_text())) != wanted:
        raise SystemExit(f"{file} is of a study with {there}, not {wanted}; give another --work")
    write_whole(file, json.dumps(wanted, indent=2) + "\n")


def _page(content: Row) -> str:
    """Return what goes onto the page: the conditions, the tables, the pictures."""
    shown = [f"![{title}](pictures/{file})" for title, file in _SHOWN.items()]
    return "\n\n".join([_conditions(content), table(content["networks"]), *shown])


_SHOWN = {"Utilization of each layer by block": DEPTH, "Mean layer utilization against the share": AGAINST_SHARE}


def _conditions(content: Row) -> str:
    settings = content["settings"]
    shape, recipe = settings["shape"], settings["recipe"]
    seeds = ", ".join(map(str, settings["seeds"]))
    return (
        f"On the first {settings['measured']:,} training images. Trained here: width {shape['width']},"
        f" {shape['depth']} blocks, patch {shape['patch_size']}, on {settings['images']:,} training images (one in"
        f" twelve validates) for {recipe['epochs']} epochs, seeds {seeds}. MLU, and the weights' own stable and"
        " effective rank over full rank, are means over layers in percent; in brackets the least and the largest of"
        " the seeds, below 95 % intervals of the paired differences (Student's)."
    )


def _minutes(began: float) -> float:
    return (time.monotonic() - began) / 60


if __name__ == "__main__":
    main()
