"""Convolutions, fused products, stacks, splits and narrow storage: found, collected, folded, recognised again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_examples import Array, build, collected, gaussian, low_rank_rows, opened, plan_of, run, sums

from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.write_model import write_model
from rankfold.values import RankPlan

_WIDE = '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>'
# Two float32 products where there was one, of some hundred terms, against the largest value.
NEAR = 2e-5


@dataclass(frozen=True)
class Example:
    """A model of one pattern: its nodes, weights, the shape of `x`, and the sizes of its sites."""

    nodes: str
    weights: dict[str, Array]
    x: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    written: str

    def model(self, folder: Path) -> Model:
        axes = ",".join(f"a{place}" if not place else str(extent) for place, extent in enumerate(self.x))
        rank = max(len(self.x), self.weights["w"].ndim if "MatMul" in self.nodes else 0)
        rank = 2 if "v = " in self.nodes else rank
        given = ",".join(f"c{place}" for place in range(rank))
        text = f"g (float[{axes}] x) => (float[{given}] y) {{ {self.nodes} }}"
        return opened(build(text, self.weights, header=_WIDE), folder)

    def rows(self, *, seed: int = 3) -> Array:
        return np.random.default_rng(seed).standard_normal(self.x).astype(np.float32) + np.float32(0.5)


IMAGE = (6, 5, 9, 8)
_KERNEL = {"w": gaussian(12, 5, 3, 3, seed=1, scale=0.2), "b": gaussian(12, seed=2, scale=1.0)}
_POINT = {"w": gaussian(12, 5, 1, 1, seed=1, scale=0.4), "b": gaussian(12, seed=2, scale=1.0)}
_MATRIX = {"w": gaussian(12, 16, seed=1), "b": gaussian(16, seed=2, scale=1.0)}
_TURNED = {"w": gaussian(16, 12, seed=1)}
_STACK = {"w": gaussian(3, 12, 16, seed=1, scale=0.3)}
_QKV = {"w": gaussian(12, 30, seed=1), "sizes": np.array([10, 10, 10])}


def _conv(attributes: str, operands: str = "x, w, b", weights: dict[str, Array] | None = None) -> Example:
    chosen = weights or _KERNEL
    used = {name: value for name, value in chosen.items() if name in operands}
    fan = int(np.prod(chosen["w"].shape[1:]))
    return Example(f"y = Conv{attributes}({operands})", used, IMAGE, ((fan, 12),), "Conv Conv")


EXAMPLES = {
    "conv": _conv(""),
    "conv without bias": _conv("", "x, w"),
    "conv, strides and pads": _conv("<strides=[2,1], pads=[1,0,2,1]>"),
    "conv, dilations": _conv("<dilations=[2,2], kernel_shape=[3,3]>"),
    "conv, auto_pad": _conv('<auto_pad="SAME_UPPER", strides=[2,2]>'),
    "conv, auto_pad lower": _conv('<auto_pad="SAME_LOWER">'),
    "conv 1x1": _conv("", weights=_POINT),
    "conv 1x1, strided": _conv("<strides=[2,2]>", "x, w", _POINT),
    "conv 1x1, padded": _conv("<pads=[1,1,1,1]>", weights=_POINT),
    "conv 1-D": Example(
        "y = Conv<pads=[1,1]>(x, w)", {"w": gaussian(8, 5, 3, seed=1)}, (6, 5, 20), ((15, 8),), "Conv Conv"
    ),
    "conv 3-D": Example(
        "y = Conv(x, w)", {"w": gaussian(8, 2, 2, 2, 2, seed=1)}, (6, 2, 4, 4, 5), ((16, 8),), "Conv Conv"
    ),
    "conv, wide kernel": Example(
        "y = Conv(x, w)", {"w": gaussian(20, 1, 3, 3, seed=1)}, (6, 1, 9, 8), ((9, 20),), "Conv Conv"
    ),
    "conv, kernel split": Example(
        "k, l = Split<num_outputs=2>(w) p = Conv(x, k) q = Conv(x, l) y = Concat<axis=1>(p, q)",
        {"w": gaussian(16, 5, 3, 3, seed=1)},
        IMAGE,
        ((45, 8), (45, 8)),
        "Conv Conv Conv Conv Concat",
    ),
    "fused matmul": Example(
        "y = com.microsoft.FusedMatMul<alpha=0.5>(x, w)", {"w": _MATRIX["w"]}, (7, 9, 12), ((12, 16),), "F F"
    ),
    "fused matmul, transB, add": Example(
        "p = com.microsoft.FusedMatMul<alpha=-2.0, transB=1>(x, w) y = Add(p, b)",
        _TURNED | {"b": _MATRIX["b"]},
        (7, 9, 12),
        ((12, 16),),
        "F F Add",
    ),
    "fused matmul, transA": Example(
        "y = com.microsoft.FusedMatMul<transA=1>(x, w)", {"w": _MATRIX["w"]}, (7, 12, 9), ((12, 16),), "F F"
    ),
    "fused matmul, left": Example(
        "y = com.microsoft.FusedMatMul<alpha=3.0>(w, x)", _TURNED, (7, 12, 9), ((12, 16),), "F F"
    ),
    "fused matmul, left, both transposed": Example(
        "y = com.microsoft.FusedMatMul<transA=1, transB=1>(w, x)",
        {"w": _MATRIX["w"]},
        (7, 9, 12),
        ((12, 16),),
        "F F",
    ),
    "fused gemm": Example(
        'y = com.microsoft.FusedGemm<activation="Relu", alpha=0.5, beta=2.0>(x, w, b)',
        _MATRIX,
        (60, 12),
        ((12, 16),),
        "Gemm FusedGemm",
    ),
    "fused gemm without C": Example(
        'y = com.microsoft.FusedGemm<activation="LeakyRelu", activation_alpha=0.3, transB=1>(x, w)',
        _TURNED,
        (60, 12),
        ((12, 16),),
        "Gemm FusedGemm",
    ),
    "stack": Example("y = MatMul(x, w)", _STACK, (5, 3, 20, 12), ((12, 16),), "MatMul MatMul"),
    "stack, shared rows": Example("y = MatMul(x, w)", _STACK, (60, 12), ((12, 16),), "MatMul MatMul"),
    "stack, left": Example(
        "y = MatMul(w, x)", {"w": gaussian(3, 16, 12, seed=1)}, (5, 3, 12, 20), ((12, 16),), "MatMul MatMul"
    ),
    "stack of one": Example(
        "p = MatMul(x, w) y = Add(p, b)",
        {"w": _MATRIX["w"][None], "b": _MATRIX["b"]},
        (60, 12),
        ((12, 16),),
        "MatMul MatMul Add",
    ),
    "stack of one beside a vector": Example(
        "v = ReduceMean<keepdims=0>(x, first) y = MatMul(v, w)",
        {"w": _MATRIX["w"][None], "first": np.array([0])},
        (60, 12),
        ((12, 16),),
        "ReduceMean MatMul MatMul",
    ),
    "stack of one on the left of a vector": Example(
        "v = ReduceMean<keepdims=0>(x, first) y = MatMul(w, v)",
        {"w": _TURNED["w"][None], "first": np.array([0])},
        (60, 12),
        ((12, 16),),
        "ReduceMean MatMul MatMul",
    ),
    "stack behind a transpose": Example(
        "t = Transpose<perm=[0,2,1]>(w) y = MatMul(x, t)",
        {"w": gaussian(3, 16, 12, seed=1)},
        (5, 3, 20, 12),
        ((12, 16),),
        "MatMul MatMul",
    ),
    "split": Example(
        "q, k, v = Split<axis=1>(w, sizes) a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v)"
        " y = Concat<axis=-1>(a, b, c)",
        _QKV,
        (6, 9, 12),
        ((12, 10),) * 3,
        "MatMul MatMul MatMul MatMul MatMul MatMul Concat",
    ),
    "split, transposed": Example(
        "q, k = Split<num_outputs=2>(w) s = Transpose(q) t = Transpose(k) a = MatMul(x, s) b = MatMul(x, t)"
        " y = Sub(a, b)",
        {"w": gaussian(20, 12, seed=1)},
        (6, 9, 12),
        ((12, 10),) * 2,
        "MatMul MatMul MatMul MatMul Sub",
    ),
}


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
    proto = build("g (float[n,12] x) => (float[n,16] y) { c = Cast<to=1>(w) y = MatMul(x, c) }", {}, header=_WIDE)
    values = low_rank(_MATRIX["w"]).astype(helper.tensor_dtype_to_np_dtype(stored))
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
    proto = build("g (bfloat16[n,12] x) => (bfloat16[n,16] y) { y = MatMul(x, w) }", {}, header=_WIDE)
    values = _MATRIX["w"].astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
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
