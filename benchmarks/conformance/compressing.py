"""A model of one's own through the whole pipeline: at full rank, where nothing may be lost, and at a low one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks.conformance.check import RUNTIME_ERRORS, check_file, run
from benchmarks.conformance.fidelity import compare_files
from benchmarks.conformance.outcome import Outcome, note_analysis
from rankfold.errors import PlanError, RankfoldError
from rankfold.options import Options
from rankfold.passes.fold import full_rank
from rankfold.passes.spectrum import FLOAT32_NOISE
from rankfold.pipeline import Result
from rankfold.values import Feed, Keep

KEEP = 0.5
# Two products round twice where one rounded once, and a few layers carry that on: what a full-rank fold may be away, in
# units of its type's rounding. What was seen in float32 is near 5.
ROUNDINGS = 64
WEIGHT_RANK = 6  # of every weight that is lowered: less than the smallest rank that is offered, so KEEP loses nothing
_OPTIONS = Options(latency_rounds=0, holdout=0.25)


@dataclass(frozen=True)
class Subject:
    """A model file with the data to compress it on.

    Attributes:
        lowered: Whether its weights have rank `WEIGHT_RANK`, so that a low share has to lose nothing.
        precision: Type of the coarsest arithmetic in it.
    """

    name: str
    path: Path
    feeds: Sequence[Feed]
    lowered: bool = True
    precision: str = "float32"


def check_made(name: str, make: Callable[[], Subject]) -> Outcome:
    """Make a model with somebody else's tool and compress it; a tool that fails is noted as that."""
    try:
        subject = make()
    except Exception as error:  # noqa: BLE001 - a converter may fail with anything, and it is not what is tried here
        return Outcome(name, "not made", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return check_compress(subject)


def check_compress(subject: Subject) -> Outcome:
    """Compress a model at full rank and at a low one, and note what came of it."""
    outcome = Outcome(subject.name)
    try:
        run(subject.path, dict(subject.feeds[0]))
    except RUNTIME_ERRORS as error:
        outcome.status, outcome.detail = "not run", " ".join(str(error).split())[:200]
        return outcome
    try:
        _compress_both(subject, outcome)
    except RankfoldError as error:
        outcome.status, outcome.detail = "refused", str(error)
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        outcome.status, outcome.detail = "crashed", traceback.format_exc()
    return outcome.judged()


def _compress_both(subject: Subject, outcome: Outcome) -> None:
    note_analysis(outcome, subject.path)
    whole, low = (_target(subject.path, name) for name in ("whole", "low"))
    _judge(subject, _at_full_rank(subject, whole), outcome, "full rank")
    check_file(subject.path, whole, outcome)
    try:
        result = rankfold.compress(subject.path, subject.feeds, keep=KEEP, output=low, options=_OPTIONS)
    except PlanError as error:
        outcome.notes.append(str(error))
        result = rankfold.compress(subject.path, subject.feeds, energy=1 - FLOAT32_NOISE, output=low, options=_OPTIONS)
    _judge(subject, result, outcome, "low rank")
    outcome.figures |= {"kept": result.plan.kept, "folded at low rank": len(result.plan.folded)}
    outcome.status = "folded" if outcome.folds else "unchanged"


def _at_full_rank(subject: Subject, target: Path) -> Result:
    calibration = rankfold.calibrate(subject.path, subject.feeds, options=_OPTIONS)
    plan = rankfold.make_plan(subject.path, calibration, budget=Keep(1.0), options=_OPTIONS)
    return rankfold.compress(subject.path, subject.feeds, plan=full_rank(plan), output=target, options=_OPTIONS)


def _judge(subject: Subject, result: Result, outcome: Outcome, name: str) -> None:
    """Note a result's distance, and what it changed in the file."""
    fidelity = compare_files(subject.path, result.path)
    outcome.unexplained.extend(f"{name}: {line}" for line in fidelity.unexplained)
    if fidelity.inlined:
        outcome.notes.append("local functions were inlined")
    distance = max((output.relative_l2 for output in result.report.discrepancy.outputs), default=0.0)
    outcome.figures[f"relative L2 at {name}"] = distance
    folded = len(result.plan.folded)
    if fidelity.pairs != folded:
        outcome.unexplained.append(f"{name}: {folded} sites in the plan and {fidelity.pairs} pairs in the file")
    if not (name == "full rank" or subject.lowered):
        return
    allowed = _allowed(subject, result, exact=name == "full rank")
    if not distance <= allowed:
        outcome.differs.append(f"{name}: relative L2 {distance:.3g}, at most {allowed:.3g} is rounding")


def _allowed(subject: Subject, result: Result, *, exact: bool) -> float:
    """Return what rounding may amount to.

    A basis made from float32 sums does not know directions below d · FLOAT32_NOISE of the energy, and energy is a
    square; a full-rank fold does not depend on the basis.
    """
    rounding = ROUNDINGS * float(ml_dtypes.finfo(subject.precision).eps)
    widest = max((site.out_features for site in result.plan.folded), default=0)
    return rounding if exact else rounding + float(np.sqrt(widest * FLOAT32_NOISE))


def _target(path: Path, name: str) -> Path:
    """Return where a result goes: another folder, where the source's data file does not lie."""
    folder = path.parent / name
    folder.mkdir(exist_ok=True)
    return folder / path.name


def random_feeds(shapes: dict[str, tuple[int, ...]], *, count: int = 16, seed: int = 0) -> list[Feed]:
    """Return feeds of normal float32 numbers about a mean that is not zero."""
    random = np.random.default_rng(seed)
    return [
        {name: (random.standard_normal(shape) + 0.25).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def lowered(weight: NDArray[np.generic], rank: int = WEIGHT_RANK) -> NDArray[np.generic]:
    """Return the nearest weight of a low rank, the last two axes of more than two being matrices."""
    left, values, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    return ((left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]).astype(weight.dtype)
