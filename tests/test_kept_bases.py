"""Bases on disk: what is read is what was kept, no more than there is room for, and gone with the object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import gaussian

from rankfold.errors import OutputError
from rankfold.kept_bases import KeptBases
from rankfold.passes.spectrum import Spectrum


def basis(seed: int, *, skew: bool) -> Spectrum:
    vectors = gaussian(6, 4, seed=seed).astype(np.float64)
    means = (gaussian(6, seed=seed + 1).astype(np.float64),)
    return Spectrum(np.arange(4.0)[::-1].copy(), vectors, means, True, 0.1, 50.0, 2 * vectors if skew else None)


@pytest.mark.parametrize("skew", [False, True])
def test_what_is_read_is_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: bool) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept, given = KeptBases(1e6), basis(0, skew=skew)
    kept.keep("a", given)
    found = kept.read("a")
    assert found is not None
    np.testing.assert_array_equal(found.vectors, given.vectors)
    np.testing.assert_array_equal(found.duals, given.duals)
    np.testing.assert_array_equal(found.means, given.means)
    assert (found.centred, found.damping, found.rows) == (True, 0.1, 50.0)
    assert kept.read("b") is None
    assert kept.are_all
    assert len(list(tmp_path.iterdir())) == 1
    del kept
    assert list(tmp_path.iterdir()) == []


def test_beyond_the_room_nothing_is_kept() -> None:
    kept = KeptBases(6 * 4 * 8 + 1)
    kept.keep("a", basis(0, skew=False))
    assert kept.are_all
    kept.keep("b", basis(1, skew=True))
    assert kept.read("a") is not None
    assert kept.read("b") is None
    assert not kept.are_all


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptBases(1e6)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rankfold.kept_bases.np.save", full)
    with pytest.raises(OutputError, match=r"cannot be kept there \(No space left on device\); free some room"):
        kept.keep("a", basis(0, skew=False))
