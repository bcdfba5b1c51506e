"""Utilized ranks of a model's sites: convolutions by their patches, shared tensors and weights, and stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import build, collected, gaussian, low_rank_rows, opened, run
from utilized_examples import Matrix, moments_of, ranks

from rankfold import pipeline
from rankfold.errors import OptionsError
from rankfold.options import Options
from rankfold.passes.model_file import Model
from rankfold.passes.side_moments import side_moments
from rankfold.passes.sites import find_sites
from rankfold.passes.taps import tap
from rankfold.passes.utilized import directions, seen_from_input
from rankfold.runtime_calib.collect import Collector
from rankfold.tapping import tap_settings

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
