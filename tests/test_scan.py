"""A scan of a whole model: what patterns leave out, what nodes are called, and what a record says of earlier folds."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto
from onnx_examples import build, folded, gaussian, opened

from rankfold.errors import ModelError
from rankfold.passes.model_file import load_model
from rankfold.passes.sites import find_sites

W = gaussian(6, 6)


def test_excluded_sites_count_but_are_left_alone(tmp_path: Path) -> None:
    text = "g (float[n,6] x) => (float[n,6] y) { [enc_a] h = MatMul(x, w1) [head] y = MatMul(h, w2) }"
    model = opened(build(text, {"w1": gaussian(6, 6), "w2": gaussian(6, 6, seed=1)}), tmp_path)
    scan = find_sites(model, exclude=("nothing", "he*"))
    assert [site.name for site in scan.sites] == ["enc_a"]
    assert [site.name for site in scan.excluded] == ["head"]
    assert [(s.node, s.reason) for s in scan.skipped] == [("head", "excluded by the pattern 'he*'")]
    assert scan.fixed_parameters == scan.fixed_dense_parameters == 36


def test_a_pattern_matches_every_use(tmp_path: Path) -> None:
    nodes = "[a] h = MatMul(x, w) [b] y = Gemm(h, w)"
    model = opened(build(f"g (float[n,6] x) => (float[n,6] y) {{ {nodes} }}", {"w": W}), tmp_path)
    assert find_sites(model, exclude=("Gemm",)).sites == ()
    assert find_sites(model, exclude=("b",)).sites == ()
    assert len(find_sites(model, include=("Gemm",)).sites) == 1


def test_names_of_skipped_nodes_are_unique(tmp_path: Path) -> None:
    model = build("g (float[n,n] x) => (float[n,n] y) { h = MatMul(x, x) y = MatMul(h, h) }", {})
    assert [found.node for found in find_sites(opened(model, tmp_path)).skipped] == ["MatMul_0", "MatMul_1"]


def test_what_was_folded_before_counts_only_where_it_is_included(tmp_path: Path) -> None:
    nodes = "[head] h = MatMul(x, w1) [tail] y = Gemm(h, w2)"
    weights = {"w1": gaussian(32, 32), "w2": gaussian(32, 32, seed=1)}
    model = opened(build(f"g (float[n,32] x) => (float[n,32] y) {{ {nodes} }}", weights), tmp_path)
    path = folded(model, {"x": gaussian(90, 32, seed=2, scale=1.0)}, 8)
    result = load_model(path)
    assert find_sites(result).fixed_dense_parameters == 2048
    for pattern in ("MatMul", "head", "w1"):
        scan = find_sites(result, include=(pattern,))
        assert (scan.fixed_dense_parameters, scan.fixed_parameters) == (1024, 512)
        assert len(scan.pairs) == 2


def with_record(text: str) -> ModelProto:
    model = build("g (float[n,6] x) => (float[n,6] y) { y = MatMul(x, w) }", {"w": W})
    model.metadata_props.add(key="rankfold.pairs", value=text)
    return model


@pytest.mark.parametrize("text", ["{", "[1]", '[{"site": "a"}]', "7", '[{"site":1,"more":2}]', "null"])
def test_a_damaged_record_of_pairs_is_told(text: str, tmp_path: Path) -> None:
    model = opened(with_record(text), tmp_path)
    with pytest.raises(ModelError, match=r"the metadata key 'rankfold.pairs' is damaged"):
        find_sites(model)


def test_a_record_whose_factors_are_gone_is_forgotten(tmp_path: Path) -> None:
    gone = '[{"site":"a","down":"a/d","up":"a/u","in_features":9,"out_features":9,"rank":2}]'
    scan = find_sites(opened(with_record(gone), tmp_path))
    assert scan.pairs == ()
    assert len(scan.sites) == 1


def test_a_record_of_other_sizes_is_forgotten(tmp_path: Path) -> None:
    model = build(
        "g (float[n,6] x) => (float[n,6] y) { h = MatMul(x, d) y = MatMul(h, u) }",
        {"d": gaussian(6, 2), "u": gaussian(2, 6)},
    )
    record = '[{"site":"a","down":"d","up":"u","in_features":6,"out_features":6,"rank":3}]'
    model.metadata_props.add(key="rankfold.pairs", value=record)
    assert find_sites(opened(model, tmp_path)).pairs == ()
