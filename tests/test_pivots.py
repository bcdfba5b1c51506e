"""Pivots and the pivoted form: the same matrix in fewer numbers, whatever features carry the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_examples import gaussian
from pattern_examples import EXAMPLES
from site_examples import PATTERNS, SIZES

from rankfold.passes.factors import Factors, factorise
from rankfold.passes.pivots import LARGEST_GROWTH, choose_pivots
from rankfold.passes.site import Side
from rankfold.passes.sites import find_sites
from rankfold.passes.spectrum import Spectrum
from rankfold.values import folded_parameters

Matrix = NDArray[np.float64]
few = settings(max_examples=80, deadline=None)
which = st.sampled_from(["output", "input"])
# Of float64, for some hundred terms a sum and a solve: seen are at most 40 roundings.
ROUNDINGS = 1000


def basis_of(weight: Matrix) -> Spectrum:
    """Return the basis of a weight on white rows with a mean: its right singular vectors."""
    _, singular, right = np.linalg.svd(weight, full_matrices=False)
    mean = np.arange(weight.shape[1], dtype=float)
    return Spectrum(singular**2, right.T, (mean,), centred=True, damping=0.0, rows=0)


def pivoted(weight: Matrix, rank: int, side: Side, dtype: type = np.float64) -> Factors:
    basis = basis_of(weight)
    pivots = choose_pivots(weight @ basis.vectors[:, :rank], basis.vectors[:, :rank], (side,))
    return factorise(weight, basis, rank, dtype=dtype, pivots=pivots)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Matrix, int]:
    """Return a weight of random sizes and rank, some of its features zero or equal, and a rank to keep of it."""
    fan_in, fan_out = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    own = draw(st.integers(1, min(fan_in, fan_out)))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    weight = random.standard_normal((fan_in, own)) @ random.standard_normal((own, fan_out))
    for axis, extent in enumerate((fan_in, fan_out)):
        start, end = sorted((draw(st.integers(0, extent)), draw(st.integers(0, extent))))
        np.moveaxis(weight, axis, 0)[start:end] *= draw(st.sampled_from([0.0, 1.0, 1e-6]))
    return weight, draw(st.integers(1, min(fan_in, fan_out) - 1))


@few
@given(weights(), which)
def test_the_pivoted_form_is_the_pair_in_fewer_numbers(case: tuple[Matrix, int], side: Side) -> None:
    weight, rank = case
    found, pair = pivoted(weight, rank, side), factorise(weight, basis_of(weight), rank, dtype=np.float64)
    assert found.down.size + found.up.size == folded_parameters(*weight.shape, rank, "pivoted")
    assert pair.down.size + pair.up.size == found.down.size + found.up.size + rank**2
    assert found.pivots is not None
    assert found.rank == rank == len(found.pivots.chosen)
    rows = np.random.default_rng(1).standard_normal((9, len(weight)))
    allowed = ROUNDINGS * np.finfo(float).eps * found.pivots.growth * np.linalg.norm(weight) * np.linalg.norm(rows)
    np.testing.assert_allclose(found.product(rows), pair.product(rows), rtol=0, atol=allowed)
    np.testing.assert_array_equal(np.array(found.shifts), np.array(pair.shifts))


@few
@given(weights(), which)
def test_pivots_are_a_basis_of_the_features_and_amplify_little(case: tuple[Matrix, int], side: Side) -> None:
    weight, rank = case
    kept = basis_of(weight).vectors[:, :rank]
    pivots = choose_pivots(weight @ kept, kept, (side,))
    features = weight.shape[side == "output"]
    assert sorted([*pivots.chosen, *pivots.others]) == list(range(features))
    np.testing.assert_array_equal(np.concatenate([pivots.chosen, pivots.others])[pivots.order], np.arange(features))
    # Pivots of a QR may by theory amplify 2^rank-fold (Kahan's matrices); anything else is far below the bound.
    assert 1 <= pivots.growth * (1 + 1e-12) <= LARGEST_GROWTH
    assert (pivots.chosen.dtype, pivots.others.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("side", ["output", "input"])
def test_the_better_of_both_ends_is_taken_and_others_where_neither_serves(side: Side) -> None:
    for dead, place in (((11,), "first"), ((0,), "last"), ((0, 11), "among")):
        weight = gaussian(12, 12, seed=4).astype(np.float64)
        (weight.T if side == "output" else weight)[list(dead)] = 0
        kept = basis_of(weight).vectors[:, :5]
        pivots = choose_pivots(weight @ kept, kept, (side,))
        assert pivots.place == place
        assert set(pivots.chosen).isdisjoint(dead)
        other: Side = "input" if side == "output" else "output"
        either = choose_pivots(
            weight @ kept, kept, (side, other)
        )  # an end of the other side before a Gather on this one
        assert either.side == (other if place == "among" else side)
        assert either.place != "among"


def test_growth_is_the_norm_of_what_gives_all_features_from_the_pivots() -> None:
    weight = gaussian(20, 12, seed=2).astype(np.float64)
    found = pivoted(weight, 4, "output")
    assert found.pivots is not None
    assert found.pivots.growth == pytest.approx(np.linalg.norm(np.hstack([np.eye(4), found.up]), 2), rel=1e-9)


def test_a_bias_is_parted_so_that_its_first_part_goes_through_up() -> None:
    found = pivoted(gaussian(20, 12, seed=2).astype(np.float64), 4, "output")
    bias = np.arange(12.0)
    first, rest = found.parted(bias)
    # `rest` is a difference of sums of a dozen numbers of up to 11: 1e-12 is some hundred roundings of them.
    whole = np.concatenate([first, first @ found.up + rest])
    assert found.pivots is not None
    np.testing.assert_allclose(whole[found.pivots.order], bias, rtol=0, atol=1e-12)


def test_float32_factors_lose_what_growth_says_and_no_more() -> None:
    weight = gaussian(96, 96, seed=3).astype(np.float64)
    rows = np.random.default_rng(1).standard_normal((64, 96))
    exact = factorise(weight, basis_of(weight), 48, dtype=np.float64).product(rows)
    found = pivoted(weight, 48, "output", np.float32)
    assert found.pivots is not None
    away = np.linalg.norm(found.product(rows) - exact) / np.linalg.norm(exact)
    assert 0 < away < 4 * np.finfo(np.float32).eps * found.pivots.growth  # both factors round once, by half a step


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", PATTERNS)
def test_which_side_may_be_pivots(name: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    pattern = PATTERNS[name]
    (site,) = find_sites(pattern.model(tmp_path, sizes=sizes)).sites
    turned, whole = pattern.x_axis == -2, pattern.centred == "never"
    expected = ("input", "output") if sizes[0] < sizes[1] else ("output", "input")
    if "left" in name or (turned and whole):
        expected = ()
    elif turned or whole:
        expected = ("output",) if turned else ("input",)
    assert site.pivots == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_stacks_and_fused_products_are_not_pivoted(name: str, tmp_path: Path) -> None:
    sites = find_sites(EXAMPLES[name].model(tmp_path)).sites
    pairs_only = "stack" in name or "fused" in name
    convolution = "conv" in name
    for site in sites:
        if pairs_only:
            assert site.pivots == ()
        else:
            assert site.pivots == (("output",) if convolution else ("output", "input"))  # narrow parts of a weight


@pytest.mark.parametrize(("dtype", "sides"), [("float", 2), ("double", 2), ("float16", 0)])
def test_narrow_types_are_not_pivoted(dtype: str, sides: int, tmp_path: Path) -> None:
    (site,) = find_sites(PATTERNS["matmul, 3-D"].model(tmp_path, dtype=dtype)).sites
    assert len(site.pivots) == sides
    assert site.weight.onnx_type == {
        "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16
    }[dtype]  # fmt: skip
