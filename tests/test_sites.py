"""Each way of writing a linear layer is found, and its normal form computes what the node computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import build, collected, folded, gaussian, low_rank_rows, opened, rows_of, run, sums
from site_examples import DTYPES, PATTERNS, SIZES

from rankfold.passes.model_file import Model
from rankfold.passes.site import Site, read_bias, read_weight
from rankfold.passes.sites import find_sites

# y = x W + b in the runtime's type, against float64, relative to the largest value: some 20 products and roundings.
NEAR = {"float": 1e-5, "double": 1e-13, "float16": 1e-2}


def only_site(model: Model) -> Site:
    scan = find_sites(model)
    assert scan.skipped == ()
    (site,) = scan.sites
    return site


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PATTERNS)
def test_the_normal_form_is_what_the_node_computes(name: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    model = pattern.model(tmp_path, sizes=sizes)
    scan, site = find_sites(model), only_site(model)
    (use,) = site.uses
    assert (site.in_features, site.out_features) == sizes
    assert (use.activation, use.output) == ("x", "y")
    assert (use.feature_axis, use.activation_axis, use.centred) == (pattern.axis, pattern.x_axis, pattern.centred)
    x = pattern.activation(sizes, "float", rank=None)
    y = rows_of(run(model.path, {"x": x})[0], use.feature_axis)
    weight = np.asarray(read_weight(model, scan.index, site), np.float64)
    assert weight.shape == sizes
    product = use.scale * rows_of(x, use.activation_axis) @ weight
    if pattern.centred != "never":
        expected = product + read_bias(model, scan.index, site, use)
        assert y == pytest.approx(expected, rel=0, abs=NEAR["float"] * np.abs(expected).max())
    elif "beta=0.0" in pattern.nodes:
        assert y == pytest.approx(product, rel=0, abs=NEAR["float"] * np.abs(product).max())


@pytest.mark.parametrize("name", PATTERNS)
def test_the_request_names_the_smaller_side(name: str, tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    for folder, sizes in SIZES.items():
        (tmp_path / folder).mkdir()
        model = pattern.model(tmp_path / folder, sizes=sizes)
        site = only_site(model)
        wanted = "input" if sizes[0] < sizes[1] or pattern.centred == "never" else "output"
        assert site.side == wanted
        moments = collected(model, find_sites(model), {"x": pattern.activation(sizes, "float", rank=None)})
        assert [moments[request].features for request in site.requests] == [sizes[0 if wanted == "input" else 1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["matmul+add, 3-D", "left matmul+add, 3-D", "gemm transB=1, alpha=0.5, beta=2.0, C"])
def test_float_types(name: str, dtype: str, tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    model = pattern.model(tmp_path, dtype=dtype)
    site, scan = only_site(model), find_sites(model)
    assert read_weight(model, scan.index, site).dtype == DTYPES[dtype]
    x = pattern.activation((12, 20), dtype, rank=None)
    (use,) = site.uses
    y = rows_of(run(model.path, {"x": x})[0], use.feature_axis)
    weight = np.asarray(read_weight(model, scan.index, site), np.float64)
    expected = use.scale * rows_of(x, use.activation_axis) @ weight + read_bias(model, scan.index, site, use)
    assert y == pytest.approx(expected, rel=0, abs=NEAR[dtype] * np.abs(expected).max())


CHAINS = {
    "c = Identity(w)": "OI",
    "t = Transpose(w) c = Transpose(t)": "OI",
    "h = Cast<to=10>(w) c = Cast<to=1>(h)": "OI",
    "c = Reshape(w, shape)": "OI",
    "t = Transpose(w) i = Identity(t) r = Reshape(i, turned) c = Transpose(r)": "OI",
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_weight_behind_a_chain(chain: str, tmp_path: Path) -> None:
    text = f"g (float[n,12] x) => (float[n,20] y) {{ {chain} y = Gemm<transB=1>(x, c) }}"
    sizes = {"shape": np.array([20, 12]), "turned": np.array([12, -1])}
    model = opened(build(text, {"w": gaussian(20, 12)} | {k: v for k, v in sizes.items() if k in chain}), tmp_path)
    site, scan = only_site(model), find_sites(model)
    x = gaussian(5, 12, seed=3, scale=1.0)
    expected = x @ read_weight(model, scan.index, site)
    # Twelve products of float32; as above.
    np.testing.assert_allclose(run(model.path, {"x": x})[0], expected, rtol=0, atol=1e-5)


def test_a_weight_in_a_constant_node(tmp_path: Path) -> None:
    values = ",".join(str(value) for value in range(6))
    text = f"g (float[n,2] x) => (float[n,3] y) {{ w = Constant<value = float[2,3] {{{values}}}>() y = MatMul(x, w) }}"
    model = opened(build(text, {}), tmp_path)
    site = only_site(model)
    np.testing.assert_array_equal(read_weight(model, find_sites(model).index, site), np.arange(6.0).reshape(2, 3))


def test_uses_of_one_weight_in_one_orientation_share_a_site(tmp_path: Path) -> None:
    text = """g (float[n,6] x, float[m,k,6] z) => (float[n,9] y, float[m,k,9] u) {
      [first] y = MatMul(x, w)
      i = Identity(w)
      [second] u = MatMul(z, i)
    }"""
    model = opened(build(text, {"w": gaussian(6, 9)}), tmp_path)
    site = only_site(model)
    assert site.name == "first"
    assert [use.activation for use in site.uses] == ["x", "z"]
    assert site.parameters == 54


def test_a_matmul_and_a_gemm_share_a_site_where_they_multiply_alike(tmp_path: Path) -> None:
    text = """g (float[n,6] x) => (float[n,9] y, float[n,9] u) {
      y = MatMul(x, w)
      t = Transpose(w)
      v = Transpose(t)
      u = Gemm(x, v)
    }"""
    assert len(only_site(opened(build(text, {"w": gaussian(6, 9)}), tmp_path)).uses) == 2


@pytest.mark.parametrize(
    ("outs", "sides"),
    [((9,), ["output"]), ((9, 9), ["input", "input"]), ((12,), ["input"]), ((3, 4), ["output", "output"])],
)
def test_sites_that_read_one_tensor_decide_together(outs: tuple[int, ...], sides: list[str], tmp_path: Path) -> None:
    # One gram of 12² serves all: two outputs of 9 (2 · 81 > 144) cost more, two of 3 and 4 less; a tie goes to input.
    nodes = " ".join(f"y{i} = MatMul(x, w{i})" for i in range(len(outs)))
    given = ", ".join(f"float[n,{width}] y{i}" for i, width in enumerate(outs))
    weights = {f"w{i}": gaussian(12, width, seed=i) for i, width in enumerate(outs)}
    model = opened(build(f"g (float[n,12] x) => ({given}) {{ {nodes} }}", weights), tmp_path)
    scan = find_sites(model)
    assert [site.side for site in scan.sites] == sides
    assert len(scan.requests) == (1 if sides[0] == "input" else len(outs))


def test_moments_of_a_request_have_the_sites_rows(tmp_path: Path) -> None:
    pattern = PATTERNS["left matmul, 3-D"]
    model = pattern.model(tmp_path)
    x = pattern.activation((12, 20), "float", rank=None)
    (request,) = find_sites(model).requests
    found = collected(model, find_sites(model), {"x": x})[request]
    # Rows are the columns of each of the four matrices.
    np.testing.assert_array_equal(found.gram, sums(np.concatenate([part.T for part in x]).astype(np.float64)).gram)


NO_BIAS = {
    "it adds an axis": "y = Add(p, wide)",
    "it differs from row to row": "y = Add(p, grid)",
    "it is an activation": "m = ReduceMean<keepdims=0>(x) y = Add(p, m)",
    "the product has another reader": "q = Add(p, b) r = Neg(p) y = Add(q, r)",
    "the product is an output": "y = Add(p, b)",
    "it is subtracted": "y = Sub(p, b)",
}


@pytest.mark.parametrize("case", NO_BIAS)
def test_an_addition_that_is_no_bias_stays_out_of_the_site(case: str, tmp_path: Path) -> None:
    rank = 3 if case == "it adds an axis" else 2
    outputs = f"float[{','.join('abc'[:rank])}] y" + (", float[n,20] p" if "output" in case else "")
    text = f"g (float[n,12] x) => ({outputs}) {{ [fc] p = MatMul(x, w) {NO_BIAS[case]} }}"
    constants = {"wide": gaussian(1, 1, 20), "grid": gaussian(48, 20), "b": gaussian(20)}
    used = {name: value for name, value in constants.items() if f"{name})" in text}
    model = opened(build(text, {"w": gaussian(12, 20)} | used), tmp_path)
    (use,) = only_site(model).uses
    assert (use.output, use.bias, use.centred) == ("p", None, "add")
    feed = {"x": low_rank_rows(48, 12, 3, offset=1.0)}
    for found, expected in zip(run(folded(model, feed, 3), feed), run(model.path, feed), strict=True):
        assert found.shape == expected.shape
        assert found == pytest.approx(expected, rel=0, abs=NEAR["float"] * float(np.abs(expected).max()))
