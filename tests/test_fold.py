"""Folding keeps the function: at full rank on any rows, at the data's rank on the data, for every pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_examples import Array, build, collected, folded, gaussian, low_rank_rows, opened, plan_of, run
from site_examples import DTYPES, PATTERNS, SIZES

from rankfold.errors import ModelError
from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold, full_rank
from rankfold.passes.model_file import load_model
from rankfold.passes.sites import find_sites

# Two products in place of one, some 40 roundings of the type (6e-8, 1e-16, 5e-4) relative to the output.
NEAR = {"float": 1e-5, "double": 1e-12, "float16": 2e-2}
RANK = 3  # of the data about its mean; uncentred, the mean is one direction more


def relative(found: Array, expected: Array) -> float:
    away = found.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(away) / np.linalg.norm(expected.astype(np.float64)))


def checked(path: Path) -> onnx.ModelProto:
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PATTERNS)
def test_full_rank_keeps_the_function_on_unseen_rows(name: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    model = pattern.model(tmp_path, sizes=sizes)
    path = folded(model, {"x": pattern.activation(sizes, "float", rank=RANK)}, None)
    checked(path)
    unseen = {"x": pattern.activation(sizes, "float", rank=None, seed=77)}
    assert relative(run(path, unseen)[0], run(model.path, unseen)[0]) < NEAR["float"]
    # 20 · 12 products become two factors of 12 · 12 and 12 · 20: were nothing folded, the sizes would agree.
    assert "w" not in {tensor.name for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_datas_rank_keeps_the_function_on_the_data(name: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    model = pattern.model(tmp_path, sizes=sizes)
    feed = {"x": pattern.activation(sizes, "float", rank=RANK)}
    # A new Add must pay to be made: what the mean takes at half the break-even rank (3) decides, and here it does.
    path = folded(model, feed, RANK if pattern.centred != "never" else RANK + 1)
    checked(path)
    # The data has its rank but for float32's rounding, which the factors may carry on.
    assert relative(run(path, feed)[0], run(model.path, feed)[0]) < NEAR["float"]
    if feed["x"].ndim > 1:  # one row alone is its own mean
        less = folded(model, feed, RANK - 1, target="less.onnx")
        assert relative(run(less, feed)[0], run(model.path, feed)[0]) > 1e-3  # or the rank would not matter


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    ["matmul, 3-D", "matmul+add, 3-D", "left matmul+add, 3-D", "gemm transB=1, alpha=0.5, beta=2.0, C",
     "gemm transA=0, alpha=0.5, beta=2.0", "left gemm transA=1, alpha=-3.0, beta=0.25, C"],
)  # fmt: skip
def test_float_types(name: str, dtype: str, tmp_path: Path) -> None:
    pattern, sizes = PATTERNS[name], SIZES["wider"]
    model = pattern.model(tmp_path, dtype=dtype)
    feed = {"x": pattern.activation(sizes, dtype, rank=RANK)}
    path = folded(model, feed, RANK, target="low.onnx")
    kinds = {tensor.data_type for tensor in checked(path).graph.initializer}
    assert kinds == {onnx.helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))}
    # The float64 data was made in float32, so that its rank is RANK to 1e-7 only.
    near = max(NEAR[dtype], 1e-6)
    assert relative(run(path, feed)[0], run(model.path, feed)[0]) < near
    unseen = {"x": pattern.activation(sizes, dtype, rank=None, seed=77)}
    # Nine directions were never seen: scaled by √1e-13 in the basis, they carry 3e6 roundings of float64.
    near = max(NEAR[dtype], 1e-9)
    assert relative(run(folded(model, feed, None), unseen)[0], run(model.path, unseen)[0]) < near


SHARED = {
    "right": """g (float[n,12] x, float[m,k,12] z) => (float[n,20] y, float[m,k,20] u) {
      [first] p = MatMul(x, w)  y = Add(p, b1)
      i = Identity(w)
      [second] q = MatMul(z, i)  u = Add(q, b2) }""",
    "mixed": """g (float[n,12] x, float[m,12] z) => (float[n,20] y, float[m,20] u) {
      [first] y = Gemm<alpha=0.5, beta=2.0>(x, w, b1)
      [second] q = MatMul(z, w)  u = Add(b2, q) }""",
    "no bias": """g (float[n,12] x, float[m,12] z) => (float[n,20] y, float[m,20] u) {
      [first] y = Gemm<alpha=0.5>(x, w)
      [second] u = MatMul(z, w) }""",
    "one bias": """g (float[n,12] x, float[m,12] z) => (float[n,20] y, float[m,20] u) {
      [first] p = MatMul(x, w)  y = Add(p, b1)
      [second] u = Gemm<beta=3.0>(z, w, b1) }""",
}


@pytest.mark.parametrize("case", SHARED)
def test_a_shared_weight_keeps_each_uses_bias(case: str, tmp_path: Path) -> None:
    weights = {"w": gaussian(12, 20), "b1": gaussian(20, scale=1.0), "b2": gaussian(20, seed=8, scale=1.0)}
    model = opened(build(SHARED[case], {k: v for k, v in weights.items() if k in SHARED[case]}), tmp_path)
    # Both uses see one subspace of three directions, about means of their own.
    rows = low_rank_rows(120, 12, 3, seed=1)
    shifts = gaussian(2, 12, seed=2, scale=2.0)
    z = rows[60:] + shifts[1]
    feed = {"x": rows[:60] + shifts[0], "z": z.reshape(4, 15, 12) if "k" in SHARED[case].split("=>")[0] else z}
    path = folded(model, feed, 3)
    assert "w" not in {tensor.name for tensor in checked(path).graph.initializer}
    factors = [tensor for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2]
    assert [tuple(tensor.dims) for tensor in factors] == [(12, 3), (3, 20)]  # once, whoever reads them
    for found, expected in zip(run(path, feed), run(model.path, feed), strict=True):
        assert relative(found, expected) < NEAR["float"]


@pytest.mark.parametrize(
    ("chain", "gone"),
    [
        ("c = Identity(w)", {"Identity"}),
        ("t = Transpose(w) c = Transpose(t)", {"Transpose"}),
        ("h = Cast<to=10>(w) c = Cast<to=1>(h)", {"Cast"}),
        ("c = Reshape(w, shape)", {"Reshape"}),
        ("t = Transpose(w) i = Identity(t) s = Constant<value_ints=[12,-1]>() r = Reshape(i, s) c = Transpose(r)",
         {"Transpose", "Identity", "Reshape", "Constant"}),
    ],
)  # fmt: skip
def test_a_chain_goes_with_its_weight(chain: str, gone: set[str], tmp_path: Path) -> None:
    text = f"g (float[n,12] x) => (float[n,20] y) {{ {chain} [fc] y = Gemm<transB=1>(x, c) }}"
    weights: dict[str, Array] = {"w": gaussian(20, 12)}
    weights |= {"shape": np.array([20, 12])} if "shape)" in chain else {}
    model = opened(build(text, weights), tmp_path)
    feed = {"x": low_rank_rows(60, 12, 3, offset=1.0)}
    result = checked(folded(model, feed, 3))
    assert gone.isdisjoint(node.op_type for node in result.graph.node)
    assert {"w", "shape"}.isdisjoint(tensor.name for tensor in result.graph.initializer)
    assert relative(run(result, feed)[0], run(model.path, feed)[0]) < NEAR["float"]


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 17, 21, 23])
@pytest.mark.parametrize("nodes", ["y = Gemm<transB=1>(x, w, b)", "p = MatMul(x, v) y = Add(p, b)", "y = MatMul(x, v)"])
def test_every_opset_folds(opset: int, nodes: str, tmp_path: Path) -> None:
    header = f'<ir_version: {4 if opset < 10 else 8}, opset_import: ["" : {opset}]>'
    weights = {"w": gaussian(20, 12), "v": gaussian(12, 20), "b": gaussian(20, scale=1.0)}
    used = {name: value for name, value in weights.items() if name in nodes}
    model = opened(build(f"g (float[n,12] x) => (float[n,20] y) {{ {nodes} }}", used, header=header), tmp_path)
    feed = {"x": low_rank_rows(60, 12, 3, offset=1.0)}
    result = checked(folded(model, feed, 3))
    assert relative(run(result, feed)[0], run(model.path, feed)[0]) < NEAR["float"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_told(bad: float, tmp_path: Path) -> None:
    weight = gaussian(12, 20)
    weight[3, 4] = weight[5, 6] = bad
    model = opened(build("g (float[n,12] x) => (float[n,20] y) { [fc] y = MatMul(x, w) }", {"w": weight}), tmp_path)
    with pytest.raises(ModelError, match="weight 'w' of node 'fc' holds 2 values that are NaN or infinite; export"):
        folded(model, {"x": gaussian(50, 12)}, 3)


def test_a_plan_that_folds_nothing_gives_nothing(tmp_path: Path) -> None:
    model = PATTERNS["matmul, 2-D"].model(tmp_path)
    scan = find_sites(model)
    plan = plan_of(model, scan, 3)
    dense = type(plan)(plan.model_digest, "none", 0, 0, tuple(type(s)(s.site, 12, 20, None, 0.0) for s in plan.sites))
    assert fold(model, scan, dense, {}, version="test") is None


def test_full_rank_plans_every_site_at_its_smaller_side(tmp_path: Path) -> None:
    model = PATTERNS["matmul, 2-D"].model(tmp_path)
    whole = full_rank(plan_of(model, find_sites(model), 3))
    assert [(line.rank, line.predicted_error) for line in whole.sites] == [(12, 0.0)]


def test_folding_gives_the_same_bytes_and_leaves_the_model_alone(tmp_path: Path) -> None:
    pattern = PATTERNS["matmul+add, 3-D"]
    model = pattern.model(tmp_path)
    before, proto = model.path.read_bytes(), model.proto.SerializeToString(deterministic=True)
    feed = {"x": pattern.activation((12, 20), "float", rank=None)}
    files = [folded(model, feed, 5, target=name).read_bytes() for name in ("a.onnx", "b.onnx")]
    assert files[0] == files[1]
    assert model.path.read_bytes() == before
    assert model.proto.SerializeToString(deterministic=True) == proto


def test_a_site_without_bias_gains_an_add_only_where_that_pays(tmp_path: Path) -> None:
    model = PATTERNS["matmul, 2-D"].model(tmp_path)
    scan = find_sites(model)
    (site,) = scan.sites
    centred = {}
    for offset in (0.0, 3.0):
        x = low_rank_rows(400, 12, 12, offset=offset)
        centred[offset] = site_basis(model, scan, site, collected(model, scan, {"x": x})).centred
    assert centred == {0.0: False, 3.0: True}


def test_the_record_of_pairs_lets_a_later_run_know_them(tmp_path: Path) -> None:
    pattern = PATTERNS["matmul+add, 3-D"]
    model = pattern.model(tmp_path)
    again = load_model(folded(model, {"x": pattern.activation((12, 20), "float", rank=None)}, 5))
    scan = find_sites(again)
    assert scan.sites == scan.skipped == ()
    (pair,) = scan.pairs
    assert (pair.site, pair.in_features, pair.out_features, pair.rank) == ("dense", 12, 20, 5)
    assert (scan.fixed_parameters, scan.fixed_dense_parameters) == (5 * 32, 240)
    keys = {entry.key for entry in again.proto.metadata_props}
    assert keys == {"rankfold.pairs", "rankfold.version", "rankfold.plan"}
