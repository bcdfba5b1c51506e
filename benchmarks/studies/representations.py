"""Low-rank representations: `python -m benchmarks.studies.representations --work DIR [--cifar10 FILE] [--full]`.

ResNet-18 on CIFAR-10 with and without a training term that pushes the activations of its last stages to low rank
(after Sanyal et al. 2018, arXiv 1804.07090), three seeds each: rank of activations by stage, accuracy as trained and
after compression, and under attack. The term's weight and ranks are chosen first, in short runs of another seed, on
images of the training split that no run trains on. Nothing is chosen on test images.

Every run and every measurement leaves a JSON in the folder when it is done, and a training goes on at its last
finished epoch: the same command goes on where it was. When all are there, the results, the pictures and the table on
the page of studies are written. `--redraw` writes pictures and table again from the committed results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

from benchmarks.studies.image_sets import Counts, cifar10
from benchmarks.studies.page import Page
from benchmarks.studies.representations_pictures import TITLES, pictures
from benchmarks.studies.representations_runs import (
    EPS,
    KEEPS,
    MODULES,
    Place,
    Run,
    Scale,
    Term,
    attacked,
    folded,
    measured,
    trained,
)
from benchmarks.studies.representations_summary import content, table
from benchmarks.studies.tasks import Row, Rows, Task, finished
from rankfold.runtime_calib.threads import available_cpus
from rankfold.values import Provider

NAME = "representations"
PAGE = Page(NAME, table, pictures, TITLES)
SEEDS = (0, 1, 2)
CHOOSING_SEED = 100  # none of the runs that are compared
TERMS = tuple(Term(share, weight) for share, weight in product((1 / 4, 1 / 8), (0.1, 1.0)))
CHOSEN_AT = min(KEEPS)
PLAIN, LOW_RANK = "plain", "low-rank"
SMALL = Scale(
    width=0.25,
    counts=Counts(10_000, 2_000, 10_000),
    epochs=24,
    choosing_epochs=10,
    calibration=256,
    measured=1_000,
    attacked=300,
    steps=10,
)
FULL = Scale(
    width=1.0,
    counts=Counts(45_000, 5_000, 10_000),
    epochs=100,
    choosing_epochs=30,
    calibration=512,
    measured=2_000,
    attacked=1_000,
    steps=20,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for images, models and one JSON per run, kept")
    parser.add_argument("--cifar10", type=Path, help="the npz of CIFAR-10 (default: $CIFAR10_NPZ)")
    parser.add_argument("--full", action="store_true", help="ResNet-18 of the published width on 45,000 images")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of the trainings")
    parser.add_argument("--device", choices=get_args(Provider), default="cpu", help="where networks train and run")
    parser.add_argument("--redraw", action="store_true", help="pictures and table from the results alone")
    chosen = parser.parse_args(arguments)
    if chosen.redraw:
        PAGE.redraw()
        return
    if chosen.work is None:
        parser.error("give --work, or --redraw")
    scale = FULL if chosen.full else SMALL
    images = cifar10(chosen.cifar10, scale.counts, chosen.work)
    study(Place(scale, images, chosen.work, chosen.threads, chosen.device))


def study(place: Place) -> None:
    """Run what is not done yet in a folder, and write the results."""
    settings = {
        "scale": asdict(place.scale),
        "images": place.images.digest,
        "terms": [asdict(term) for term in TERMS],
        "modules": MODULES,
        "seeds": SEEDS,
        "choosing_seed": CHOOSING_SEED,
        "keeps": KEEPS,
        "eps": EPS,
    }
    rows = finished(tasks_of(place), place.work, settings)
    found = content(settings, rows, chosen_term(rows).name)
    PAGE.publish(found)


def tasks_of(place: Place) -> list[Task]:
    """Return all runs and measurements, in their order; `minutes` are those of the default on two CPU cores."""
    found: list[Task] = []
    for term in (None, *TERMS):
        run = choosing_run(place, term)
        found += [
            Task(f"choose-{run.name}-train", partial(_choosing_train, place, run), run.epochs * _EPOCH_MINUTES),
            Task(f"choose-{run.name}-fold-{CHOSEN_AT:g}", partial(_choosing_fold, place, run), _FOLD_MINUTES),
        ]
    for seed, condition in product(SEEDS, (PLAIN, LOW_RANK)):
        found += _measurements(place, seed, condition)
    return found


def choosing_run(place: Place, term: Term | None) -> Run:
    """Return the short run that shows what a setting does."""
    return Run(PLAIN if term is None else term.name, term, CHOOSING_SEED, place.scale.choosing_epochs)


def chosen_term(rows: Rows) -> Term:
    """Return the setting that is right most often after compression, on images to choose by; the first among equals."""
    return max(TERMS, key=lambda term: rows[f"choose-{term.name}-{CHOOSING_SEED}-fold-{CHOSEN_AT:g}"]["accuracy"])


def _measurements(place: Place, seed: int, condition: str) -> list[Task]:
    def run(rows: Rows) -> Run:
        return Run(condition, chosen_term(rows) if condition == LOW_RANK else None, seed, place.scale.epochs)

    def fold(keep: float) -> Task:
        return Task(f"{name}-fold-{keep:g}", lambda rows: folded(place, run(rows), keep), _FOLD_MINUTES)

    name = f"{condition}-{seed}"
    return [
        Task(f"{name}-train", lambda rows: trained(place, run(rows)), place.scale.epochs * _EPOCH_MINUTES),
        Task(f"{name}-ranks", lambda rows: measured(place, run(rows)), _RANKS_MINUTES),
        *map(fold, KEEPS),
        Task(f"{name}-attack", lambda rows: attacked(place, run(rows)), _ATTACK_MINUTES),
    ]


def _choosing_train(place: Place, run: Run, _: Rows) -> Row:
    return trained(place, run, choosing=True)


def _choosing_fold(place: Place, run: Run, _: Rows) -> Row:
    return folded(place, run, CHOSEN_AT, choosing=True)


_EPOCH_MINUTES, _FOLD_MINUTES, _RANKS_MINUTES, _ATTACK_MINUTES = 0.25, 0.06, 0.02, 0.18


if __name__ == "__main__":
    main()
