"""Convolutions, fused products, stacks, splits and narrow storage: found, collected, folded, recognised again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_examples import Array, build, collected, low_rank_rows, opened, plan_of, run, sums
from pattern_examples import EXAMPLES, MATRIX, WIDE, Example

from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.write_model import write_model
from rankfold.values import RankPlan

# Two float32 products where there was one, of some hundred terms, against the largest value.
NEAR = 2e-5


def spectra_of(model: Model, scan: Scan, x: Array) -> dict[str, object]:
    moments = collected(model, scan, {"x": x})
    return {site.name: site_basis(model, scan, site, moments) for site in scan.sites}


def written(model: Model, x: Array, plan: RankPlan, name: str = "folded.onnx") -> Model:
    scan = find_sites(model)
    path = model.path.parent / name
    write_model(fold(model, scan, plan, spectra_of(model, scan, x), version="test"), model, path)
    return load_model(path)


def near(found: Array, expected: Array) -> None:
    assert found.shape == expected.shape
    assert found == pytest.approx(expected, rel=0, abs=NEAR * float(np.abs(expected).max()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_full_rank_is_the_identity_on_rows_that_calibration_never_saw(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    model = example.model(tmp_path)
    scan = find_sites(model)
    assert scan.skipped == ()
    assert tuple((site.in_features, site.out_features) for site in scan.sites) == example.sizes
    few = np.broadcast_to(example.rows(seed=1)[:1], example.x).copy()  # of low rank, and one row over and over
    result = written(model, few, plan_of(model, scan, None))
    kinds = [node.op_type.replace("FusedMatMul", "F") for node in result.proto.graph.node]
    if "Add" not in example.written:  # one is put in where taking out the mean pays
        kinds = [kind for kind in kinds if kind != "Add"]
    assert " ".join(kinds) == example.written
    x = example.rows()
    near(run(result.path, {"x": x})[0], run(model.path, {"x": x})[0])


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "split" not in name])
def test_the_rank_of_the_output_is_enough(name: str, tmp_path: Path) -> None:
    """With weights of rank 3, rank 3 loses nothing, and the record tells a later run what was folded."""
    example = EXAMPLES[name]
    weights = {key: low_rank(value) if key == "w" else value for key, value in example.weights.items()}
    model = Example(example.nodes, weights, example.x, example.sizes, example.written).model(tmp_path)
    x = example.rows()
    result = written(model, x, plan_of(model, find_sites(model), 3))
    near(run(result.path, {"x": x})[0], run(model.path, {"x": x})[0])
    again = find_sites(result)
    assert again.sites == ()
    assert len(again.pairs) == len(example.sizes)
    (pair,) = again.pairs
    assert pair.dense_parameters == weights["w"].size
    assert pair.parameters == pair.blocks * 3 * sum(example.sizes[0])


def low_rank(weight: Array) -> Array:
    """Return a weight of rank 3 of that shape: along the last axis, or along the first of a kernel."""
    kernel = weight.ndim > 3 or (weight.ndim == 3 and weight.shape[0] == 8)
    matrix = weight.reshape(weight.shape[0], -1) if kernel else weight
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values[..., 3:] = 0
    return ((left * values[..., None, :]) @ right).reshape(weight.shape).astype(np.float32)


def test_no_kernel_of_the_same_rank_does_better(tmp_path: Path) -> None:
    """The fold's error on its own rows is below that of the kernel's own singular value decomposition."""
    example = EXAMPLES["conv, strides and pads"]
    model = example.model(tmp_path)
    scan = find_sites(model)
    x = low_rank_rows(6 * 9 * 8, 5, 2, offset=1.0).reshape(6, 9, 8, 5).transpose(0, 3, 1, 2) + 0.1 * example.rows()
    expected = run(model.path, {"x": x})[0]
    ours = run(written(model, x, plan_of(model, scan, 4)).path, {"x": x})[0]
    left, values, right = np.linalg.svd(example.weights["w"].reshape(12, -1), full_matrices=False)
    plain = ((left[:, :4] * values[:4]) @ right[:4]).reshape(12, 5, 3, 3).astype(np.float32)
    theirs = Example(example.nodes, {"w": plain, "b": example.weights["b"]}, example.x, (), "")
    (tmp_path / "svd").mkdir()
    reached = run(theirs.model(tmp_path / "svd").path, {"x": x})[0]
    assert np.linalg.norm(ours - expected) < 0.8 * np.linalg.norm(reached - expected)


def test_a_pointwise_convolution_may_be_collected_on_its_input(tmp_path: Path) -> None:
    narrow, strided = EXAMPLES["conv 1x1"], EXAMPLES["conv 1x1, strided"]
    (tmp_path / "s").mkdir()
    assert [site.side for site in find_sites(narrow.model(tmp_path)).sites] == ["input"]
    assert [site.side for site in find_sites(strided.model(tmp_path / "s")).sites] == ["output"]


def test_parts_that_stay_dense_get_their_own_weight(tmp_path: Path) -> None:
    example = EXAMPLES["split"]
    model = example.model(tmp_path)
    scan = find_sites(model)
    plan = plan_of(model, scan, None)
    partly = RankPlan(
        plan.model_digest, "by hand", 0, 0, (plan.sites[0], *(replace(line, rank=None) for line in plan.sites[1:]))
    )
    x = example.rows()
    result = written(model, x, partly)
    near(run(result.path, {"x": x})[0], run(model.path, {"x": x})[0])
    names = {tensor.name: tuple(tensor.dims) for tensor in result.proto.graph.initializer}
    assert "w" not in names
    assert names["MatMul_2/part"] == names["MatMul_3/part"] == (12, 10)


@pytest.mark.parametrize("stored", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_factors_of_a_weight_that_is_cast_are_stored_as_narrow_as_it(stored: int, tmp_path: Path) -> None:
    proto = build("g (float[n,12] x) => (float[n,16] y) { c = Cast<to=1>(w) y = MatMul(x, c) }", {}, header=WIDE)
    values = low_rank(MATRIX["w"]).astype(helper.tensor_dtype_to_np_dtype(stored))
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    model = opened(proto, tmp_path)
    x = low_rank_rows(60, 12, 12, seed=4, offset=0.5)
    result = written(model, x, plan_of(model, find_sites(model), 3))
    kinds = {tensor.name: tensor.data_type for tensor in result.proto.graph.initializer}
    assert kinds["MatMul_1/down"] == kinds["MatMul_1/up"] == stored
    expected, found = run(model.path, {"x": x})[0], run(result.path, {"x": x})[0]
    # Each factor is rounded once more to 8 (bfloat16) or 11 bits.
    assert np.linalg.norm(found - expected) < 8e-3 * np.linalg.norm(expected)
    assert len(find_sites(result).pairs) == 1
    assert find_sites(result).sites == ()


def test_a_model_in_bfloat16_is_folded_in_bfloat16(tmp_path: Path) -> None:
    """No CPU runs it; what is written is checked by the checker and by its types."""
    proto = build("g (bfloat16[n,12] x) => (bfloat16[n,16] y) { y = MatMul(x, w) }", {}, header=WIDE)
    values = MATRIX["w"].astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    model = opened(proto, tmp_path)
    scan = find_sites(model)
    rows = low_rank_rows(60, 12, 12, seed=4).astype(np.float64)
    moments = {request: sums(rows) for request in scan.requests}
    spectra = {site.name: site_basis(model, scan, site, moments) for site in scan.sites}
    path = tmp_path / "folded.onnx"
    write_model(fold(model, scan, plan_of(model, scan, 3), spectra, version="test"), model, path)
    result = load_model(path).proto.graph
    assert {tensor.data_type for tensor in result.initializer} == {TensorProto.BFLOAT16}
