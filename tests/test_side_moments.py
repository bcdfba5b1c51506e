"""Moments of a site's rows: the bias and the scale taken out again, the rows of all uses pooled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_examples import build, collected, gaussian, opened, sums

from rankfold.passes.model_file import Model
from rankfold.passes.side_moments import SideMoments, about, side_moments
from rankfold.passes.site import read_weight
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.spectrum import spectrum
from rankfold.values import Moments, Request

few = settings(max_examples=30, deadline=None)
splits = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@few
@given(splits, st.permutations(range(5)), st.integers(0, 1000))
def test_moments_add_up_however_the_rows_are_split(parts: list[int], order: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((sum(parts), 4))
    pieces = [sums(piece) for piece in np.split(rows, np.cumsum(parts)[:-1])]
    total = sum((pieces[i] for i in order if 0 < i < len(pieces)), pieces[0])
    whole = sums(rows)
    # At most 45 terms of size one in another order: under a hundred roundings of 2e-16, with room.
    assert total.count == whole.count == len(rows)
    assert total.total == pytest.approx(whole.total, rel=0, abs=1e-12)
    assert total.gram == pytest.approx(whole.gram, rel=0, abs=1e-12)
    assert whole.mean == pytest.approx(rows.mean(axis=0), rel=0, abs=1e-13)
    assert whole.covariance == pytest.approx(np.cov(rows.T, bias=True), rel=0, abs=1e-13)
    assert not total.gram.flags.writeable


def _pooled(model: Model, x: np.ndarray) -> tuple[Scan, SideMoments]:
    scan = find_sites(model)
    (site,) = scan.sites
    return scan, side_moments(model, scan.index, site, collected(model, scan, {"x": x}))


BIASED = [
    "y = Gemm<alpha=0.5>(x, w)",
    "y = Gemm<alpha=-2.0, beta=3.0>(x, w, b)",
    "y = Gemm<beta=0.25>(x, w, scalar)",
    "p = MatMul(x, w) y = Add(p, b)",
    "p = MatMul(x, w) y = Add(scalar, p)",
    "y = MatMul(x, w)",
]


@pytest.mark.parametrize("body", BIASED)
def test_an_output_tap_loses_bias_and_scale_again(body: str, tmp_path: Path) -> None:
    weights = {"w": gaussian(24, 8), "b": gaussian(8, scale=2.0), "scalar": np.array(0.7, np.float32)}
    model = opened(build(f"g (float[n,24] x) => (float[n,8] y) {{ {body} }}", weights), tmp_path)
    x = gaussian(50, 24, seed=1, scale=1.0) + np.float32(0.5)
    scan, found = _pooled(model, x)
    assert scan.sites[0].side == "output"
    assert not found.of_input
    z = x.astype(np.float64) @ weights["w"]
    expected = sums(z)
    assert found.count == 50
    # y is the runtime's float32: 24 products of size one, then divided by an alpha of .5 or more; 1e-5 is some tens
    # of roundings of 6e-8 on squares that reach about 20.
    assert found.means[0] == pytest.approx(expected.mean, rel=0, abs=1e-5)
    assert found.second == pytest.approx(expected.second, rel=0, abs=1e-4)


def test_an_input_tap_gives_the_mean_of_the_product(tmp_path: Path) -> None:
    weights = {"w": gaussian(6, 12), "b": gaussian(12, scale=2.0)}
    model = opened(build("g (float[n,6] x) => (float[n,12] y) { y = Gemm(x, w, b) }", weights), tmp_path)
    x = gaussian(30, 6, seed=1, scale=1.0)
    _, found = _pooled(model, x)
    assert found.of_input
    # float64 sums of 30 float32 rows: exact but for roundings of 2e-16.
    assert found.second == pytest.approx(sums(x.astype(np.float64)).second, rel=0, abs=1e-13)
    assert found.product_means(weights["w"])[0] == pytest.approx(
        (x.astype(np.float64) @ weights["w"]).mean(axis=0), rel=0, abs=1e-13
    )


SHARED = """
g (float[n,W] x, float[m,W] z) => (float[n,8] y, float[m,8] u) {
  p = MatMul(x, w)
  y = Add(p, b1)
  u = Gemm<alpha=0.5>(z, w, b2)
}
"""


@pytest.mark.parametrize("width", [6, 24])  # collected on the input side and on the output side
def test_a_shared_weight_pools_the_rows_of_its_uses(width: int, tmp_path: Path) -> None:
    weights = {"w": gaussian(width, 8), "b1": gaussian(8, scale=1.0), "b2": gaussian(8, seed=9, scale=1.0)}
    model = opened(build(SHARED.replace("W", str(width)), weights), tmp_path)
    feed = {"x": gaussian(30, width, seed=1, scale=1.0) + 1, "z": gaussian(90, width, seed=2, scale=1.0) - 2}
    scan = find_sites(model)
    (site,) = scan.sites
    found = side_moments(model, scan.index, site, collected(model, scan, feed))
    rows = [feed["x"].astype(np.float64), feed["z"].astype(np.float64)]
    rows = rows if site.side == "input" else [part @ weights["w"] for part in rows]
    assert found.shares == (0.25, 0.75)
    assert found.count == 120
    # As above: float32 sums of 24 products, divided by an alpha of .5.
    for mean, part in zip(found.means, rows, strict=True):
        assert mean == pytest.approx(part.mean(axis=0), rel=0, abs=1e-5)
    assert found.second == pytest.approx(sums(np.concatenate(rows)).second, rel=0, abs=1e-4)
    own = np.concatenate([part - part.mean(axis=0) for part in rows])
    assert found.covariance == pytest.approx(own.T @ own / 120, rel=0, abs=1e-4)
    points = (np.ones(len(found.second)), -np.ones(len(found.second)))
    moved = np.concatenate([part - point for part, point in zip(rows, points, strict=True)])
    assert about(found, points) == pytest.approx(moved.T @ moved / 120, rel=0, abs=1e-4)


@pytest.mark.parametrize("width", [6, 24])
def test_one_basis_serves_all_uses_and_each_keeps_its_own_mean(width: int, tmp_path: Path) -> None:
    weights = {"w": gaussian(width, 8), "b1": gaussian(8, scale=1.0), "b2": gaussian(8, seed=9, scale=1.0)}
    model = opened(build(SHARED.replace("W", str(width)), weights), tmp_path)
    feed = {"x": gaussian(60, width, seed=1, scale=1.0) + 3, "z": gaussian(60, width, seed=2, scale=1.0) - 3}
    scan = find_sites(model)
    (site,) = scan.sites
    weight = np.asarray(read_weight(model, scan.index, site), np.float64)
    basis = spectrum(weight, side_moments(model, scan.index, site, collected(model, scan, feed)), centred=True)
    products = [feed[name].astype(np.float64) @ weight for name in ("x", "z")]
    for rank in range(min(width, 8) + 1):
        kept = basis.vectors[:, :rank]
        away = np.concatenate([z - mean for z, mean in zip(products, basis.means, strict=True)])
        error = ((away - away @ kept @ kept.T) ** 2).sum() / 120
        assert error == pytest.approx(basis.values[rank:].sum(), rel=0, abs=1e-4)  # float32 taps, as above


def test_moments_of_two_requests_stay_apart(tmp_path: Path) -> None:
    body = "g (float[n,6] x, float[n,6] z) => (float[n,9] y, float[n,9] u) { y = MatMul(x, w) u = MatMul(z, v) }"
    model = opened(build(body, {"w": gaussian(6, 9), "v": gaussian(6, 9, seed=1)}), tmp_path)
    scan = find_sites(model)
    moments: dict[Request, Moments] = {Request("x"): sums(np.ones((3, 6))), Request("z"): sums(np.zeros((5, 6)))}
    counts = [side_moments(model, scan.index, site, moments).count for site in scan.sites]
    assert counts == [3, 5]
