"""Comparing models: figures checked against plain numpy on all batches at once."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polygraphy.logger import G_LOGGER

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.findings import Discrepancy, OutputDiscrepancy
from rankfold.runtime_calib import output_sums
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.output_sums import OutputSums, sum_output, summarize
from rankfold.values import Feed

# Figures are sums in float64 of at most some hundred terms: far below this, relative.
EXACT = 1e-12


def save(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), path)
    return path


def compare_graphs(folder: Path, base: str, candidate: str, *batches: list[list[float]]) -> Discrepancy:
    feeds: list[Feed] = [{"x": np.array(batch, np.float32)} for batch in batches]
    return compare(save(folder / "base.onnx", base), save(folder / "candidate.onnx", candidate), feeds)


def figures(reference: np.ndarray, candidate: np.ndarray) -> OutputDiscrepancy:
    return summarize("y", sum_output(reference, candidate))


def test_figures_over_batches_are_those_of_all_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((23, 5)).astype(np.float32)
    base = save(tmp_path / "a.onnx", "g (float[N, 5] x) => (float[N, 5] y) { y = Tanh(x) }")
    candidate = save(tmp_path / "b.onnx", "g (float[N, 5] x) => (float[N, 5] y) { y = Softsign(x) }")
    found = compare(base, candidate, ({"x": part} for part in np.split(x, [8, 16])))
    assert found.samples == 23
    # The runtime's tanh is float32's to some roundings, which move these figures by less than 1e-6.
    r = np.tanh(x.astype(np.float64))
    c = x / (1.0 + np.abs(x.astype(np.float64)))
    near = partial(pytest.approx, rel=1e-5, abs=0)
    (y,) = found.outputs
    assert y.name == "y"
    assert y.relative_l2 == near(np.linalg.norm(c - r) / np.linalg.norm(r))
    assert 1 - y.cosine == pytest.approx(1 - (r * c).sum() / np.linalg.norm(r) / np.linalg.norm(c), rel=1e-3, abs=0)
    assert y.max_abs == near(np.abs(c - r).max())
    assert y.mean_abs == near(np.abs(c - r).mean())
    assert y.max_rel == near((np.abs(c - r) / np.abs(r)).max())
    assert y.mean_rel == near((np.abs(c - r) / np.abs(r)).mean())
    assert y.top1_agreement == 1.0  # both functions rise


def test_top1_agreement_counts_rows_over_all_batches(tmp_path: Path) -> None:
    found = compare_graphs(
        tmp_path,
        "g (float[N, 2] x) => (float[N, 2] y) { y = Identity(x) }",
        "g (float[N, 2] x) => (float[N, 2] y) { y = Abs(x) }",
        [[1.0, 2.0], [-3.0, 1.0], [4.0, 1.0]], [[-3.0, -1.0]],
    )  # fmt: skip
    assert found.outputs[0].top1_agreement == 2 / 4


@pytest.mark.parametrize(
    ("array", "agreement"),
    [
        (np.array([[1.0, 2.0]]), 1.0),
        (np.array([[1.0], [2.0]]), None),  # one column
        (np.array([1.0, 2.0]), None),  # no classes
        (np.ones((2, 2, 2)), None),
        (np.array([[1, 2]]), None),  # not real
        (np.array([[0.6, -0.8], [-1.0, 0.0]]), None),  # normalised embeddings
        (np.array([[0.6, -0.8], [-2.0, 0.0]]), 1.0),  # not all rows of length 1
        (np.array([[0.0, 1.0], [1.0, 0.0]]), 1.0),  # sure probabilities
        (np.array([[0.3, 0.7]]), 1.0),
        (np.zeros((0, 3)), None),
    ],
)
def test_what_looks_like_logits(array: np.ndarray, agreement: float | None) -> None:
    assert figures(array, array).top1_agreement == agreement


def test_relative_error_leaves_out_where_the_reference_is_zero() -> None:
    found = figures(np.array([0.0, 2.0, -4.0, 0.0]), np.array([0.5, 3.0, -4.0, 0.0]))
    assert (found.max_rel, found.mean_rel) == (0.5, 0.25)
    assert (found.max_abs, found.mean_abs) == (1.0, 0.375)


def test_reference_of_zeros() -> None:
    zeros = np.zeros(3, np.float32)
    same, other = figures(zeros, zeros), figures(zeros, zeros + 1)
    assert (same.relative_l2, same.max_rel, same.mean_rel, same.cosine, same.passing_atol) == (0, 0, 0, 1, 0)
    assert (other.relative_l2, other.max_rel, other.mean_rel, other.cosine) == (math.inf, math.inf, math.inf, 0)
    assert other.max_abs == 1.0


def test_equal_outputs_have_no_distance() -> None:
    found = figures(np.array([[3.0, -4.0]], np.float32), np.array([[3.0, -4.0]], np.float32))
    assert (found.relative_l2, found.max_abs, found.max_rel, found.mean_abs) == (0, 0, 0, 0)
    assert found.cosine == pytest.approx(1.0, rel=EXACT, abs=0)
    assert found.passing_atol == float(f"{4 * 2**-23 * 4:.2e}")  # four float32 roundings of 4


@pytest.mark.parametrize(
    ("dtype", "reference", "candidate", "max_abs", "mean_abs"),
    [
        ("int64", [10, -20], [13, -20], 3.0, 1.5),
        ("uint8", [250, 3], [3, 250], 247.0, 247.0),  # no wrap-around
        ("bool", [True, False], [True, True], 1.0, 0.5),
        ("float16", [60000.0, 1.0], [-60000.0, 1.0], 120000.0, 60000.0),  # beyond half precision
    ],
)
def test_element_types(
    dtype: str, reference: list[float], candidate: list[float], max_abs: float, mean_abs: float
) -> None:
    found = figures(np.array(reference, dtype), np.array(candidate, dtype))
    assert (found.max_abs, found.mean_abs) == (max_abs, mean_abs)


def test_empty_arrays_add_nothing() -> None:
    empty = sum_output(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))
    assert empty == OutputSums()
    assert summarize("y", empty).mean_abs == 0.0


@settings(deadline=None, max_examples=25)  # nothing is timed here
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 9), cut=st.integers(0, 9), chunk=st.integers(4, 40))
def test_sums_do_not_depend_on_batches_nor_chunks(seed: int, rows: int, cut: int, chunk: int) -> None:
    random = np.random.default_rng(seed)
    r, c = random.integers(-3, 4, (2, rows, 4)).astype(np.float32)
    whole = sum_output(r, c)
    before = output_sums._CHUNK
    output_sums._CHUNK = chunk
    try:
        parts = sum_output(r[:cut], c[:cut]) + sum_output(r[cut:], c[cut:])
    finally:
        output_sums._CHUNK = before
    # Sums of small integers are exact; those of thirds are not.
    assert replace(parts, relative=0.0) == replace(whole, relative=0.0)
    assert parts.relative == pytest.approx(whole.relative, rel=EXACT, abs=0)


@settings(deadline=None, max_examples=25)  # nothing is timed here
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-4, 1e4), error=st.floats(1e-4, 1.0))
def test_passing_atol_is_above_the_error_and_a_tenth_below(seed: int, scale: float, error: float) -> None:
    random = np.random.default_rng(seed)
    r = (scale * random.standard_normal(50)).astype(np.float32)
    c = (r + error * scale * random.standard_normal(50)).astype(np.float32)
    found = figures(r, c)
    assert found.max_abs * 1.01 < found.passing_atol < found.max_abs * 5


IDENTITY = "g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z) { y = Identity(x)\n z = Neg(x) }"


def test_chosen_outputs_only(tmp_path: Path) -> None:
    model = save(tmp_path / "a.onnx", IDENTITY)
    feeds: list[Feed] = [{"x": np.ones((2, 2), np.float32)}]
    assert [output.name for output in compare(model, model, feeds, outputs=("z",)).outputs] == ["z"]
    assert [output.name for output in compare(model, model, feeds, outputs=("z", "y")).outputs] == ["y", "z"]
    with pytest.raises(ModelError, match=r"a\.onnx has no output 'w'; choose among \['y', 'z'\]"):
        compare(model, model, feeds, outputs=("w",))


def test_outputs_of_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"candidate\.onnx has the outputs \['y'\], .*base\.onnx has \['y', 'z'\]"):
        compare_graphs(tmp_path, IDENTITY, "g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }", [[1.0, 2.0]])


def test_outputs_of_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"candidate\.onnx: output 'y' has shape \(2, 1\), .* gives \(1, 2\)"):
        compare_graphs(
            tmp_path,
            "g (float[N, M] x) => (float[A, B] y) { y = Identity(x) }",
            "g (float[N, M] x) => (float[A, B] y) { y = Transpose(x) }",
            [[1.0, 2.0]],
        )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ModelError, match=r"base\.onnx: 1 of 2 values of output 'y' are NaN or infinite"):
        compare_graphs(tmp_path, IDENTITY, IDENTITY, [[value, 1.0]])
    with pytest.raises(ModelError, match=r"candidate\.onnx: 2 of 2 values of output 'y' are NaN or infinite"):
        compare_graphs(
            tmp_path,
            "g (float[N, 2] x) => (float[N, 2] y) { y = Identity(x) }",
            "g (float[N, 2] x) => (float[N, 2] y) { y = Log(x) }",
            [[-1.0, -2.0]],
        )


def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    text = "g (float[N, 2] x) => (string[N, 2] y) { y = Cast<to = 8>(x) }"
    with pytest.raises(ModelError, match="output 'y' is of type object, which has no distance"):
        compare_graphs(tmp_path, text, text, [[1.0, 2.0]])
    text = "g (float[N, 2] x) => (seq(float[N, 2]) y) { y = SequenceConstruct(x) }"
    with pytest.raises(ModelError, match="output 'y' is of type list, which has no distance"):
        compare_graphs(tmp_path, text, text, [[1.0, 2.0]])


def test_no_batches(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="cannot be compared on 0 samples"):
        compare_graphs(tmp_path, IDENTITY, IDENTITY)


def test_polygraphy_is_quiet_and_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        asked.append(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    before = str(G_LOGGER.module_severity)
    compare_graphs(tmp_path, IDENTITY, IDENTITY.replace("Neg", "Abs"), [[0.0, 2.0]])
    assert capfd.readouterr() == ("", "")
    assert str(G_LOGGER.module_severity) == before
    assert "torch" not in asked  # Polygraphy imports it where it is installed: 190 MB and a second
