"""What healing brings: `python -m benchmarks.healing --work DIR [--only vit|dinov2|minilm] [--run NAME]`.

Three models at several sizes, healed on training data and scored as `benchmarks.subjects` scores them: the embedded ViT
on 10,000 training images, the DINOv2 backbone on 2,000, the sentence encoder MiniLM on 8,000 sentences. With
`--provider cuda` the backbone is healed on 20,000 images: minutes for a GPU, half a day for a CPU. Every run leaves
`NAME.json` in the folder, a run that was killed goes on from its checkpoint, and one that is done is not repeated: the
same command, in the background, fills the folder, which holds the runs of one provider. Each run takes its place in
`results/healing.json` and in the README's tables beside those that are there. Nothing is chosen on test samples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

import rankfold
from benchmarks import dinov2, frontier_table, sentences, subjects
from benchmarks.candidates import Candidate, Scored, read, write
from benchmarks.common import RESULTS, fashion_mnist, told, write_results, write_whole
from benchmarks.healing_table import table
from benchmarks.intervals import Measure, paired_interval
from rankfold.healing import How
from rankfold.models import fashion_mnist as fashion
from rankfold.values import Provider

Row = dict[str, Any]

SEEDS = (0, 1, 2)
IMAGES = 10_000
DINO_IMAGES = 2000
DINO_GPU_IMAGES, DINO_GPU_PASSES = 20_000, 8


@dataclass(frozen=True)
class Ground:
    """What a model is healed on, and how.

    Attributes:
        data: Writes the samples into a folder and gives their file.
        passes: Over them.
        batch_size: Samples of a step.
        holdout: Share of the samples that chooses and reports.
        judged: Writes a model that also gives out what is scored, into a folder; None where its outputs are that.
    """

    data: Callable[[Path], Path]
    passes: int
    batch_size: int
    holdout: float = 0.2
    judged: Callable[[Path, Path], Path] | None = None


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        subject: One of `GROUNDS`.
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
    *(Case("dinov2", keep, "distill", 0) for keep in (0.75, 0.65, 0.5, 0.33, 0.25)),
    *(Case("minilm", keep, "distill", 0) for keep in (0.75, 0.65, 0.5, 0.33, 0.25)),
    *(Case("vit", keep, "distill", seed) for seed in SEEDS for keep in (0.5, 0.33, 0.25)),
    *(Case("vit", 0.25, "finetune", seed) for seed in SEEDS),
    *(Case("vit", keep, "distill", seed) for seed in SEEDS for keep in (0.15, 0.1)),
    *(Case("vit", 0.1, "finetune", seed) for seed in SEEDS),
    *(Case("vit", keep, "distill", 0) for keep in (0.75, 0.65)),
)


def main() -> None:
    """Run what is not done yet; after each run, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models, data and one JSON per run, kept")
    parser.add_argument("--only", choices=tuple(GROUNDS), help="runs of one model alone")
    parser.add_argument("--run", help="one run alone, by its name, such as vit-0.25-distill-0")
    parser.add_argument("--provider", choices=get_args(Provider), default="cpu", help="where models run and are healed")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if chosen.only not in (None, case.subject) or chosen.run not in (None, case.name):
            continue
        if not (chosen.work / f"{case.name}.json").exists():
            measure(case, chosen.work, chosen.provider)
            _publish(chosen.work)
    _publish(chosen.work)


def _publish(work: Path) -> None:
    """Write the results and both tables that show them."""
    rows = _beside(work)
    write_results("healing", {"rows": rows}, table(rows))
    frontier_table.rewrite()


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


def measure(case: Case, work: Path, provider: Provider = "cpu") -> Row:
    """Compress, heal and score one model, and leave the row in its file."""
    subject = subjects.SUBJECTS[case.subject](work)
    ground = (GROUNDS if provider == "cpu" else GPU_GROUNDS)[case.subject]
    candidate = work / f"{case.subject}-{case.keep}.onnx"
    if not candidate.exists():
        rankfold.compress(subject.model, subject.data, keep=case.keep, output=candidate, options=subject.options)
    out, report = work / f"{case.name}.onnx", work / f"{case.name}.healed.json"
    if not report.exists():  # what healing says of itself; scoring takes minutes too
        write_whole(report, _as_json(_healed(case, subject, ground, (candidate, out), provider)))
    scores = {
        "original": _scores(subject, "original", subject.model, work),
        "unhealed": _scores(subject, f"{case.keep}", candidate, work),
        "healed": _scores(subject, case.name, out, work),
    }
    row = {
        **vars(case),
        **json.loads(report.read_text()),
        "scores": {side: {name: one.value for name, one in found.items()} for side, found in scores.items()},
        "less_unhealed": _differences(scores["unhealed"], scores["healed"]),
        "less_original": _differences(scores["original"], scores["healed"]),
    }
    write_whole(work / f"{case.name}.json", _as_json(row))
    return row


def _healed(case: Case, subject: subjects.Subject, ground: Ground, paths: tuple[Path, Path], provider: Provider) -> Row:
    candidate, out = paths
    options = replace(
        subject.options,
        batch_size=ground.batch_size,
        holdout=ground.holdout,
        seed=case.seed,
        provider=provider,
        checkpoint=out.with_suffix(".checkpoint"),
        progress=told(case.name),
    )
    wall, cpu = time.monotonic(), time.process_time()
    base, data = subject.model, ground.data(out.parent)
    if ground.judged:
        base, candidate = (ground.judged(model, out.parent) for model in (base, candidate))
    healed = rankfold.heal(base, candidate, data, how=case.how, output=out, passes=ground.passes, options=options)
    return {
        "samples": healed.samples,
        "passes": ground.passes,
        "device": torch.cuda.get_device_name() if provider == "cuda" else "cpu",
        "steps": [vars(step) for step in healed.steps],
        "wall_minutes": (time.monotonic() - wall) / 60,
        "cpu_minutes": (time.process_time() - cpu) / 60,
    }


def _scores(subject: subjects.Subject, name: str, model: Path, work: Path) -> subjects.Scores:
    """Return a model's scores, from the folder where it was scored before."""
    file = work / "scores" / f"{subject.name}.{name}.json"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        candidate = Candidate(subject.name, 1.0, name, "none")
        write(Scored(candidate, 1.0, model.stat().st_size, subject.score(model)), file)
    return read(file).scores


def _differences(first: subjects.Scores, second: subjects.Scores) -> dict[str, Row]:
    """Return how much larger the second's scores are, with their paired intervals over the test samples."""
    pairs: dict[str, tuple[Measure, Measure]] = {name: (first[name], second[name]) for name in first}
    return {name: vars(paired_interval(*pair)) for name, pair in pairs.items()}


def _as_json(content: Row) -> str:
    return json.dumps(content, indent=2) + "\n"


def _images(work: Path) -> Path:
    """Write the first 10,000 labelled training images of Fashion-MNIST, unless they are there."""
    data = work / f"fashion_{IMAGES}.npz"
    if not data.exists():
        split = fashion.read(fashion_mnist(), "train")
        images, labels = fashion.as_input(split.images[:IMAGES]), split.labels[:IMAGES].astype(np.int64)
        np.savez(data, image=images, labels=labels)
    return data


def _sentences(work: Path) -> Path:
    """Write the sentences to heal on, unless they are there."""
    return subjects.sentence_data(work, sentences.read(sentences.written(work))["healing"], "healing")


GROUNDS = {
    "vit": Ground(_images, passes=2, batch_size=32),
    "dinov2": Ground(
        lambda work: dinov2.calibration(work, DINO_IMAGES),
        passes=8,
        batch_size=4,
        holdout=0.1,
        judged=dinov2.with_class_row,
    ),
    "minilm": Ground(_sentences, passes=4, batch_size=32),
}
GPU_GROUNDS = GROUNDS | {
    "dinov2": Ground(
        lambda work: dinov2.training_script(work, DINO_GPU_IMAGES),
        passes=DINO_GPU_PASSES, batch_size=32, holdout=0.05, judged=dinov2.with_class_row,
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
