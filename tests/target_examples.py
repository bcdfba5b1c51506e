"""A chain of five layers small enough to enumerate: seven choices each, nonlinear between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import numpy_helper

from rankfold.capture import capture
from rankfold.choose import open_search
from rankfold.decide import Grounds, grounds_of
from rankfold.lab import Plan
from rankfold.opening import open_model, with_outputs
from rankfold.options import Options
from rankfold.passes.plan import dense_plan
from rankfold.search import Search

WIDTH = 120  # the least that gives six ranks beside staying dense
LAYERS = 5
SAMPLES = 400
QUICK = Options(latency_rounds=0, metric="relative_l2")
Array = NDArray[np.float32]


def chain(path: Path, seed: int) -> Array:
    """Write x → (MatMul → Tanh)⁴ → MatMul → y, with singular values that fall at five speeds; return samples."""
    rng = np.random.default_rng(seed)
    lines, weights, previous = [], [], "x"
    for layer, speed in enumerate(rng.permutation([5, 8, 12, 18, 27])):
        left, right = (np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] for _ in range(2))
        matrix = (left * (np.exp(-np.arange(WIDTH) / speed) + 0.01)) @ right.T
        matrix *= 1.2 * np.sqrt(WIDTH) / np.linalg.norm(matrix)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{layer}"))
        result = "y" if layer == LAYERS - 1 else f"h{layer}"
        lines.append(f"[fc{layer}] {result} = MatMul({previous}, w{layer})")
        if result != "y":
            lines.append(f"[act{layer}] a{layer} = Tanh({result})")
        previous = f"a{layer}"
    declared = ", ".join(f"float[{WIDTH},{WIDTH}] w{layer}" for layer in range(LAYERS))
    head = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,{WIDTH}] x) => (float[N,{WIDTH}] y) <{declared}>'
    model = onnx.parser.parse_model(f"{head} {{ {' '.join(lines)} }}")
    model.graph.initializer.extend(weights)
    onnx.save(model, path)
    rows = rng.standard_normal((SAMPLES, 30)) @ rng.standard_normal((30, WIDTH)) / np.sqrt(30)
    return (rows + 0.3 * rng.standard_normal(rows.shape)).astype(np.float32)


@dataclass(frozen=True)
class Enumerated:
    """All plans of a chain, in the order of `itertools.product`, and what each gives for the comparing samples.

    Attributes:
        search: Where plans are tried.
        known: What it was made of.
        plans: All of them.
        costs: What they cost, (plans,).
        outputs: What they give, (plans, samples, WIDTH) float32; the dense plan's come last.
        quantum: The most that one step of one site costs.
    """

    search: Search
    known: Grounds
    plans: list[Plan]
    costs: NDArray[np.float64]
    outputs: Array
    quantum: float

    def place(self, plan: Plan) -> int:
        """Return a plan's place."""
        place = 0
        for curve in self.search.curves:
            ranks = [choice.rank for choice in curve.choices]
            place = place * len(ranks) + ranks.index(plan[curve.site].rank)
        return place

    @property
    def fresh(self) -> Search:
        """Return a search that knows nothing yet."""
        return Search(self.search.lab, self.search.curves)


@contextmanager
def enumerated(folder: Path, seed: int) -> Iterator[Enumerated]:
    """Yield everything that can be done with a chain, by arithmetic of its own."""
    rows = chain(folder / "model.onnx", seed)
    model, scan = open_model(folder / "model.onnx", QUICK)
    options = with_outputs(model, QUICK)
    choosing = folder / "choosing.npz"
    spool = folder / "held_out.npz"
    calibration = capture(model, scan, {"x": rows}, spool, work=folder, options=options, choosing=choosing)
    known = grounds_of(model, scan, calibration, options, choosing=choosing)
    curves = known.study.curves
    with open_search(known.study, dense_plan(scan, "all", model_digest=model.digest)) as search:
        samples = np.concatenate([feed["x"] for feed in search.lab.comparing.feeds]).astype(np.float32)
        plans: list[Plan] = [
            {curve.site: choice for curve, choice in zip(curves, chosen, strict=True)}
            for chosen in itertools.product(*(curve.choices for curve in curves))
        ]
        costs = np.array([sum(choice.cost for choice in plan.values()) for plan in plans])
        steps = (after.cost - before.cost for curve in curves for before, after in itertools.pairwise(curve.choices))
        yield Enumerated(search, known, plans, costs, _outputs(folder / "model.onnx", known, samples), max(steps))


def _outputs(path: Path, known: Grounds, samples: Array) -> Array:
    """Return what every plan gives; plans that begin alike are computed together."""
    weights = [numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer]
    found = samples[None]
    for layer, (curve, weight) in enumerate(zip(known.study.curves, weights, strict=True)):
        basis = known.study.whole(next(site for site in known.study.scan.sites if site.name == curve.site))
        vectors = basis.vectors.astype(np.float32)
        dense = found @ weight
        directions = dense @ vectors
        mean = (basis.means[0] @ basis.vectors if basis.centred else np.zeros(WIDTH)).astype(np.float32)
        parts = []
        for choice in curve.choices:
            kept = np.arange(WIDTH) < (WIDTH if choice.rank is None else choice.rank)
            parts.append(dense if choice.rank is None else np.where(kept, directions, mean) @ vectors.T)
        found = np.stack(parts, 1).reshape(-1, *samples.shape)
        found = found if layer == LAYERS - 1 else np.tanh(found)
    return found
