"""Local functions: put in line where that uncovers foldable layers, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from onnx_examples import build, gaussian, low_rank_rows, opened, run

from rankfold import compress
from rankfold.opening import open_model
from rankfold.options import Options
from rankfold.passes.inline import linear_functions, with_functions_inline
from rankfold.pipeline import analyze

_HEADER = '<ir_version: 9, opset_import: ["" : 17, "made.up" : 1]>'
_TEXT = """g (float[n,32] x) => (float[n,32] y) {
  h = made.up.block(x, w1)
  r = made.up.plain(h)
  y = made.up.block(r, w2)
}
<domain: "made.up", opset_import: ["" : 17, "made.up" : 1]>
block (a, w) => (b) { c = made.up.dense(a, w) b = Relu(c) }
<domain: "made.up", opset_import: ["" : 17]>
dense (a, w) => (b) { b = MatMul(a, w) }
<domain: "made.up", opset_import: ["" : 17]>
plain (a) => (b) { b = Neg(a) }"""


def layered(*, text: str = _TEXT) -> ModelProto:
    weights = {"w1": gaussian(32, 4, seed=1) @ gaussian(4, 32), "w2": gaussian(32, 4, seed=2) @ gaussian(4, 32)}
    model = build(text, weights, header=_HEADER)
    model.metadata_props.add(key="owner", value="somebody")
    return model


def test_functions_are_chosen_through_what_they_call() -> None:
    assert linear_functions(layered().functions) == {("made.up", "block"), ("made.up", "dense")}


def test_a_model_without_linear_functions_is_itself(tmp_path: Path) -> None:
    model = opened(build("g (float[n,6] x) => (float[n,6] y) { y = MatMul(x, w) }", {"w": gaussian(6, 6)}), tmp_path)
    assert with_functions_inline(model) is model


@pytest.mark.parametrize("external", [False, True])
def test_layers_in_functions_are_folded_call_by_call(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(layered(), path, save_as_external_data=external, size_threshold=0)
    x = low_rank_rows(64, 32, 4)
    done = compress(path, [{"x": row[None]} for row in x], keep=0.6, output=tmp_path / "out.onnx")
    assert done.report.inlined == ("made.up:block", "made.up:dense")
    assert done.report.source == path
    assert [site.rank is not None for site in done.report.sites] == [True, True]
    result = onnx.load(tmp_path / "out.onnx")
    assert [function.name for function in result.functions] == ["plain"]
    assert next(entry.value for entry in result.metadata_props if entry.key == "owner") == "somebody"
    expected, found = run(onnx.load(path), {"x": x})[0], run(result, {"x": x})[0]
    # The weights have rank four; the rounding of two products instead of one remains.
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_nothing_is_put_in_line_where_nothing_is_folded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(layered(), path)
    done = compress(
        path, [{"x": row[None]} for row in low_rank_rows(64, 32, 4)], keep=1.0, output=tmp_path / "out.onnx"
    )
    assert done.report.inlined == ()
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_a_function_that_only_multiplies_activations_stays(tmp_path: Path) -> None:
    text = _TEXT.replace("b = MatMul(a, w)", "t = Transpose(a) m = MatMul(t, a) b = MatMul(a, m)")
    path = tmp_path / "model.onnx"
    onnx.save(layered(text=text), path)
    model, scan = open_model(path, Options())
    assert model.original is None
    assert {found.reason for found in scan.skipped} == {
        "inside the local function made.up:dense, which was not put in line"
    }


def test_the_temporary_model_goes_with_the_value(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(layered(), path)
    model, _ = open_model(path, Options())
    place = model.path
    assert place.exists()
    assert place != path
    assert model.digest == model.given.digest
    del model
    assert not place.exists()


def test_analysis_names_the_functions(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(layered(), path)
    found = analyze(path)
    assert found.inlined == ("made.up:block", "made.up:dense")
    assert len(found.sites) == 2


def test_functions_stay_that_would_be_copied_with_their_weights(tmp_path: Path) -> None:
    values = ",".join("0.5" for _ in range(32 * 32))
    constant = f"w = Constant<value = float[32,32] {{{values}}}>() b = MatMul(a, w)"
    text = _TEXT.replace("(a, w) => (b) { b = MatMul(a, w) }", f"(a) => (b) {{ {constant} }}")
    text = text.replace("dense(a, w)", "dense(a)")
    path = tmp_path / "model.onnx"
    onnx.save(layered(text=text), path)
    assert open_model(path, Options())[0].inlined == ()


def test_functions_of_another_opset_stay(tmp_path: Path) -> None:
    model = layered()
    for function in model.functions:
        function.opset_import[0].version = 16
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    opened_model, scan = open_model(path, Options())
    assert opened_model.inlined == ()
    assert "which was not put in line" in scan.skipped[0].reason


@pytest.mark.filterwarnings("error")
def test_defaults_of_a_function_hold_in_line_too(tmp_path: Path) -> None:
    """onnx's inliner drops the default of an attribute that a call leaves out."""
    body = "dense <turned: int = 1> (a, w) => (b) { b = Gemm<transB: int = @turned>(a, w) }"
    text = _TEXT.replace("dense (a, w) => (b) { b = MatMul(a, w) }", body)
    path = tmp_path / "model.onnx"
    onnx.save(layered(text=text), path)
    x = low_rank_rows(64, 32, 4)
    done = compress(path, [{"x": row[None]} for row in x], keep=0.6, output=tmp_path / "out.onnx")
    assert done.report.inlined
    expected, found = run(onnx.load(path), {"x": x})[0], run(onnx.load(tmp_path / "out.onnx"), {"x": x})[0]
    # The weights have rank four; the rounding of two products instead of one remains.
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
