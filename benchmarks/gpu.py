"""The whole way on one GPU: `python -m benchmarks.gpu [--provider cuda] [--models vit dino] [--precisions fp32 fp16]`.

Capture, compress, validate and time the embedded ViT and the DINOv2 backbone at keep 0.5, in float32 and float16, at
batch 1, 8 and 64, and compare what the GPU computes with what the CPU does. Rewrites `results/gpu.json` and the table
in the README; with `--provider cpu` it only prints, so that the same path can be tried on any machine.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import convert_float_to_float16

import rankfold
from benchmarks import dinov2
from benchmarks.common import markdown, outputs, write_results
from rankfold.models import demo
from rankfold.runtime_calib.latency import measure_latency
from rankfold.values import Provider

KEEP = 0.5
_COMPARED = 8  # images on which GPU and CPU are compared


@dataclass(frozen=True)
class Case:
    """One model with its input name, calibration data, and images to run it on."""

    name: str
    model: Path
    data: Path
    input: str
    images: NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case and write, or with the CPU only print, what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", choices=tuple(_CASES), default=list(_CASES))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "fp16"), default=["fp32", "fp16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--work", type=Path, help="folder for models and data, kept; default: a temporary one")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        cases = [_CASES[name](work) for name in chosen.models]
        rows = [_measured(case, precision, work, chosen) for case in cases for precision in chosen.precisions]
    table = _table(rows, chosen.batches)
    if chosen.provider == "cuda":
        write_results("gpu", {"device": _device(), "keep": KEEP, "rows": rows}, f"{_device()}, keep {KEEP}:\n\n{table}")
    else:
        print(table)


def _vit(_work: Path) -> Case:
    with np.load(demo.test_data()) as archive:
        images = archive["image"][:64]
    return Case("embedded ViT", demo.embedded_model(), demo.calibration_data(), "image", images)


def _dino(work: Path) -> Case:
    images = dinov2.images("t10k", 64)
    return Case("DINOv2 ViT-S/14", dinov2.backbone(work), dinov2.calibration(work), dinov2.INPUT, images)


_CASES: dict[str, Callable[[Path], Case]] = {"vit": _vit, "dino": _dino}


def _measured(case: Case, precision: str, work: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    provider: Provider = chosen.provider
    model = case.model if precision == "fp32" else _in_float16(case.model, work)
    output = work / f"{model.stem}.{precision}.folded.onnx"
    options = rankfold.Options(provider=provider, latency_rounds=0)
    began = time.perf_counter()
    rankfold.calibrate(model, case.data, options=options)
    captured = time.perf_counter()
    result = rankfold.compress(model, case.data, keep=KEEP, output=output, options=options)
    done = time.perf_counter()
    few = case.images[:_COMPARED]
    here, there = (outputs(output, few, batch=_COMPARED, provider=where) for where in (provider, "cpu"))
    feeds = [{case.input: case.images[:batch]} for batch in chosen.batches]
    times = [measure_latency(model, output, feed, provider=provider, rounds=chosen.rounds) for feed in feeds]
    return {
        "model": case.name,
        "precision": precision,
        "kept": result.plan.kept,
        "capture_seconds": captured - began,
        "compress_seconds": done - captured,
        "relative_l2": max(output.relative_l2 for output in result.report.discrepancy.outputs),
        "gpu_to_cpu_relative_l2": float(np.linalg.norm(here - there) / np.linalg.norm(there)),
        "latency": [
            {"batch": t.batch, "before_ms": t.before_ms, "after_ms": t.after_ms, "speedup": t.speedup} for t in times
        ],
    }


def _in_float16(model: Path, work: Path) -> Path:
    path = work / f"{model.stem}.fp16.onnx"
    half = convert_float_to_float16(onnx.load(model), keep_io_types=True)
    # The converter puts its Casts at the end, which the ONNX standard does not allow.
    onnx.save(gs.export_onnx(gs.import_onnx(half).toposort()), path)
    return path


def _table(rows: list[dict[str, Any]], batches: list[int]) -> str:
    head = ("model", "capture, s", "compress, s", "relative L2", "GPU to CPU", *(f"batch {b}, ms" for b in batches))
    lines = [
        (
            f"{row['model']}, {row['precision']}",
            f"{row['capture_seconds']:.1f}",
            f"{row['compress_seconds']:.1f}",
            f"{row['relative_l2']:.4f}",
            f"{row['gpu_to_cpu_relative_l2']:.1e}",
            *(f"{t['before_ms']:.2f} → {t['after_ms']:.2f} ({t['speedup']:.2f} ×)" for t in row["latency"]),
        )
        for row in rows
    ]
    return markdown(head, lines)


def _device() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
