"""Quality at equal parameters: `python -m benchmarks.quality [--work DIR]`.

Two models, three sizes, ours (all defaults but `keep`) beside plain SVD at the same ranks. Rewrites
`results/quality.json` and the tables in the README.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
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


def main() -> None:
    """Run both models and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for models and data, kept; default: a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        vit, dino = embedded_vit(work), dinov2_backbone(work)
    write_results("quality", {"embedded_vit": vit, "dinov2_vit_s14": dino}, f"{_vit_table(vit)}\n\n{_dino_table(dino)}")


def embedded_vit(work: Path) -> list[Row]:
    """Return accuracy on 1,000 and on 10,000 test images, and the time of a batch of 64, per size and method."""
    split = fashion.read(fashion_mnist(), "test")
    inputs, labels = fashion.as_input(split.images), split.labels
    model = demo.embedded_model()
    feed = {"image": inputs[:64]}

    def score(candidate: Path) -> Row:
        right = outputs(candidate, inputs, batch=250).argmax(1) == labels
        return {"accuracy_1000": float(right[:1000].mean()), "accuracy_10000": float(right.mean())}

    return _rows(model, demo.calibration_data(), work, score, feed)


def dinov2_backbone(work: Path) -> list[Row]:
    """Return the relative L2 of the CLS row on the first 96 test images, and the time of a batch of 8."""
    model = dinov2.backbone(work)
    images = dinov2.images("t10k", 96)
    reference = outputs(model, images, batch=8)[:, 0]

    def score(candidate: Path) -> Row:
        away = outputs(candidate, images, batch=8)[:, 0] - reference
        return {"relative_l2": float(np.linalg.norm(away) / np.linalg.norm(reference))}

    return _rows(model, dinov2.calibration(work), work, score, {dinov2.INPUT: images[:8]})


def _rows(
    model: Path, data: Path, work: Path, score: Callable[[Path], Row], feed: dict[str, NDArray[np.generic]]
) -> list[Row]:
    rows: list[Row] = [{"keep": 1.0, "method": "original", "kept": 1.0, "time_ratio": 1.0, **score(model)}]
    for keep in KEEPS:
        output = work / f"{model.stem}.{keep}.onnx"
        options = rankfold.Options(latency_rounds=0)
        result = rankfold.compress(model, data, keep=keep, output=output, options=options)
        blind = fold_plain(model, result.plan, work / f"{model.stem}.{keep}.svd.onnx")
        for method, candidate in (("plain SVD", blind), ("rankfold", output)):
            latency = measure_latency(model, candidate, feed, rounds=20)
            rows.append(
                {
                    "keep": keep,
                    "method": method,
                    "kept": result.plan.kept,
                    "time_ratio": 1 / latency.speedup,
                    "before_ms": latency.before_ms,
                    "after_ms": latency.after_ms,
                    **score(candidate),
                }
            )
    return rows


def _vit_table(rows: list[Row]) -> str:
    head = ("embedded ViT, Fashion-MNIST", "kept", "accuracy, 1,000", "accuracy, 10,000", "batch-64 time")
    lines = [
        (
            _label(row),
            f"{row['kept']:.4f}",
            f"{100 * row['accuracy_1000']:.1f} %",
            f"{100 * row['accuracy_10000']:.2f} %",
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
