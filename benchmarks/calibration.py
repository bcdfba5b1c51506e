"""What capture costs: `python -m benchmarks.calibration [--work DIR] [--images N] [--rounds N]`.

Plain inference of the DINOv2 backbone, rankfold's capture at its defaults and in variants, and onnxruntime's own
calibrators, on the same images at batch 8, each right after a run of plain inference; medians over the rounds.
Rewrites `results/calibration.json` and the table in the README. The choice between summing in the graph and outside of
it was made on these figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from benchmarks import dinov2
from benchmarks.common import markdown, write_results
from rankfold.options import Options
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.taps import tap
from rankfold.runtime_calib.collect import Collector
from rankfold.runtime_calib.sessions import open_session
from rankfold.runtime_calib.threads import limited_threads
from rankfold.tapping import tap_settings
from rankfold.values import Feed

BATCH = 8
CALIBRATION_IMAGES = 256  # what a user gives; the default stride follows from it
Images = NDArray[np.float32]
Run = Callable[[], object]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The batches as onnxruntime's calibrators want them."""

    def __init__(self, feeds: Iterator[Feed]) -> None:
        self._feeds = feeds

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def main() -> None:
    """Time every way, interleaved, and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for the model, kept; default: a temporary one")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, limited_threads():
        model = load_model(dinov2.backbone(chosen.work or Path(temporary)))
        images = dinov2.images("train", chosen.images)
        ratios = _interleaved(_plain(model, images), _ways(model, images, Path(temporary)), chosen.rounds)
    rows = [_row(name, found) for name, found in ratios.items()]
    lines = [(row["way"], f"{row['ratio']:.2f}", f"{row['lowest']:.2f} to {row['highest']:.2f}") for row in rows]
    table = markdown(("DINOv2 ViT-S/14, batch 8", "time", "lowest to highest round"), lines)
    write_results("calibration", {"images": chosen.images, "rounds": chosen.rounds, "rows": rows}, table)


def _ways(model: Model, images: Images, folder: Path) -> dict[str, Run]:
    """Return one callable per way; each runs over all images once."""
    scan = find_sites(model)
    ways = {"plain inference again": _plain(model, images), "rankfold, defaults": _inside(model, scan, images, None)}
    for stride in (1, 2, 4):
        ways[f"rankfold, in the graph, every {_ordinal(stride)}row"] = _inside(model, scan, images, stride)
    for stride in (1, 4):
        ways[f"the same tensors out of the graph, numpy, every {_ordinal(stride)}row"] = _outside(
            model, scan, images, stride
        )
    for name, method in (("MinMax", CalibrationMethod.MinMax), ("Entropy", CalibrationMethod.Entropy)):
        ways[f"onnxruntime's {name} calibrator"] = _calibrator(model, images, method, folder)
    return ways


def _plain(model: Model, images: Images) -> Run:
    session = open_session(model.path)

    def run() -> None:
        for feed in _feeds(images):
            session.run(None, feed)

    return run


def _inside(model: Model, scan: Scan, images: Images, stride: int | None) -> Run:
    first = next(_feeds(images[:1]))
    settings = tap_settings(model, scan, first, CALIBRATION_IMAGES, options=Options(row_stride=stride))
    collector = Collector(tap(model, settings), seed=0)
    return lambda: collector.collect(_feeds(images))


def _outside(model: Model, scan: Scan, images: Images, stride: int) -> Run:
    tensors = list(dict.fromkeys(request.tensor for request in scan.requests))
    exposed = {output.name for output in model.proto.graph.output}
    addition = onnx.ModelProto()
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in exposed)
    session = open_session(model.path, addition=addition.SerializeToString())

    def run() -> None:
        sums: dict[str, Any] = dict.fromkeys(tensors, 0.0)
        for feed in _feeds(images):
            for name, value in zip(tensors, session.run(tensors, feed), strict=True):
                rows = value.reshape(-1, value.shape[-1])[::stride]
                sums[name] = sums[name] + (rows.T @ rows).astype(np.float64)

    return run


def _calibrator(model: Model, images: Images, method: CalibrationMethod, folder: Path) -> Run:
    """Return a run of one of onnxruntime's calibrators on the outputs of MatMul alone, its session made beforehand."""

    def run() -> None:
        calibrator.collect_data(_Reader(_feeds(images)))
        calibrator.compute_data()

    calibrator = create_calibrator(
        str(model.path),
        ["MatMul"],
        str(folder / f"{method.name}.onnx"),
        calibrate_method=method,
        providers=["CPUExecutionProvider"],
    )
    return run


def _interleaved(plain: Run, ways: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return each way's time over that of plain inference run right before it, per round."""
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            before, own = _seconds(plain), _seconds(run)
            if number:  # the first round warms up
                ratios[name].append(own / before)
    return ratios


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _row(name: str, ratios: list[float]) -> dict[str, Any]:
    return {"way": name, "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def _feeds(images: Images) -> Iterator[Feed]:
    return ({dinov2.INPUT: images[start : start + BATCH]} for start in range(0, len(images), BATCH))


def _ordinal(stride: int) -> str:
    return {1: "", 2: "2nd ", 4: "4th ", 8: "8th "}[stride]


if __name__ == "__main__":
    main()
