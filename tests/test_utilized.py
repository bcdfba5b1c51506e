"""The laws of utilized rank: known ranks, invariances, monotony, and `P_S W P_T` itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_examples import build, collected, gaussian, low_rank_rows, opened, run, sums
from scipy import linalg

from rankfold import pipeline
from rankfold.errors import OptionsError
from rankfold.options import Options
from rankfold.passes.model_file import Model
from rankfold.passes.side_moments import SideMoments, side_moments
from rankfold.passes.sites import find_sites
from rankfold.passes.taps import tap
from rankfold.passes.utilized import (
    Directions,
    directions,
    fewest,
    measured_loss,
    product,
    projected_factors,
    seen_from_input,
    weight_ranks,
)
from rankfold.projections import Projection
from rankfold.runtime_calib.collect import Collector
from rankfold.tapping import tap_settings

Matrix = NDArray[np.float64]
few = settings(max_examples=25, deadline=None)
seeds, shares = st.integers(0, 10_000), st.floats(0.05, 1.0)
IN, OUT, ROWS = 12, 9, 60


def moments_of(rows: Matrix) -> SideMoments:
    found = sums(rows)
    return SideMoments(True, found.count, (1.0,), (found.mean,), found.second)


def drawn(seed: int) -> tuple[Matrix, Matrix]:
    """Return a weight, and rows along directions of falling size about a mean."""
    random = np.random.default_rng(seed)
    turn = linalg.qr(random.standard_normal((IN, IN)))[0]
    rows = random.standard_normal((ROWS, IN)) * 0.7 ** np.arange(IN) @ turn
    return random.standard_normal((IN, OUT)), rows + random.standard_normal(IN)


def found_of(seed: int, *, centred: bool = True) -> tuple[Matrix, Matrix, Directions]:
    weight, rows = drawn(seed)
    return weight, rows, directions(weight, moments_of(rows), centred=centred)


def ranks(found: Directions, share: float) -> tuple[int, int]:
    projection = found.projection(share)
    return projection.inputs, projection.outputs


@few
@given(seeds, st.integers(1, IN))
def test_rows_of_a_known_rank_have_that_rank_about_their_mean_and_one_more_about_zero(seed: int, rank: int) -> None:
    random = np.random.default_rng(seed)
    # The mean lies across the rows' span, and the weight maps either without squeezing: nothing comes near rounding.
    basis = linalg.qr(random.standard_normal((IN, IN)))[0]
    rows = random.standard_normal((ROWS, rank)) @ basis[:rank] + (3 * basis[rank] if rank < IN else 1.0)
    weight = basis[:OUT].T @ linalg.qr(random.standard_normal((OUT, OUT)))[0]
    found = directions(weight, moments_of(rows), centred=True)
    assert ranks(found, 1.0) == (rank, min(rank, OUT))
    about_zero = directions(weight, moments_of(rows), centred=False)
    assert ranks(about_zero, 1.0) == (min(rank + 1, IN), min(rank + 1, OUT))


@few
@given(seeds, shares, st.booleans())
def test_the_fewest_directions_hold_the_share_and_one_fewer_does_not(seed: int, share: float, centred: bool) -> None:
    _, rows, found = found_of(seed, centred=centred)
    matrix = np.cov(rows.T, bias=True) if centred else rows.T @ rows / ROWS
    values = linalg.eigvalsh(matrix)[::-1]
    kept = found.projection(share).inputs
    # float64 eigenvalues from two ways: rounding of 1e-14 of their sum, whichever side of the share it falls on
    assert values[:kept].sum() >= (share - 1e-12) * values.sum()
    assert values[: kept - 1].sum() < (share + 1e-12) * values.sum()


def test_shares_are_counted_exactly_where_they_end_between_two_directions() -> None:
    even = np.ones(10)
    assert [fewest(even, tenth / 10) for tenth in range(1, 11)] == list(range(1, 11))
    assert fewest(np.zeros(4), 0.9) == 0


@few
@given(seeds, shares, shares)
def test_a_larger_share_never_takes_fewer_directions_nor_loses_more(seed: int, one: float, other: float) -> None:
    _, _, found = found_of(seed)
    less, more = (found.projection(share) for share in sorted((one, other)))
    assert less.inputs <= more.inputs
    assert less.outputs <= more.outputs
    small, large = found.losses(less), found.losses(more)
    rounding = 1e-12  # of sums of 108 float64 terms over their whole
    assert large.inputs <= small.inputs + rounding
    assert large.outputs <= small.outputs + rounding
    assert large.both <= small.both + rounding


@few
@given(seeds, shares)
def test_turning_the_inputs_and_the_weight_with_them_or_scaling_both_changes_no_rank(seed: int, share: float) -> None:
    weight, rows, found = found_of(seed)
    turn = linalg.qr(np.random.default_rng(seed + 1).standard_normal((IN, IN)))[0]
    turned = directions(turn.T @ weight, moments_of(rows @ turn), centred=True)
    scaled = directions(weight, moments_of(1e3 * rows), centred=True)
    # a share may fall on a cumulative sum to rounding; the ranks beside it are then as good
    near = {ranks(found, min(1.0, share * (1 + sign * 1e-9))) for sign in (-1, 0, 1)}
    assert ranks(turned, share) in near
    assert ranks(scaled, share) in near


@few
@given(seeds, st.integers(1, IN), st.integers(1, OUT), st.booleans())
def test_losses_are_those_of_the_matrices_they_speak_of(seed: int, inputs: int, outputs: int, centred: bool) -> None:
    weight, rows, found = found_of(seed, centred=centred)
    matrix = np.cov(rows.T, bias=True) if centred else rows.T @ rows / ROWS
    p_s, p_t = (projector(m, k) for m, k in ((matrix, inputs), (weight.T @ matrix @ weight, outputs)))

    def lost(other: Matrix) -> float:
        left = weight - other
        return float(np.trace(left.T @ matrix @ left) / np.trace(weight.T @ matrix @ weight))

    projection = Projection(inputs, outputs, centred)
    losses = found.losses(projection)
    expected = (lost(p_s @ weight), lost(weight @ p_t), lost(p_s @ weight @ p_t))
    # the smallest eigenvalues of C are .7^22 = 4e-4 of the largest: float64's rounding is 1e-12 of them at most
    assert (losses.inputs, losses.outputs, losses.both) == pytest.approx(expected, rel=0, abs=1e-10)
    moments = moments_of(rows)
    assert measured_loss(weight, found, projection, (moments, moments)) == pytest.approx(expected[2], rel=0, abs=1e-10)
    down, up = product(weight, found, projection)
    assert down.shape[1] == up.shape[0] == min(inputs, outputs)
    assert down @ up == pytest.approx(p_s @ weight @ p_t, rel=0, abs=1e-8)  # eigenvectors turn by rounding over gaps
    factors = projected_factors(weight, moments, projection, dtype=np.float64)
    rest = rows @ weight - factors.product(rows) - (factors.shifts[0] if factors.shifts else 0.0)
    if centred:  # the mean passes through the whole weight
        assert rest.mean(axis=0) == pytest.approx(np.zeros(OUT), rel=0, abs=1e-10)
    else:
        assert factors.shifts is None


def projector(matrix: Matrix, kept: int) -> Matrix:
    vectors = linalg.eigh(matrix)[1][:, ::-1][:, :kept]
    return vectors @ vectors.T


def test_a_kept_share_of_the_input_does_not_bound_the_loss_of_the_output() -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, 3)) * (10.0, 1.0, 0.1)
    weight = np.diag([0.01, 0.01, 10.0])  # it amplifies what varies least
    found = directions(weight, moments_of(rows), centred=True)
    assert found.projection(0.95).inputs == 1
    assert found.losses(Projection(1, 3, True)).inputs > 0.9


def test_factors_of_half_precision_stay_in_its_range() -> None:
    weight, rows = drawn(3)
    weight *= 2e4  # largest entries near 6e4; products of its rows lie above 65504
    for projection in (Projection(5, 7, True), Projection(8, 6, True)):
        factors = projected_factors(weight, moments_of(rows), projection, dtype=np.float16)
        assert np.isfinite(factors.down).all()
        assert np.isfinite(factors.up).all()


def test_ranks_of_a_weight_alone() -> None:
    found, spectrum = weight_ranks(np.diag([4.0, 4.0, 4.0, 0.0]), dtype=np.float32)
    assert (found.numerical, found.stable) == (3, pytest.approx(3.0))
    assert found.effective == pytest.approx(3.0)
    assert spectrum.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0])
    assert weight_ranks(np.diag([1.0, 1e-9]), dtype=np.float32)[0].numerical == 1
    assert weight_ranks(np.diag([1.0, 1e-9]), dtype=np.float64)[0].numerical == 2
    assert weight_ranks(np.zeros((3, 2)), dtype=np.float32)[0].effective == 0.0


# how ONNX writes it, and the pads (top, left, bottom, right), strides and dilations that it means on 8 × 8 places
CONVOLUTIONS = {
    "plain": ("kernel_shape=[3,3]", (0, 0, 0, 0), (1, 1), (1, 1)),
    "padded": ("kernel_shape=[3,3], pads=[1,1,1,1]", (1, 1, 1, 1), (1, 1), (1, 1)),
    "uneven": ("pads=[0,1,2,0], strides=[2,1], dilations=[1,2]", (0, 1, 2, 0), (2, 1), (1, 2)),
    "same": ('auto_pad="SAME_UPPER", strides=[2,2]', (0, 0, 1, 1), (2, 2), (1, 1)),
}


def patches(x: Matrix, pads: tuple[int, ...], strides: tuple[int, int], dilations: tuple[int, int]) -> Matrix:
    """Return what a 3 × 3 kernel covers, place by place: (places, channels · 9)."""
    wide = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    reach = [2 * dilation for dilation in dilations]
    found = [
        wide[:, :, top : top + reach[0] + 1 : dilations[0], left : left + reach[1] + 1 : dilations[1]]
        for top in range(0, wide.shape[2] - reach[0], strides[0])
        for left in range(0, wide.shape[3] - reach[1], strides[1])
    ]
    return np.concatenate([patch.reshape(len(x), -1) for patch in found]).astype(np.float64)


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_convolution_has_the_input_ranks_of_its_patches(
    case: tuple[str, tuple[int, ...], tuple[int, int], tuple[int, int]], tmp_path: Path
) -> None:
    attributes, *geometry = case
    weight = gaussian(6, 3, 3, 3, scale=0.3)
    body = f"g (float[n,3,8,8] x) => (float[n,6,a,b] y) {{ y = Conv<{attributes}>(x, w) }}"
    model = opened(build(body, {"w": weight}), tmp_path)
    x = (gaussian(20, 3, 8, 8, seed=1, scale=1.0).cumsum(axis=3) + 1).astype(np.float32)
    scan = seen_from_input(find_sites(model))
    (site,) = scan.sites
    chosen = tap_settings(model, scan, {"x": x[:1]}, None, options=Options())
    moments = Collector(tap(model, chosen), seed=0).collect([{"x": x[:12]}, {"x": x[12:]}])
    found = side_moments(model, scan.index, site, moments)
    rows = patches(x, *geometry)  # type: ignore[arg-type]
    flat = weight.reshape(6, 27).T.astype(np.float64)
    assert rows @ flat == pytest.approx(rows_by_runtime(model, x), rel=0, abs=1e-4)  # the reference itself; 27 products
    assert found.count == len(rows)
    # float32 sums of up to 1280 squares of size 10: a few roundings of 6e-8 of 100
    assert found.second == pytest.approx(rows.T @ rows / len(rows), rel=0, abs=1e-4)
    taken, expected = (directions(flat, seen, centred=True) for seen in (found, moments_of(rows)))
    for share in (0.6, 0.9, 0.99, 1.0):
        assert ranks(taken, share) == ranks(expected, share)


def rows_by_runtime(model: Model, x: Matrix) -> Matrix:
    """Return the outputs place by place, in the order of `patches`."""
    (y,) = run(model.path, {"x": x})
    return np.moveaxis(y, 0, 3).reshape(6, -1).T.astype(np.float64)


def test_sites_that_read_one_tensor_share_its_moments_and_a_stack_has_no_utilized_rank(tmp_path: Path) -> None:
    body = """
    g (float[n,2,7,24] x) => (float[n,2,7,8] y, float[n,2,7,8] z, float[n,2,7,8] u) {
      [query] y = MatMul(x, q)
      [key] z = MatMul(x, k)
      [stack] u = MatMul(x, s)
    }
    """
    weights = {"q": gaussian(24, 8), "k": gaussian(24, 8, seed=1), "s": gaussian(2, 24, 8, seed=2)}
    model = opened(build(body, weights), tmp_path)
    scan = seen_from_input(find_sites(model))
    query, key, stack = scan.sites
    assert query.requests == key.requests
    assert (query.side, stack.side) == ("input", "output")
    x = low_rank_rows(30 * 14, 24, 5, offset=1.0).reshape(30, 2, 7, 24)
    found = pipeline.utilization(model.path, {"x": x}, shares=(1.0,))
    assert [(site.name, site.shares[0].inputs, site.shares[0].rank) for site in found.sites] == [
        ("query", 5, 5),
        ("key", 5, 5),
    ]
    assert [site.node for site in found.left] == ["stack"]
    assert found.mlu == {1.0: 5 / 8}


def test_nodes_that_share_a_weight_have_a_mean_each(tmp_path: Path) -> None:
    body = "g (float[n,6] x, float[n,6] z) => (float[n,8] y, float[n,8] u) { y = MatMul(x, w) u = MatMul(z, w) }"
    model = opened(build(body, {"w": gaussian(6, 8)}), tmp_path)
    scan = seen_from_input(find_sites(model))
    (site,) = scan.sites
    rows = low_rank_rows(40, 6, 2)
    feed = {"x": rows + gaussian(1, 6, seed=3, scale=5.0), "z": rows - gaussian(1, 6, seed=4, scale=5.0)}
    moments = side_moments(model, scan.index, site, collected(model, scan, feed))
    weight = gaussian(6, 8).astype(np.float64)
    assert ranks(directions(weight, moments, centred=True), 1.0) == (2, 2)
    assert ranks(directions(weight, moments, centred=False), 1.0) == (4, 4)


def test_shares_outside_of_their_range_are_refused(tmp_path: Path) -> None:
    for wrong in ((0.0,), (1.5,), (), (float("nan"),)):
        with pytest.raises(OptionsError, match=r"shares is .*; expected numbers above 0 and at most 1"):
            pipeline.utilization(tmp_path / "none.onnx", {}, shares=wrong)
