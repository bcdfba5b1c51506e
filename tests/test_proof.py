"""Which sites a self-check folds at full rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.synthetic_transformer import Shape, write_transformer

from rankfold.passes.model_file import load_model
from rankfold.passes.site import Site
from rankfold.passes.sites import find_sites
from rankfold.proof import checked_sites


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, ...]:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    write_transformer(path, Shape(width=64, heads=1, layers=6, vocabulary=9))
    return find_sites(load_model(path)).sites


def needed(site: Site) -> int:
    """Return what two float32 factors, twice, and a float64 basis take at full rank."""
    rank = min(site.in_features, site.out_features)
    return rank * (8 * (site.in_features + site.out_features) + 8 * site.out_features)


def test_all_sites_are_checked_where_they_fit(sites: tuple[Site, ...]) -> None:
    whole = sum(map(needed, sites))
    assert checked_sites(sites, whole) == list(sites)
    assert len(checked_sites(sites, whole - 1)) < len(sites)


@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
def test_some_are_checked_within_the_room_from_all_over_the_model(sites: tuple[Site, ...], share: float) -> None:
    room = int(share * sum(map(needed, sites)))
    chosen = checked_sites(sites, room)
    assert room / 2 < sum(map(needed, chosen)) <= room
    places = [sites.index(site) for site in chosen]
    assert places == sorted(places)
    assert {3 * place // len(sites) for place in places if sites[place].op_type == "MatMul"} == {0, 1, 2}


def test_every_operator_is_checked_however_little_room_there_is(sites: tuple[Site, ...]) -> None:
    assert {site.op_type for site in sites} == {"MatMul", "Gemm"}
    assert [site.name for site in checked_sites(sites, 0)] == [sites[0].name, "head"]
    kinds = [replace(site, op_type=str(place)) for place, site in enumerate(sites)]
    assert checked_sites(kinds, 0) == kinds
