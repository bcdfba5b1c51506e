"""The held-out split: every unit on exactly one side, groups whole, counts as promised, independent of batching."""

import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.feeds import Parting, SpoolWriter, Unit, hold_out, read_spool

SHARES = st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.75, 0.9]) | st.floats(0.02, 0.98)


def numbered(count: int, groups: Iterable[object] | None = None) -> list[Unit]:
    labels = list(groups) if groups is not None else [None] * count
    return [Unit({"x": np.array([[i]])}, labels[i], frozenset({"x"})) for i in range(count)]


def split(folder: Path, units: list[Unit], *, share: float, seed: int = 0, batch_size: int = 8):
    """Return the numbers of the calibration units and of the held-out ones."""
    with SpoolWriter(folder / "held_out.npz", batch_size) as spool:
        kept = [int(unit.feed["x"][0, 0]) for unit in hold_out(units, share=share, seed=seed, spool=spool)]
    held = [int(value) for feed in read_spool(folder / "held_out.npz") for value in feed["x"][:, 0]]
    return kept, held


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("split")


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 120), SHARES, st.integers(0, 2**32))
def test_every_unit_on_one_side_and_the_share_is_kept(folder, count, share, seed):
    kept, held = split(folder, numbered(count), share=share, seed=seed)
    assert sorted(kept + held) == list(range(count))
    assert kept == sorted(kept)
    assert held == sorted(held)
    exact = count * Fraction(repr(share))
    assert max(1, math.floor(exact)) <= len(held) <= max(1, math.ceil(exact))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), SHARES, st.integers(0, 99))
def test_groups_stay_together(folder, groups, share, seed):
    distinct = len(set(groups))
    if distinct < 2:
        return
    kept, held = split(folder, numbered(len(groups), groups), share=share, seed=seed)
    assert sorted(kept + held) == list(range(len(groups)))
    held_groups = {groups[i] for i in held}
    assert held_groups.isdisjoint(groups[i] for i in kept)
    exact = distinct * Fraction(repr(share))
    assert max(1, math.floor(exact)) <= len(held_groups) <= max(1, math.ceil(exact))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_same_seed_same_split_whatever_the_batch_size(folder, seed, batch_size, other):
    first = split(folder, numbered(60), share=0.3, seed=seed, batch_size=batch_size)
    assert split(folder, numbered(60), share=0.3, seed=seed, batch_size=other) == first


def test_other_seeds_give_other_splits(folder):
    splits = {tuple(split(folder, numbered(40), share=0.2, seed=seed)[1]) for seed in range(10)}
    assert len(splits) == 10


def test_one_of_every_window_of_the_data(folder):
    _, held = split(folder, numbered(100), share=0.2, seed=3)
    assert [number // 5 for number in held] == list(range(20))


def test_all_places_of_a_window_are_drawn(folder):
    places = {number % 5 for number in split(folder, numbered(500), share=0.2)[1]}
    assert places == {0, 1, 2, 3, 4}


def test_a_decimal_share_is_taken_as_written(folder):
    for count in (10, 20, 30):  # as a binary fraction 0.3 is a little less, and would give one too few
        assert len(split(folder, numbered(count), share=0.3)[1]) == count * 3 // 10


def test_units_with_and_without_group_mix(folder):
    groups = ["a", None, "a", None, None, "b", "b", None]
    kept, held = split(folder, numbered(8, groups), share=0.5)
    assert sorted(kept + held) == list(range(8))
    assert len(held) in (3, 4)  # six draws: a, b and four units of their own; a and b have two units each


def test_two_units_fill_both_sides_for_every_seed(folder):
    for seed in range(20):
        kept, held = split(folder, numbered(2), share=0.01, seed=seed)
        assert len(kept) == len(held) == 1


@pytest.mark.parametrize("seed", range(4))
def test_one_unit_is_too_few(folder, seed):
    with pytest.raises(CalibrationDataError, match=r"the data has 1 samples .* at least 2 are needed"):
        split(folder, numbered(1), share=0.5, seed=seed)


def test_one_group_is_too_few(folder):
    with pytest.raises(CalibrationDataError, match="the data has 1 groups; at least 2 are needed"):
        split(folder, numbered(30, ["a"] * 30), share=0.2)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_share_out_of_range(folder, share):
    with pytest.raises(CalibrationDataError, match=r"held-out share is .*; expected more than 0 and less than 1"):
        split(folder, numbered(9), share=share)


def test_it_streams(folder):
    def endless() -> Iterable[Unit]:
        while True:
            yield from numbered(1)

    with SpoolWriter(folder / "held_out.npz", 4) as spool:
        passed = hold_out(endless(), share=0.5, seed=0, spool=spool)
        assert len([next(passed) for _ in range(100)]) == 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(0, 99))
def test_held_out_units_are_parted_by_groups(groups, seed):
    choosing, reporting = [], []

    class Into:
        def __init__(self, target):
            self.target = target

        def write(self, unit):
            self.target.append(int(unit.feed["x"][0, 0]))

    parting = Parting(Into(choosing), Into(reporting), seed=seed)
    for unit in numbered(len(groups), groups):
        parting.write(unit)
    assert sorted(choosing + reporting) == list(range(len(groups)))
    assert reporting[0] == 0  # there is always something to report on
    kinds = {groups[i] for i in reporting}
    assert kinds.isdisjoint(groups[i] for i in choosing)
    others = len(set(groups)) - 1  # .4 of them report
    assert math.floor(0.4 * others) <= len(kinds) - 1 <= math.ceil(0.4 * others) + 1
