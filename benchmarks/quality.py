"""Quality at equal parameters: `python -m benchmarks.quality [--work DIR]`.

Three models, three sizes, ours (all defaults but `keep`) beside plain SVD at the same ranks. Rewrites
`results/quality.json` and the tables in the README.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks import dinov2
from benchmarks.common import KEEPS, fashion_mnist, markdown, outputs, write_results
from benchmarks.plain_svd import fold_plain
from rankfold.models import demo
from rankfold.models import fashion_mnist as fashion
from rankfold.runtime_calib.latency import measure_latency

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is compressed and scored: a model, its calibration data, its score, a batch to time, and the options."""

    model: Path
    data: Path
    score: Callable[[Path], Row]
    feed: dict[str, NDArray[np.generic]]
    options: rankfold.Options


EVERY_LAYER = rankfold.Options(latency_rounds=0)  # each model is timed below, in its own way
# A transformer's share is that of its MatMul and Gemm weights, not of its patch convolution's.
MATRICES = rankfold.Options(latency_rounds=0, include=("MatMul", "Gemm"))


def main() -> None:
    """Run all models and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for models and data, kept; default: a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = {
            "embedded_vit": measured(_fashion(demo.embedded_model(), MATRICES), work),
            "embedded_resnet": measured(_fashion(demo.embedded_resnet(), EVERY_LAYER), work),
            "dinov2_vit_s14": measured(_dinov2(work), work),
        }
    tables = (
        fashion_table("embedded ViT, Fashion-MNIST", rows["embedded_vit"]),
        fashion_table("embedded ResNet, Fashion-MNIST", rows["embedded_resnet"]),
        _dino_table(rows["dinov2_vit_s14"]),
    )
    write_results("quality", rows, "\n\n".join(tables))


def _fashion(model: Path, options: rankfold.Options) -> Subject:
    """Score accuracy on the first 1,000 and on all 10,000 test images, and the size; time a batch of 64."""
    split = fashion.read(fashion_mnist(), "test")
    inputs, labels = fashion.as_input(split.images), split.labels

    def score(candidate: Path) -> Row:
        right = outputs(candidate, inputs, batch=250).argmax(1) == labels
        return {
            "accuracy_1000": float(right[:1000].mean()),
            "accuracy_10000": float(right.mean()),
            "size_bytes": candidate.stat().st_size,
        }

    return Subject(model, demo.calibration_data(), score, {"image": inputs[:64]}, options)


def _dinov2(work: Path) -> Subject:
    """Score the relative L2 of the CLS row on the first 96 test images; time a batch of 8."""
    model = dinov2.backbone(work)
    images = dinov2.images("t10k", 96)
    reference = outputs(model, images, batch=8)[:, 0]

    def score(candidate: Path) -> Row:
        away = outputs(candidate, images, batch=8)[:, 0] - reference
        return {"relative_l2": float(np.linalg.norm(away) / np.linalg.norm(reference))}

    return Subject(model, dinov2.calibration(work), score, {dinov2.INPUT: images[:8]}, MATRICES)


def measured(subject: Subject, work: Path) -> list[Row]:
    """Return one row for the original and, per size, one for plain SVD and one for rankfold; models go to `work`."""
    model = subject.model
    rows: list[Row] = [{"keep": 1.0, "method": "original", "kept": 1.0, "time_ratio": 1.0, **subject.score(model)}]
    for keep in KEEPS:
        output = work / f"{model.stem}.{keep}.onnx"
        result = rankfold.compress(model, subject.data, keep=keep, output=output, options=subject.options)
        blind = fold_plain(model, result.plan, work / f"{model.stem}.{keep}.svd.onnx")
        for method, candidate in (("plain SVD", blind), ("rankfold", output)):
            latency = measure_latency(model, candidate, subject.feed, rounds=20)
            rows.append(
                {
                    "keep": keep,
                    "method": method,
                    "kept": result.plan.kept,
                    "time_ratio": 1 / latency.speedup,
                    "before_ms": latency.before_ms,
                    "after_ms": latency.after_ms,
                    **subject.score(candidate),
                }
            )
    return rows


def fashion_table(title: str, rows: list[Row]) -> str:
    """Return the table of a classifier of Fashion-MNIST."""
    head = (title, "kept", "accuracy, 1,000", "accuracy, 10,000", "file, bytes", "batch-64 time")
    lines = [
        (
            _label(row),
            f"{row['kept']:.4f}",
            f"{100 * row['accuracy_1000']:.1f} %",
            f"{100 * row['accuracy_10000']:.2f} %",
            f"{row['size_bytes']:,}",
            f"{row['time_ratio']:.2f}",
        )
        for row in rows
    ]
    return markdown(head, lines)


def _dino_table(rows: list[Row]) -> str:
    head = ("DINOv2 ViT-S/14 backbone", "kept", "relative L2 of the CLS row", "batch-8 time")
    lines = [
        (_label(row), f"{row['kept']:.4f}", f"{row['relative_l2']:.4f}", f"{row['time_ratio']:.2f}") for row in rows
    ]
    return markdown(head, lines)


def _label(row: Row) -> str:
    return "original" if row["method"] == "original" else f"keep {row['keep']:.2f}, {row['method']}"


if __name__ == "__main__":
    main()
