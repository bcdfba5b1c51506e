"""The runs of the headline study: each is made once, scored on all test images, and kept in the work folder.

`NAME.json` says what came out, `NAME.npz` which test images were right; the JSON is written last and tells that a run
is done.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks.common import told, write_whole
from benchmarks.studies.headline_subjects import Subject
from rankfold.opening import open_model
from rankfold.passes.allocate import parameter_curve
from rankfold.runtime_calib.sessions import open_session
from rankfold.values import Provider

Row = dict[str, Any]
Right = NDArray[np.bool_]
Way = Literal["utilized", "keep"]
WAYS: tuple[Way, ...] = ("utilized", "keep")
MATRICES = ("MatMul", "Gemm")  # a patch embedding is a convolution, and stays as it is


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        shares: Of the variance, that projections keep.
        repeated: Those of them that are tuned with every seed, the others with the first alone.
        seeds: Of a fine-tuning's split and of the order of its images.
        training_images: To fine-tune on, a fifth of them held out: those choose when to stop.
        passes: Over them, at most.
        batch: Images in a step.
        device: Where models run and are tuned.
    """

    shares: tuple[float, ...]
    repeated: tuple[float, ...]
    seeds: tuple[int, ...]
    training_images: int
    passes: int
    batch: int
    device: Provider = "cpu"


# They keep .535, .338, .211, .140 and .103 of the embedded ViT's linear parameters; no share keeps more than .588.
_SHARES = (0.9999, 0.999, 0.995, 0.98, 0.95)
SETTINGS = {
    "small": Settings(_SHARES, _SHARES[1::2], (0, 1, 2), training_images=4000, passes=2, batch=32),
    "full": Settings(_SHARES, _SHARES, (0, 1, 2), training_images=50_000, passes=20, batch=64),
}


@dataclass(frozen=True)
class Scored:
    """A model that was scored: what is told of it, and which test images it had right."""

    row: Row
    right: Right

    def __post_init__(self) -> None:
        self.right.setflags(write=False)


@dataclass(frozen=True)
class Point:
    """One size: a share of the variance, and how the ranks of that size were chosen."""

    way: Way
    share: float

    @property
    def name(self) -> str:
        """Return what its files are called."""
        return f"{self.way}-{self.share}"


@dataclass(frozen=True)
class Outcome:
    """A size with its runs, one per seed; none where nothing was folded, so that there is nothing to tune."""

    point: Point
    before: Scored
    after: tuple[Scored, ...]


@dataclass(frozen=True)
class Found:
    """All of it."""

    title: str
    settings: Settings
    original: Scored
    outcomes: tuple[Outcome, ...]


class Study:
    """The runs of one subject in one folder."""

    def __init__(self, subject: Subject, work: Path, settings: Settings) -> None:
        self.subject, self.work, self.settings = subject, work, settings

    def options(self, name: str) -> rankfold.Options:
        """Return what folding and fine-tuning share; a run tells its name now and then."""
        return rankfold.Options(
            include=MATRICES,
            latency_rounds=0,
            batch_size=self.settings.batch,
            provider=self.settings.device,
            progress=told(name),
        )

    def run(self) -> Found:
        """Make the runs that are not there yet: all sizes first, then one fine-tuning of each, then the other seeds."""
        original = self._once("original", lambda: ({}, self.subject.model))
        points = [Point(way, share) for share in self.settings.shares for way in WAYS]
        folded = {point: self.fold(point) for point in points}
        wanted = [
            (point, seed)
            for place, seed in enumerate(self.settings.seeds)
            for point in points
            if folded[point].row["folded"] and (place == 0 or point.share in self.settings.repeated)
        ]
        tuned: dict[Point, list[Scored]] = {point: [] for point in points}
        for point, seed in self._watched(wanted):
            tuned[point].append(self.tune(point, seed))
        outcomes = tuple(Outcome(point, folded[point], tuple(tuned[point])) for point in points)
        return Found(self.subject.title, self.settings, original, outcomes)

    def fold(self, point: Point) -> Scored:
        """Return a size before fine-tuning; `keep` folds to the share that the same share of the variance left.

        Or to the least that it can reach: its ranks are multiples of 8 or 16.
        """

        def make() -> tuple[Row, Path]:
            model, data, out = self.subject.model, self.subject.calibration, self.work / f"{point.name}.onnx"
            options = self.options(point.name)
            if point.way == "utilized":
                result = rankfold.compress(model, data, utilized=point.share, output=out, options=options)
            else:
                kept = max(self.fold(Point("utilized", point.share)).row["kept"], least_kept(model, options))
                result = rankfold.compress(model, data, keep=kept, output=out, options=options)
            report = result.report
            sizes = {name: asdict(getattr(report, name)) for name in ("linear_parameters", "parameters", "size_bytes")}
            return {"kept": result.plan.kept, "folded": len(result.plan.folded), **sizes}, out

        return self._once(point.name, make)

    def tune(self, point: Point, seed: int) -> Scored:
        """Return a size after fine-tuning."""
        name = f"{point.name}-finetune-{seed}"

        def make() -> tuple[Row, Path]:
            out = self.work / f"{name}.onnx"
            options = replace(self.options(name), seed=seed, checkpoint=self.work / f"{name}.checkpoint")
            healed = rankfold.heal(
                self.subject.model,
                self.work / f"{point.name}.onnx",
                self.subject.training,
                how="finetune",
                output=out,
                passes=self.settings.passes,
                options=options,
            )
            return {"seed": seed, "samples": healed.samples, "steps": [asdict(step) for step in healed.steps]}, out

        return self._once(name, make)

    def _once(self, name: str, make: Callable[[], tuple[Row, Path]]) -> Scored:
        """Return what the folder holds of a run, or make and score it and write that down."""
        file, terms = self.work / f"{name}.json", self.work / f"{name}.npz"
        if file.exists():
            with np.load(terms) as kept:
                return Scored(json.loads(file.read_text()), kept["right"])
        start, cpu = time.monotonic(), time.process_time()
        row, model = make()
        found = right(model, self.subject, self.settings.device)
        minutes = {"minutes": (time.monotonic() - start) / 60, "cpu_minutes": (time.process_time() - cpu) / 60}
        row = {**row, "accuracy": 100 * float(found.mean()), **minutes}
        partial = terms.with_name(terms.name + ".partial")
        with partial.open("wb") as archive:
            np.savez_compressed(archive, right=found)
        os.replace(partial, terms)
        write_whole(file, json.dumps(row, indent=2) + "\n")
        print(f"{name}: {row['accuracy']:.2f} %, {minutes['minutes']:.1f} minutes", flush=True)
        return Scored(json.loads(file.read_text()), found)

    def _watched(self, wanted: list[tuple[Point, int]]) -> Iterator[tuple[Point, int]]:
        """Yield what is wanted, and tell after each run that was not there how long the others will take."""
        missing = [pair for pair in wanted if not (self.work / f"{pair[0].name}-finetune-{pair[1]}.json").exists()]
        start, made = time.monotonic(), 0
        for pair in wanted:
            yield pair
            if pair in missing:
                made += 1
                left = (time.monotonic() - start) / made * (len(missing) - made) / 60
                print(f"{made} of {len(missing)} fine-tunings done, about {left:.0f} minutes left", flush=True)


def right(model: Path, subject: Subject, device: Provider) -> Right:
    """Return which test images a model has right, (images,)."""
    session = open_session(model, provider=device)
    parts = [session.run(None, {"image": images})[0].argmax(axis=1) == labels for images, labels in subject.test()]
    return np.concatenate(parts)


def least_kept(model: Path, options: rankfold.Options) -> float:
    """Return the least share of the foldable parameters that aligned ranks can keep, rounded up a little."""
    _, scan = open_model(model, options)
    sizes = ((site.in_features, site.out_features, site.blocks, site.pivots) for site in scan.sites)
    least = sum(
        parameter_curve("", (fan_in, fan_out), lambda _: 0.0, blocks=blocks, pivots=bool(pivots)).choices[0].cost
        for fan_in, fan_out, blocks, pivots in sizes
    )
    whole = scan.fixed_dense_parameters + sum(site.parameters for site in scan.sites)
    return (scan.fixed_parameters + least) / whole + _ROUNDED_UP


_ROUNDED_UP = 1e-6
