"""Neural rank collapse: `python -m benchmarks.studies.collapse --work DIR [--cifar10 FILE] [--full]`.

A fully connected network on Fashion-MNIST and a small ResNet on CIFAR-10, at several weight decays with three seeds
each (after Zangrando et al. 2024, arXiv 2402.03991): each layer's rank and distance to rank K, the number of classes,
against weight decay, and against the within-class variability of what the layer reads, on training images.

Every run and every measurement leaves a JSON in the folder when it is done, and a training goes on at its last
finished epoch: the same command goes on where it was. When all are there, the results, the pictures and the table on
the page of studies are written. `--redraw` writes pictures and table again from the committed results. Nothing is
chosen on test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

from benchmarks.studies.collapse_pictures import TITLES, pictures
from benchmarks.studies.collapse_runs import Place, Scale, Subject, measured, trained
from benchmarks.studies.collapse_summary import content, table
from benchmarks.studies.image_sets import Counts, cifar10, fashion_images
from benchmarks.studies.page import Page
from benchmarks.studies.tasks import Row, Rows, Task, finished
from rankfold.runtime_calib.threads import available_cpus
from rankfold.values import Provider

NAME = "collapse"
PAGE = Page(NAME, table, pictures, TITLES)
SEEDS = (0, 1, 2)
DECAYS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # both networks still learn at the largest; a smaller one does little so soon
SMALL = {
    "mlp": Scale(Counts(20_000, 0, 10_000), epochs=60, batch=64, measured=2_000, width=0.5, decays=DECAYS),
    "resnet": Scale(Counts(5_000, 0, 10_000), epochs=24, batch=32, measured=1_000, width=0.5, decays=DECAYS),
}
FULL = {
    "mlp": Scale(Counts(60_000, 0, 10_000), epochs=200, batch=128, measured=10_000, width=1.0, decays=DECAYS),
    "resnet": Scale(Counts(50_000, 0, 10_000), epochs=200, batch=128, measured=10_000, width=1.0, decays=DECAYS),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for images, models and one JSON per run, kept")
    parser.add_argument("--cifar10", type=Path, help="the npz of CIFAR-10 (default: $CIFAR10_NPZ)")
    parser.add_argument("--full", action="store_true", help="all training images, whole widths, 200 epochs")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of the trainings")
    parser.add_argument("--device", choices=get_args(Provider), default="cpu", help="where networks train and run")
    parser.add_argument("--redraw", action="store_true", help="pictures and table from the results alone")
    chosen = parser.parse_args(arguments)
    if chosen.redraw:
        PAGE.redraw()
        return
    if chosen.work is None:
        parser.error("give --work, or --redraw")
    scales = FULL if chosen.full else SMALL
    images = {
        "mlp": fashion_images(scales["mlp"].counts),
        "resnet": cifar10(chosen.cifar10, scales["resnet"].counts, chosen.work),
    }
    study(
        Place(chosen.work, chosen.threads, chosen.device),
        [Subject(name, scale, images[name]) for name, scale in scales.items()],
    )


def study(place: Place, subjects: Sequence[Subject]) -> None:
    """Run what is not done yet in a folder, and write the results."""
    settings = {
        "subjects": {subject.name: {**asdict(subject.scale), "images": subject.images.digest} for subject in subjects},
        "seeds": SEEDS,
    }
    rows = finished(tasks_of(place, subjects), place.work, settings)
    found = content(settings, rows)
    PAGE.publish(found)


def tasks_of(place: Place, subjects: Sequence[Subject]) -> list[Task]:
    """Return all runs and measurements, in their order; `minutes` are those of the default on two CPU cores."""
    found: list[Task] = []
    for subject in subjects:
        for seed, decay in product(SEEDS, subject.scale.decays):
            name = f"{subject.name}-{decay:g}-{seed}"
            found += [
                Task(f"{name}-train", partial(_train, place, subject, (decay, seed)), _TRAIN_MINUTES[subject.name]),
                Task(f"{name}-measure", partial(_measure, place, subject, (decay, seed)), _MEASURE_MINUTES),
            ]
    return found


def _train(place: Place, subject: Subject, run: tuple[float, int], _: Rows) -> Row:
    return trained(place, subject, *run)


def _measure(place: Place, subject: Subject, run: tuple[float, int], _: Rows) -> Row:
    return measured(place, subject, *run)


_TRAIN_MINUTES, _MEASURE_MINUTES = {"mlp": 1.0, "resnet": 2.0}, 0.05


if __name__ == "__main__":
    main()
