"""What the pivoted form costs in time: `python -m benchmarks.pivoted [--rounds N]`; rewrites `results/pivoted.json`.

One layer, MatMul and Add, with a made-up weight: dense, folded as a pair, and pivoted with as many parameters as the
pair, at the next lower multiple of the rank quantum. Times are one thread's own, which other work on the machine hardly
changes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import numpy_helper, parser, save

from benchmarks.common import markdown, write_results
from benchmarks.plain_svd import fold_plain
from rankfold.passes.allocate import rank_quantum
from rankfold.passes.model_file import load_model
from rankfold.values import Form, RankPlan, SiteRank, folded_parameters

Row = dict[str, Any]
BATCHES = ((8, 257), (64, 50))  # a ViT's batch of 8 and a smaller one's of 64, in rows (batch, tokens)
SIZES = ((384, 384), (384, 1536), (1536, 384), (128, 512), (512, 128), (128, 128), (64, 64))
SHARES = (0.20, 0.33, 0.50, 0.75)  # of the weight's parameters, for the pair


def main() -> None:
    """Time every size, write what came out, and print it."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=30)
    rounds = asked.parse_args().rounds
    rows = [row for case in itertools.product(BATCHES, SIZES) for row in timed_layer(*case, rounds=rounds)]
    head = (
        "rows, in × out",
        "share",
        "rank as a pair",
        "rank pivoted",
        "dense, ms",
        "pair",
        "pivoted",
        "pivoted / pair",
    )
    table = markdown(head, [_cells(row) for row in rows])
    write_results("pivoted", {"rows": rows}, table)


def timed_layer(batch: tuple[int, int], sizes: tuple[int, int], *, rounds: int) -> list[Row]:
    """Return one row per share at which the layer has a rank."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        layer = _layer(Path(folder) / "layer.onnx", sizes)
        feed = np.random.default_rng(0).standard_normal((*batch, sizes[0])).astype(np.float32)
        for share in SHARES:
            quantum = rank_quantum(*sizes)
            pair = int(share * math.prod(sizes) / sum(sizes)) // quantum * quantum
            if not pair:
                continue
            pivoted = pivoted_rank(*sizes, pair)
            forms: dict[str, tuple[int, Form]] = {"pair": (pair, "pair"), "pivoted": (pivoted, "pivoted")}
            models = {"dense": layer} | {
                name: _folded(layer, sizes, *form, Path(folder) / f"{name}.onnx") for name, form in forms.items()
            }
            times = _interleaved(models, feed, rounds)
            rows.append(
                {"rows": math.prod(batch), "sizes": sizes, "share": share, "ranks": [pair, pivoted], "ms": times}
            )
    return rows


def pivoted_rank(in_features: int, out_features: int, pair: int) -> int:
    """Return the largest aligned rank that takes no more parameters pivoted than `pair` does as a pair."""
    budget = folded_parameters(in_features, out_features, pair, "pair")
    quantum = rank_quantum(in_features, out_features)
    ranks = range(quantum, min(in_features, out_features), quantum)
    return max(rank for rank in ranks if folded_parameters(in_features, out_features, rank, "pivoted") <= budget)


def _layer(path: Path, sizes: tuple[int, int]) -> Path:
    random = np.random.default_rng(1)
    header = '<ir_version: 9, opset_import: ["" : 17]>'
    text = f"g (float[b,t,{sizes[0]}] x) => (float[b,t,{sizes[1]}] y) {{ [layer] p = MatMul(x, w) y = Add(p, b) }}"
    model = parser.parse_model(header + text)
    weight = (random.standard_normal(sizes) / math.sqrt(sizes[0])).astype(np.float32)
    bias = random.standard_normal(sizes[1]).astype(np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")])
    save(model, path)
    return path


def _folded(layer: Path, sizes: tuple[int, int], rank: int, form: Form, target: Path) -> Path:
    line = SiteRank("layer", *sizes, rank, 0.0, form=form)
    return fold_plain(layer, RankPlan(load_model(layer).digest, "by hand", 0, 0, (line,)), target)


def _interleaved(models: dict[str, Path], feed: np.ndarray, rounds: int) -> dict[str, float]:
    """Return the first quartile of each model's times in milliseconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    sessions = {
        name: onnxruntime.InferenceSession(str(path), options, providers=providers) for name, path in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 2):  # the first two prepare
        for name, session in sessions.items():
            started = time.thread_time()
            session.run(None, {"x": feed})
            if number > 1:
                times[name].append(1000 * (time.thread_time() - started))
    return {name: float(np.quantile(found, 0.25)) for name, found in times.items()}


def _cells(row: Row) -> tuple[str, ...]:
    dense, pair, pivoted = (row["ms"][name] for name in ("dense", "pair", "pivoted"))
    return (
        f"{row['rows']:,}, {row['sizes'][0]} × {row['sizes'][1]}",
        f"{row['share']:.2f}",
        *map(str, row["ranks"]),
        f"{dense:.2f}",
        f"{pair / dense:.2f}",
        f"{pivoted / dense:.2f}",
        f"{pivoted / pair:.2f}",
    )


if __name__ == "__main__":
    main()
