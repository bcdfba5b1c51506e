"""One model's way through the library and back: scan, capture, fold at full rank, write, run, compare."""

from __future__ import annotations

import filecmp
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

import rankfold
from benchmarks.conformance.fidelity import compare_files
from benchmarks.conformance.outcome import Outcome, note_analysis
from rankfold.errors import RankfoldError
from rankfold.options import Options
from rankfold.passes.fold import full_rank
from rankfold.passes.model_file import load_model
from rankfold.passes.write_model import write_model
from rankfold.values import Keep

Values = list[Any]
"""Inputs or outputs in the order of the graph: arrays, or lists of them."""

RUNTIME_ERRORS = (
    *(value for value in vars(ort_state).values() if isinstance(value, type) and issubclass(value, Exception)),
    RuntimeError,
    ValueError,
    TypeError,
)
_COPIES = 4  # of the one feed there is: some are held out
_OPTIONS = Options(latency_rounds=0, holdout=0.5)


@dataclass(frozen=True)
class Example:
    """A model file with inputs, the outputs it should have, and the tolerances for them."""

    path: Path
    inputs: dict[str, Any]
    expected: Values
    rtol: float
    atol: float


def check(example: Example, outcome: Outcome) -> Outcome:
    """Send one model through the library, and note what came of it; nothing it does ends the caller."""
    try:
        plain = run(example.path, example.inputs)
    except RUNTIME_ERRORS as error:
        outcome.status, outcome.detail = "not run", " ".join(str(error).split())[:200]
        return outcome
    try:
        _fold_and_compare(example, plain, outcome)
    except RankfoldError as error:
        outcome.status, outcome.detail = "refused", str(error)
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        outcome.status, outcome.detail = "crashed", traceback.format_exc()
    return outcome.judged()


def run(path: Path, inputs: dict[str, Any]) -> Values:
    """Return a model's outputs from plain onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def _fold_and_compare(example: Example, plain: Values, outcome: Outcome) -> None:
    target = example.path.with_name("folded.onnx")
    target.unlink(missing_ok=True)
    note_analysis(outcome, example.path)
    if not outcome.folds:
        _check_copy(example.path, target, outcome)
        return
    _at_full_rank(example, target)
    outcome.status = "folded"
    outcome.unexplained.extend(compare_files(example.path, target).unexplained)
    check_file(example.path, target, outcome)
    meant = example.expected if disagreement(example.expected, plain, example) is None else plain
    try:
        found = run(target, example.inputs)
    except RUNTIME_ERRORS as error:
        outcome.differs.append(f"onnxruntime refuses the folded model: {error}")
        return
    reason = disagreement(meant, found, example)
    if reason is not None:
        outcome.differs.append(reason)


def _check_copy(source: Path, target: Path, outcome: Outcome) -> None:
    """Write a model of which nothing is folded: weights inside, it has to be the same file."""
    model = load_model(source)
    write_model(None, model, target)
    outcome.unexplained.extend(compare_files(source, target).unexplained)
    if not model.has_external_data and not filecmp.cmp(source, target, shallow=False):
        outcome.unexplained.append("nothing was folded, and the file is another")


def _at_full_rank(example: Example, target: Path) -> None:
    data = [example.inputs] * _COPIES
    calibration = rankfold.calibrate(example.path, data, options=_OPTIONS)
    plan = rankfold.make_plan(example.path, calibration, budget=Keep(1.0), options=_OPTIONS)
    rankfold.compress(example.path, data, plan=full_rank(plan), output=target, options=_OPTIONS)


def check_file(source: Path, target: Path, outcome: Outcome) -> None:
    """Check that the result passes the checker as far as the source does, and that a second run would leave it."""
    for whole in (False, True):
        if _passes(source, whole=whole) and not _passes(target, whole=whole):
            outcome.unexplained.append(f"the ONNX checker refuses the result (full_check={whole})")
    again = rankfold.analyze(target)
    if again.sites:
        outcome.unexplained.append(f"a second run would fold {[site.name for site in again.sites]} again")


def _passes(path: Path, *, whole: bool) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=whole)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return False
    return True


def disagreement(expected: Sequence[Any], found: Sequence[Any], example: Example) -> str | None:
    """Return how outputs differ beyond the tolerances, or None.

    Args:
        expected, found: Arrays, or lists of them.
        example: Whose tolerances count.
    """
    if len(expected) != len(found):
        return f"{len(found)} outputs for {len(expected)}"
    for place, (want, got) in enumerate(zip(expected, found, strict=True)):
        if isinstance(want, list | tuple):
            reason = disagreement(want, got, example) if isinstance(got, list | tuple) else "no list"
        else:
            reason = None if want is None and got is None else _array_differs(want, got, example)
        if reason is not None:
            return f"output {place}: {reason}"
    return None


def _array_differs(want: Any, got: Any, example: Example) -> str | None:
    want, got = np.asarray(want), np.asarray(got)
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)} for {want.dtype}{list(want.shape)}"
    if want.dtype.kind not in "fc":
        if want.dtype.kind == "V" or np.array_equal(want, got):
            return None if want.tobytes() == got.tobytes() or want.dtype.kind != "V" else "other bytes"
        return "other values"
    if np.allclose(got.astype(np.complex128), want.astype(np.complex128), example.rtol, example.atol, equal_nan=True):
        return None
    with np.errstate(all="ignore"):
        away = np.abs(got.astype(np.complex128) - want.astype(np.complex128))
    return f"up to {float(np.nanmax(away)):.3g} away, values up to {float(np.nanmax(np.abs(want))):.3g}"
