"""Closed forms: fits of a factor and of a bias against least squares, and where folds stand in a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heal_examples import folded_network
from onnx_examples import build, folded, gaussian, opened, rows_of, run

from rankfold.passes.model_file import load_model
from rankfold.passes.refit import Normal, Rows, best_fits
from rankfold.passes.refit_sites import find_refit_sites

RANK, OUT, COUNT = 6, 5, 400


def random_rows(seed: int, truth: np.ndarray, *, noise: float = 0.0, count: int = COUNT) -> Rows:
    random = np.random.default_rng(seed)
    inner = random.standard_normal((count, RANK)) + 2
    missing = inner @ truth + 3 + noise * random.standard_normal((count, OUT))
    return Rows(inner, missing, True)


def test_a_fit_is_the_ridge_regression_with_an_intercept() -> None:
    truth = np.random.default_rng(0).standard_normal((RANK, OUT))
    rows = random_rows(1, truth, noise=0.5)
    normal = Normal.empty(1)
    for part in (slice(0, 150), slice(150, None)):  # sums do not depend on how rows are split
        normal.add(0, Rows(rows.inner[part], rows.missing[part], True))
    inner, missing = rows.inner - rows.inner.mean(axis=0), rows.missing - rows.missing.mean(axis=0)
    strength = 0.1
    ridge = strength * np.trace(inner.T @ inner) / RANK
    stacked = np.vstack([inner, np.sqrt(ridge) * np.eye(RANK)])
    expected = np.linalg.lstsq(stacked, np.vstack([missing, np.zeros((RANK, OUT))]), rcond=None)[0]
    change = normal.solve(strength)
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-10)  # both in float64, condition below 100
    shift = rows.missing.mean(axis=0) - rows.inner.mean(axis=0) @ expected
    np.testing.assert_allclose(normal.shift(0, change), shift, rtol=0, atol=1e-10)


def test_without_noise_next_to_all_comes_back_and_noise_alone_is_shrunk_away() -> None:
    truth = np.random.default_rng(0).standard_normal((RANK, OUT))
    clean = Normal.empty(1)
    clean.add(0, random_rows(1, truth))
    best, biases = best_fits(clean, [[random_rows(2, truth)]], (1e-4, 1.0))
    assert best.strength == 1e-4
    assert best.error < 1e-6 < biases.error  # a ridge of 1e-4 leaves about its square
    noisy = Normal.empty(1)
    nothing = np.zeros((RANK, OUT))
    noisy.add(0, random_rows(1, nothing, noise=1.0, count=12))
    best, _ = best_fits(noisy, [[random_rows(2, nothing, noise=1.0)]], (1e-4, 1.0))
    assert best.strength in (None, 1.0)


def test_rows_that_are_all_the_same_change_biases_alone() -> None:
    random = np.random.default_rng(3)
    row = Rows(
        np.tile(random.standard_normal(RANK), (COUNT, 1)), np.tile(random.standard_normal(OUT), (COUNT, 1)), True
    )
    normal = Normal.empty(1)
    normal.add(0, row)
    best, biases = best_fits(normal, [[row]], (1e-4, 1.0))
    assert not best.change.any()
    assert biases.error < 1e-12


@pytest.mark.parametrize("pivoted", [False, True])
def test_what_a_site_says_of_the_graph_is_so(tmp_path: Path, pivoted: bool) -> None:
    base, candidate = folded_network(tmp_path, pivoted=pivoted)
    sites, skipped = find_refit_sites(load_model(base), load_model(candidate))
    assert skipped == ()
    assert [site.name for site in sites] == ["fc1", "fc2", "fc3"]
    check_sites(candidate, sites, {"x": gaussian(9, 32, scale=1.0)})


BODIES = {
    "from the left": (
        "g (float[N,24,5] x) => (float[N,20,5] y) { h = MatMul(w, x) r = Relu(h) y = MatMul(v, r) }",
        {"w": gaussian(24, 24), "v": gaussian(20, 24, seed=1)},
        gaussian(40, 24, 5, scale=1.0),
    ),
    "convolution": (
        "g (float[N,8,6,6] x) => (float[N,16,4,4] y) { h = Conv(x, w, b) y = Relu(h) }",
        {"w": gaussian(16, 8, 3, 3, scale=0.1), "b": gaussian(16, seed=1)},
        gaussian(20, 8, 6, 6, scale=1.0),
    ),
    "scaled": (
        "g (float[N,24] x) => (float[N,20] y) { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }",
        {"w": gaussian(24, 20), "b": gaussian(20, seed=1)},
        gaussian(200, 24, scale=1.0),
    ),
}


@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("kind", BODIES)
def test_every_kind_of_site(tmp_path: Path, kind: str, pivoted: bool) -> None:
    body, weights, feed = BODIES[kind]
    model = opened(build(body, weights), tmp_path)
    candidate = folded(model, {"x": feed}, 4, pivoted=pivoted)
    sites, skipped = find_refit_sites(model, load_model(candidate))
    assert sites
    assert skipped == ()
    check_sites(candidate, sites, {"x": feed[:3]})


def check_sites(candidate, sites, feed) -> None:  # type: ignore[no-untyped-def]
    """Check that inner activations times `up`, with the bias, are the target's features."""
    model = load_model(candidate)
    values = {t.name: model.tensor(t).astype(np.float64) for t in model.proto.graph.initializer}
    for site in sites:
        up = values[site.up]
        up = up.reshape(len(up), -1).T if site.turned else up
        for use in site.uses:
            inner, target = run(candidate, feed, use.inner, use.target)
            found = use.alpha * rows_of(inner, use.axis) @ up
            if use.bias is not None:
                bias = np.zeros(target.shape[use.axis])
                bias[use.bias_features] = use.beta * values[use.bias].reshape(-1)
                found = found + bias[use.features]
            # Float32 sums of a few dozen terms against float64.
            np.testing.assert_allclose(found, rows_of(target, use.axis)[:, use.features], rtol=0, atol=1e-4)


def test_a_stack_is_left_alone(tmp_path: Path) -> None:
    body = "g (float[N,3,5,24] x) => (float[N,3,5,20] y) { y = MatMul(x, w) }"
    model = opened(build(body, {"w": gaussian(3, 24, 20)}), tmp_path)
    candidate = folded(model, {"x": gaussian(30, 3, 5, 24, scale=1.0)}, 4)
    sites, skipped = find_refit_sites(model, load_model(candidate))
    assert sites == ()
    assert [node.reason for node in skipped] == ["it is a stack of matrices"]
