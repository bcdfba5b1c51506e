"""What healing brings: `python -m benchmarks.healing --work DIR [--only vit|dinov2] [--run NAME]`.

The embedded ViT, healed on 10,000 training images of Fashion-MNIST and scored on its 10,000 test images; the DINOv2
backbone, healed on 2,000 training images and scored by the CLS row of the first 96 test images. Every run leaves
`NAME.json` in the folder, a run that was killed goes on from its checkpoint, and one that is done is not repeated: the
same command, in the background, fills the folder. Each run takes its place in `results/healing.json` and in the
README's table beside those that are there. Nothing is chosen on test images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rankfold
from benchmarks import dinov2
from benchmarks.common import RESULTS, fashion_mnist, markdown, outputs, told, write_results
from rankfold.healing import How
from rankfold.models import demo
from rankfold.models import fashion_mnist as fashion

Row = dict[str, Any]

SEEDS = (0, 1, 2)
IMAGES = 10_000
DINO_IMAGES = 2000
MATRICES = rankfold.Options(latency_rounds=0, include=("MatMul", "Gemm"))
HEALING = {"vit": rankfold.Options(batch_size=32), "dinov2": rankfold.Options(batch_size=4, holdout=0.1)}
PASSES = {"vit": 2, "dinov2": 8}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        subject: `vit` or `dinov2`.
        keep: Share of the parameters of MatMul and Gemm.
        how: The last step of healing.
        seed: Of the split and of the order of the samples.
    """

    subject: str
    keep: float
    how: How
    seed: int

    @property
    def name(self) -> str:
        """Return what its files are called."""
        return f"{self.subject}-{self.keep}-{self.how}-{self.seed}"


CASES = (
    *(Case("dinov2", keep, "distill", 0) for keep in (0.75, 0.5, 0.33)),
    *(Case("vit", keep, "distill", seed) for seed in SEEDS for keep in (0.5, 0.33, 0.25)),
    *(Case("vit", 0.25, "finetune", seed) for seed in SEEDS),
    *(Case("vit", keep, "distill", seed) for seed in SEEDS for keep in (0.15, 0.1)),
    *(Case("vit", 0.1, "finetune", seed) for seed in SEEDS),
)


def main() -> None:
    """Run what is not done yet, and write the table when all is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and one JSON per run, kept")
    parser.add_argument("--only", choices=tuple(HEALING), help="runs of one model alone")
    parser.add_argument("--run", help="one run alone, by its name, such as vit-0.25-distill-0")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if chosen.only not in (None, case.subject) or chosen.run not in (None, case.name):
            continue
        if not (chosen.work / f"{case.name}.json").exists():
            measure(case, chosen.work)
            rows = _beside(chosen.work)
            write_results("healing", {"rows": rows}, table(rows))


def _beside(work: Path) -> list[Row]:
    """Return the rows of a folder with those that the results file has of other runs, in the order of `CASES`."""
    file = RESULTS / "healing.json"
    found = {_name(row): row for row in (json.loads(file.read_text())["rows"] if file.exists() else [])}
    for case in CASES:
        if (path := work / f"{case.name}.json").exists():
            found[case.name] = json.loads(path.read_text())
    return [found[case.name] for case in CASES if case.name in found]


def _name(row: Row) -> str:
    return Case(row["subject"], row["keep"], row["how"], row["seed"]).name


def measure(case: Case, work: Path) -> Row:
    """Compress, heal and score one model, and leave the row in its file."""
    base, calibration, data = _vit(work) if case.subject == "vit" else _dinov2(work)
    score = _accuracy(base) if case.subject == "vit" else _cls_row(base)
    candidate = work / f"{case.subject}-{case.keep}.onnx"
    if not candidate.exists():
        rankfold.compress(base, calibration, keep=case.keep, output=candidate, options=MATRICES)
    options = replace(
        HEALING[case.subject], seed=case.seed, checkpoint=work / f"{case.name}.checkpoint", progress=told(case.name)
    )
    wall, cpu = time.monotonic(), time.process_time()
    out = work / f"{case.name}.onnx"
    healed = rankfold.heal(
        base, candidate, data, how=case.how, output=out, passes=PASSES[case.subject], options=options
    )
    row = {
        "subject": case.subject,
        "keep": case.keep,
        "how": case.how,
        "seed": case.seed,
        "samples": healed.samples,
        "steps": [vars(step) for step in healed.steps],
        "wall_minutes": (time.monotonic() - wall) / 60,
        "cpu_minutes": (time.process_time() - cpu) / 60,
        "original": score(base),
        "before": score(candidate),
        "after": score(out),
    }
    partial = work / f".{case.name}.json.partial"
    partial.write_text(json.dumps(row, indent=2) + "\n")
    os.replace(partial, work / f"{case.name}.json")
    return row


def table(rows: list[Row]) -> str:
    """Return the runs, those that differ by the seed alone on one line."""
    head = ("healed", "runs", "before", "after", "relative L2 before", "after", "CPU minutes a run")
    groups: dict[tuple[str, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["subject"], row["keep"], row["how"]), []).append(row)
    lines = []
    for (subject, keep, how), runs in groups.items():
        lines.append(
            (
                f"{_TITLES[subject]}, keep {keep:.2f}, {how}",
                str(len(runs)),
                *(_drop(runs, side) for side in ("before", "after")),
                *(f"{_mean(runs, side, 'relative_l2'):.4f}" for side in ("before", "after")),
                f"{statistics.mean(run['cpu_minutes'] for run in runs):.0f}",
            )
        )
    return markdown(head, lines)


_TITLES = {"vit": "embedded ViT", "dinov2": "DINOv2 ViT-S/14"}


def _mean(runs: list[Row], side: str, name: str) -> float:
    return statistics.mean(run[side][name] for run in runs)


def _drop(runs: list[Row], side: str) -> str:
    """Return by how many points the accuracy on all test images is below the original's."""
    if "accuracy" not in runs[0][side]:
        return "-"
    return f"{100 * (_mean(runs, side, 'accuracy') - _mean(runs, 'original', 'accuracy')):+.2f} points"


def _vit(work: Path) -> tuple[Path, Path, Path]:
    """Return the model, what it is calibrated on, and 10,000 labelled training images."""
    data = work / f"fashion_{IMAGES}.npz"
    if not data.exists():
        split = fashion.read(fashion_mnist(), "train")
        images, labels = fashion.as_input(split.images[:IMAGES]), split.labels[:IMAGES].astype(np.int64)
        np.savez(data, image=images, labels=labels)
    return demo.embedded_model(), demo.calibration_data(), data


def _dinov2(work: Path) -> tuple[Path, Path, Path]:
    return dinov2.backbone(work), dinov2.calibration(work), dinov2.calibration(work, DINO_IMAGES)


def _accuracy(base: Path) -> Callable[[Path], Row]:
    split = fashion.read(fashion_mnist(), "test")
    inputs = fashion.as_input(split.images)
    reference = outputs(base, inputs, batch=250)

    def score(model: Path) -> Row:
        found = outputs(model, inputs, batch=250)
        away = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
        return {"accuracy": float((found.argmax(axis=1) == split.labels).mean()), "relative_l2": away}

    return score


def _cls_row(base: Path) -> Callable[[Path], Row]:
    images = dinov2.images("t10k", 96)
    reference = outputs(base, images, batch=8)[:, 0]

    def score(model: Path) -> Row:
        away = outputs(model, images, batch=8)[:, 0] - reference
        return {"relative_l2": float(np.linalg.norm(away) / np.linalg.norm(reference))}

    return score


if __name__ == "__main__":
    main()
