"""The pivoted form in plans and records: where it is chosen, what a later run knows, what compress makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_examples import build, collected, folded, gaussian, low_rank_rows, opened, plan_of
from pattern_examples import Example
from pivoted_examples import RANK, floats
from site_examples import PATTERNS

import rankfold
from rankfold.errors import ModelError, PlanError
from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold
from rankfold.passes.model_file import load_model
from rankfold.passes.plan import check_plan, site_curves
from rankfold.passes.sites import find_sites
from rankfold.passes.write_model import write_model


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
