"""A large model in little memory: `python -m benchmarks.large [--work DIR] [--gigabytes 4]`.

Makes a transformer with external weights, runs `rankfold compress --keep 0.5` on it, and watches what all processes of
that command hold in memory of their own and write to disk. Then the source is moved away, the result to another folder,
and run there. Rewrites `results/large.json` and the table in the README. Fails where memory or writes go over the
bounds below. What it made is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.common import markdown, write_results
from benchmarks.synthetic_transformer import INPUT, Shape, shape_of, token_ids, write_transformer

MEMORY_BOUND = 2e9  # bytes of anonymous and shared memory
WRITES_BOUND = 1.2  # times the result and the moments
_SAMPLES, _TOKENS = 72, 16  # four fifths of them are more rows than a layer has features
_SAMPLED_SECONDS = 0.05
_GIGA = 1e9


@dataclass(frozen=True)
class Watched:
    """What a command did.

    Attributes:
        peak_bytes: The most anonymous and shared memory that all its processes held at a time.
        written_bytes: What they sent to the disk.
    """

    seconds: float
    peak_bytes: int
    written_bytes: int
    code: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model, compress it, check the result and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for model and result; default: a temporary one")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--memory", help="handed on to rankfold; by default its own default")
    chosen = parser.parse_args(arguments)
    shape = shape_of(chosen.gigabytes, width=chosen.width)
    with tempfile.TemporaryDirectory(dir=chosen.work) as folder:
        row = run(Path(folder), shape, memory=chosen.memory)
    write_results("large", row, _table(row))
    over = [name for name, kept in row["bounds_kept"].items() if not kept]
    if over:
        raise SystemExit(f"out of bounds: {', '.join(over)}")


def run(folder: Path, shape: Shape, *, memory: str | None) -> dict[str, Any]:
    """Return what one compression took and gave, in a folder that is to be deleted."""
    source, moved = folder / "source", folder / "moved"
    source.mkdir()
    write_transformer(source / "model.onnx", shape)
    ids = token_ids(shape, samples=_SAMPLES, tokens=_TOKENS)
    np.savez(folder / "data.npz", **{INPUT: ids})
    fresh = token_ids(shape, samples=4, tokens=_TOKENS, seed=2)
    before = _first_output(source / "model.onnx", fresh)
    result = folder / "result"
    result.mkdir()
    command = [sys.executable, "-m", "rankfold", "compress", str(source / "model.onnx"), "--data"]
    command += [str(folder / "data.npz"), "--keep", "0.5", "--allocation", "uniform"]
    command += ["-o", str(result / "small.onnx"), "--json", "--quiet"]
    with (folder / "report.json").open("wb") as report:
        seen = watch([*command, *(("--memory", memory) if memory else ())], report.fileno())
    if seen.code:
        raise SystemExit(f"rankfold ended with {seen.code}")
    shutil.rmtree(source)
    result.rename(moved)
    after = _first_output(moved / "small.onnx", fresh)
    found = json.loads((folder / "report.json").read_text())
    return _row(shape, seen, found, _bytes_in(moved), float(np.linalg.norm(after - before) / np.linalg.norm(before)))


def watch(command: Sequence[str], stdout: int) -> Watched:
    """Run a command to its end and return what it and its children took."""
    begun = time.perf_counter()
    # What Python keeps of the modules that it compiles at a first start is none of the command's data.
    process = subprocess.Popen(command, stdout=stdout, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    peak, written = 0, 0
    while process.poll() is None:
        family = [process.pid, *_children(process.pid)]
        peak = max(peak, sum(_own_memory(pid) for pid in family))
        written = max(written, sum(_written(pid) for pid in family))  # a child's count goes to its parent at the end
        time.sleep(_SAMPLED_SECONDS)
    return Watched(time.perf_counter() - begun, peak, written, process.returncode)


def _row(shape: Shape, seen: Watched, report: dict[str, Any], result_bytes: int, error: float) -> dict[str, Any]:
    moments = _moment_bytes(shape)
    worst = max(output["relative_l2"] for output in report["outputs"])
    return {
        "shape": asdict(shape),
        "model_bytes": shape.weight_bytes,
        "result_bytes": result_bytes,
        "moment_bytes": moments,
        "seconds": seen.seconds,
        "peak_bytes": seen.peak_bytes,
        "written_bytes": seen.written_bytes,
        "sweeps": report["settings"]["sweeps"],
        "notes": report["notes"],
        "kept": report["kept"],
        "relative_l2": worst,
        "relative_l2_moved": error,
        "self_check": report["self_check"],
        "bounds_kept": {
            "memory": seen.peak_bytes < MEMORY_BOUND,
            "writes": seen.written_bytes < WRITES_BOUND * (result_bytes + moments),
            "moved result": error < 2 * worst,
        },
    }


def _moment_bytes(shape: Shape) -> int:
    """Return the size of all moments: four tensors per layer and one, on two sides, in float64."""
    return 2 * 8 * (4 * shape.layers * shape.width**2 + 64**2)


def _first_output(model: Path, ids: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: ids})[0]


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        own = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []
    return own + [grandchild for child in own for grandchild in _children(child)]


def _own_memory(pid: int) -> int:
    """Return the bytes that are no file's: they cannot be dropped and read again."""
    return 1024 * sum(_numbers(pid, "status", ("RssAnon", "RssShmem")))


def _written(pid: int) -> int:
    return sum(_numbers(pid, "io", ("write_bytes",)))


def _numbers(pid: int, file: str, names: Sequence[str]) -> list[int]:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return []
    return [int(line.split()[1]) for line in lines if line.partition(":")[0] in names]


def _bytes_in(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def _table(row: dict[str, Any]) -> str:
    head = ("synthetic transformer, external weights", "GB")
    lines = [
        ("the model", f"{row['model_bytes'] / _GIGA:.2f}"),
        ("its embedding alone", f"{4 * row['shape']['vocabulary'] * row['shape']['width'] / _GIGA:.2f}"),
        ("the result at keep 0.50", f"{row['result_bytes'] / _GIGA:.2f}"),
        ("moments of all layers", f"{row['moment_bytes'] / _GIGA:.2f}"),
        ("most anonymous memory of all processes", f"{row['peak_bytes'] / _GIGA:.2f}"),
        ("written to disk", f"{row['written_bytes'] / _GIGA:.2f}"),
    ]
    minutes, sweeps = f"{row['seconds'] / 60:.0f} minutes in all", row["sweeps"]
    told = f"{minutes}; sweeps over the data: {sweeps}; relative L2 on held-out data:"
    return f"{markdown(head, lines)}\n\n{told} {row['relative_l2']:.3f}."


if __name__ == "__main__":
    main()
