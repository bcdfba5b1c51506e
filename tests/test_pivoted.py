"""The pivoted form in the graph: the pair's function, its place and its names, for every kind of site."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_examples import Array, build, folded, gaussian, low_rank_rows, opened, run
from pattern_examples import EXAMPLES, Example
from pivoted_examples import RANK, floats
from site_examples import PATTERNS, SIZES

from rankfold.passes.sites import find_sites

# Pair and pivoted form round in their own ways: a few float32 roundings (6e-8) of each, amplified by a growth that is
# below 20 at these sizes but where a test makes it larger.
NEAR = 1e-5


def relative(found: Array, expected: Array) -> float:
    away = found.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(away) / np.linalg.norm(expected.astype(np.float64)))


def checked(path: Path) -> onnx.ModelProto:
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_pivoted_form_does_what_the_pair_does(name: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    model = pattern.model(tmp_path, sizes=sizes)
    (site,) = find_sites(model).sites
    feed = {"x": pattern.activation(sizes, "float", rank=None)}
    pair = folded(model, feed, RANK)
    path = folded(model, feed, RANK, target="pivoted.onnx", pivoted=True)
    if not site.pivots:
        assert path.read_bytes() == pair.read_bytes()
        return
    result = checked(path)
    unseen = {"x": pattern.activation(sizes, "float", rank=None, seed=77)}
    assert relative(run(result, unseen)[0], run(pair, unseen)[0]) < NEAR
    assert floats(result, "down", "up") == RANK * (sum(sizes) - RANK)
    assert ("Concat" if site.pivots[0] == "output" else "Split") in kinds(result)
    assert result.graph.output == model.proto.graph.output


CONVOLUTIONS = [name for name in EXAMPLES if "conv" in name]


@pytest.mark.parametrize("name", [*CONVOLUTIONS, "split", "split, transposed"])
def test_convolutions_and_split_weights(name: str, tmp_path: Path) -> None:
    model = EXAMPLES[name].model(tmp_path)
    x = EXAMPLES[name].rows()
    pair = folded(model, {"x": x}, RANK)
    result = onnx.load(folded(model, {"x": x}, RANK, target="pivoted.onnx", pivoted=True))
    assert relative(run(result, {"x": x})[0], run(pair, {"x": x})[0]) < NEAR
    assert floats(result, "down", "up") == floats(onnx.load(pair), "down", "up") - RANK**2 * len(EXAMPLES[name].sizes)


def dead_ends(*shape: int) -> Array:
    """Return a weight whose first and last features on both sides are zero: no end holds pivots."""
    weight = gaussian(*shape, seed=1)
    weight[[0, -1]] = 0
    weight[:, [0, -1]] = 0
    return weight


AMONG: dict[str, tuple[str, dict[str, Array], tuple[int, ...], str]] = {
    "input": ("y = MatMul(x, w)", {"w": dead_ends(12, 20)}, (4, 15, 12), "Gather Gather MatMul Add MatMul"),
    "input, gemm": (
        "y = Gemm<alpha=0.5>(x, w, b)",
        {"w": dead_ends(12, 20), "b": gaussian(20, scale=1.0)},
        (60, 12),
        "Gather Gather Gemm Gemm",
    ),
    "output": (
        "p = MatMul(x, w) y = Add(p, b)",
        {"w": dead_ends(20, 12), "b": gaussian(12, scale=1.0)},
        (4, 15, 20),
        "MatMul MatMul Concat Gather Add",
    ),
    "output, gemm": (
        "y = Gemm<transA=1, beta=0.25>(x, w, b)",
        {"w": dead_ends(20, 12), "b": gaussian(12, scale=1.0)},
        (20, 60),
        "Gemm Gemm Concat Gather",
    ),
    "convolution": (
        "y = Conv<pads=[1,0]>(x, w, b)",
        {"w": dead_ends(12, 5, 3), "b": gaussian(12, scale=1.0)},
        (6, 5, 20),
        "Conv Conv Concat Gather",
    ),
}


@pytest.mark.parametrize("case", AMONG)
def test_pivots_among_the_others_take_an_index(case: str, tmp_path: Path) -> None:
    nodes, weights, shape, written = AMONG[case]
    model = Example(nodes, weights, shape, (), "").model(tmp_path)
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)  # no mean: no Add is put in
    pair = folded(model, {"x": x}, RANK)
    result = checked(folded(model, {"x": x}, RANK, target="pivoted.onnx", pivoted=True))
    assert " ".join(kinds(result)) == written
    assert relative(run(result, {"x": x})[0], run(pair, {"x": x})[0]) < NEAR


SHARED = """g (float[n,k,12] x, float[m,12] z, float[k,12] v) => (float[n,k,20] y, float[m,20] u, float[k,20] t) {
  [first] p = MatMul(x, w)  y = Add(p, b)
  [second] u = Gemm<alpha=0.5, beta=2.0>(z, w, b)
  [third] t = MatMul(v, w) }"""


@pytest.mark.parametrize("wide", [False, True])
def test_the_uses_of_one_weight_share_factors_and_marks(wide: bool, tmp_path: Path) -> None:
    fan = 24 if wide else 12  # wider than the output, or narrower
    weights = {"w": gaussian(fan, 20), "b": gaussian(20, seed=8, scale=1.0)}
    model = opened(build(SHARED.replace("12]", f"{fan}]"), weights), tmp_path)
    rows = low_rank_rows(120, fan, 12, offset=1.0)
    feed = {"x": rows[:60].reshape(4, 15, fan), "z": rows[60:105], "v": rows[105:]}
    pair = folded(model, feed, RANK)
    result = checked(folded(model, feed, RANK, target="pivoted.onnx", pivoted=True))
    sizes = [tuple(t.dims) for t in result.graph.initializer if len(t.dims) == 2]
    assert sizes == ([(24, RANK), (RANK, 20 - RANK)] if wide else [(12 - RANK, RANK), (RANK, 20)])
    for found, expected in zip(run(result, feed), run(pair, feed), strict=True):
        assert relative(found, expected) < NEAR


@pytest.mark.parametrize("opset", [7, 10, 11, 12, 13, 17, 18, 21, 23])
@pytest.mark.parametrize("nodes", ["y = Gemm<transB=1>(x, w, b)", "p = MatMul(x, v) y = Add(p, c)", "y = MatMul(x, v)"])
def test_every_opset_that_counts_axes_from_the_end(opset: int, nodes: str, tmp_path: Path) -> None:
    header = f'<ir_version: {4 if opset < 10 else 8}, opset_import: ["" : {opset}]>'
    weights = {"w": gaussian(20, 12), "v": gaussian(12, 20), "b": gaussian(20, scale=1.0), "c": gaussian(20, scale=1.0)}
    used = {name: value for name, value in weights.items() if f" {name})" in nodes or f" {name}," in nodes}
    model = opened(build(f"g (float[n,12] x) => (float[n,20] y) {{ {nodes} }}", used, header=header), tmp_path)
    assert [site.pivots for site in find_sites(model).sites] == [() if opset < 11 else ("input", "output")]
    feed = {"x": low_rank_rows(60, 12, 12, offset=1.0)}
    pair = folded(model, feed, RANK)
    result = checked(folded(model, feed, RANK, target="pivoted.onnx", pivoted=True))
    assert ("Split" in kinds(result)) == (opset >= 11)
    assert relative(run(result, feed)[0], run(pair, feed)[0]) < NEAR


def test_a_gelu_behind_the_bias_is_still_fused(tmp_path: Path) -> None:
    erf = """h = Add(p, b) d = Div(h, root) e = Erf(d) f = Add(e, one) g = Mul(h, f) y = Mul(g, half)"""
    constants = {"root": np.sqrt(2.0), "one": 1.0, "half": 0.5}
    weights: dict[str, Array] = {name: np.array(value, np.float32) for name, value in constants.items()}
    for sizes, kind in (((24, 16), "Concat"), ((16, 24), "Split")):
        weights |= {"w": gaussian(*sizes), "b": gaussian(sizes[1], scale=1.0)}
        text = f"m (float[n,7,{sizes[0]}] x) => (float[n,7,{sizes[1]}] y) {{ p = MatMul(x, w) {erf} }}"
        model = opened(build(text, weights), tmp_path)
        path = folded(model, {"x": low_rank_rows(70, sizes[0], 16).reshape(10, 7, -1)}, RANK, pivoted=True)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = kinds(onnx.load(tmp_path / "optimised.onnx"))
        assert kind in found
        assert {"BiasGelu", "Gelu"}.intersection(found)
        assert "Erf" not in found
