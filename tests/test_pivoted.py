"""The pivoted form in the graph: the pair's function, its place and its names, for every kind of site."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_examples import Array, build, collected, folded, gaussian, low_rank_rows, opened, plan_of, run
from pattern_examples import EXAMPLES, Example
from site_examples import PATTERNS, SIZES

import rankfold
from rankfold.errors import ModelError, PlanError
from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold
from rankfold.passes.model_file import load_model
from rankfold.passes.plan import check_plan, site_curves
from rankfold.passes.sites import find_sites
from rankfold.passes.write_model import write_model

RANK = 5
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


def floats(model: onnx.ModelProto, *names: str) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.name.rpartition("/")[2] in names)


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


def test_the_record_lets_a_later_run_know_it(tmp_path: Path) -> None:
    pattern = PATTERNS["matmul+add, 3-D"]
    model = pattern.model(tmp_path)
    path = folded(model, {"x": pattern.activation((12, 20), "float", rank=None)}, RANK, pivoted=True)
    scan = find_sites(load_model(path))
    assert scan.sites == scan.skipped == ()
    (pair,) = scan.pairs
    assert (pair.form, pair.rank, pair.parameters, pair.dense_parameters) == ("pivoted", RANK, RANK * 27, 240)
    assert scan.fixed_parameters == RANK * 27
    assert fold(load_model(path), scan, plan_of(load_model(path), scan, RANK), {}, version="test") is None


def _recorded(path: Path, **parts: object) -> Path:
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == "rankfold.pairs")
    (record,) = json.loads(entry.value)
    entry.value = json.dumps([{key: value for key, value in (record | parts).items() if value is not None}])
    onnx.save(model, path)
    return path


def test_a_record_without_a_form_is_a_pair_and_one_of_another_form_is_told(tmp_path: Path) -> None:
    pattern = PATTERNS["matmul+add, 3-D"]
    feed = {"x": pattern.activation((12, 20), "float", rank=None)}
    path = folded(pattern.model(tmp_path), feed, RANK)
    (pair,) = find_sites(load_model(_recorded(path, form=None))).pairs
    assert (pair.form, pair.parameters) == ("pair", RANK * 32)
    assert find_sites(load_model(_recorded(path, form="pivoted"))).pairs == ()  # its factors are none of that form
    with pytest.raises(ModelError, match=r"is damaged .form 'other' of 'dense'"):
        find_sites(load_model(_recorded(path, form="other")))


def test_a_plan_cannot_pivot_what_has_no_pivots(tmp_path: Path) -> None:
    model = PATTERNS["left matmul, 2-D"].model(tmp_path)
    scan = find_sites(model)
    plan = plan_of(model, scan, RANK)
    pivoted = replace(plan, sites=tuple(replace(line, form="pivoted") for line in plan.sites))
    with pytest.raises(PlanError, match=r"is pivoted in the plan, which it cannot be; expected the form 'pair'"):
        check_plan(pivoted, scan, model_digest=model.digest)


def test_a_plan_of_its_own_pivots_matrices_and_not_convolutions(tmp_path: Path) -> None:
    forms = {}
    for name, nodes, weights, shape in (
        ("convolution", "y = Conv(x, w)", {"w": gaussian(2048, 256, 1, 1)}, (24, 256, 5, 5)),
        ("matrix", "y = MatMul(x, w)", {"w": gaussian(256, 2048)}, (24, 25, 256)),
    ):
        (tmp_path / name).mkdir()
        model = Example(nodes, weights, shape, (), "").model(tmp_path / name)
        scan = find_sites(model)
        moments = collected(model, scan, {"x": np.random.default_rng(3).standard_normal(shape).astype(np.float32)})
        (curve,) = site_curves(scan, {site.name: site_basis(model, scan, site, moments) for site in scan.sites})
        forms[name] = {choice.form for choice in curve.choices if choice.rank is not None}
        assert scan.sites[0].pivots  # by hand both may be
    assert forms == {"convolution": {"pair"}, "matrix": {"pair", "pivoted"}}  # the low ranks as pairs


def test_pivots_of_all_features_are_refused(tmp_path: Path) -> None:
    model = PATTERNS["matmul, 2-D"].model(tmp_path)
    scan = find_sites(model)
    check_plan(plan_of(model, scan, 11, pivoted=True), scan, model_digest=model.digest)
    with pytest.raises(PlanError, match="has rank 12 in the plan; expected 1 to 11"):
        check_plan(plan_of(model, scan, 12, pivoted=True), scan, model_digest=model.digest)


def test_bases_that_come_late_give_the_same_bytes(tmp_path: Path) -> None:
    model = opened(
        build(
            "g (float[n,12] x) => (float[n,12] y) { h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, v) }",
            {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0), "v": gaussian(20, 12, seed=4)},
        ),
        tmp_path,
    )
    scan = find_sites(model)
    moments = collected(model, scan, {"x": low_rank_rows(60, 12, 12, offset=1.0)})
    spectra = {site.name: site_basis(model, scan, site, moments) for site in scan.sites}
    bare = {name: replace(basis, vectors=np.empty((len(basis.vectors), 0))) for name, basis in spectra.items()}
    plan = plan_of(model, scan, RANK, pivoted=True)
    write_model(fold(model, scan, plan, spectra, version="test"), model, tmp_path / "kept.onnx")
    late = fold(model, scan, plan, bare, version="test", whole=lambda site: spectra[site.name])
    write_model(late, model, tmp_path / "late.onnx")
    assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "late.onnx").read_bytes()


def test_compress_pivots_checks_and_leaves_the_result_alone(tmp_path: Path) -> None:
    body = """g (float[n,7,256] x) => (float[n,7,256] y) {
      [fc1] p = MatMul(x, w)  h = Add(p, b)  r = Relu(h)  [fc2] y = MatMul(r, v) }"""
    weights = {"w": gaussian(256, 2048), "b": gaussian(2048, scale=0.5), "v": gaussian(2048, 256, seed=4)}
    model = opened(build(body, weights), tmp_path)
    x = low_rank_rows(1400, 256, 256, offset=0.3).reshape(200, 7, 256)
    options = rankfold.Options(latency_rounds=0, allocation="uniform")
    done = rankfold.compress(model.path, {"x": x}, keep=0.78, output=tmp_path / "small.onnx", options=options)
    assert {line.form for line in done.plan.folded} == {"pivoted"}
    assert {site.form for site in done.report.sites} == {"pivoted"}
    assert done.plan.parameters_after <= 0.78 * done.plan.parameters_before
    result = onnx.load(done.path)
    assert floats(result, "down", "up") == done.plan.parameters_after
    check = done.report.self_check
    assert check is not None
    assert check.pivoted is not None
    assert 0 < check.pivoted <= check.largest < check.tolerance
    again = rankfold.compress(done.path, {"x": x}, keep=0.78, output=tmp_path / "again.onnx", options=options)
    assert not again.report.changed
    assert again.plan.parameters_after == done.plan.parameters_after
