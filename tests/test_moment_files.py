"""Moments on disk come back as they were, mapped, and are there only when they are whole."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from onnx_examples import gaussian, sums

from rankfold.errors import OutputError
from rankfold.runtime_calib.moment_files import are_stored, mapped_moments, store_moments


@pytest.mark.parametrize("durable", [True, False])
def test_stored_moments_come_back(durable: bool, tmp_path: Path) -> None:
    moments = sums(gaussian(50, 7, seed=1).astype(np.float64))
    assert not are_stored(tmp_path, "one")
    for found in (store_moments(moments, tmp_path, "one", durable=durable), mapped_moments(tmp_path, "one")):
        assert (found.count, found.total.tobytes()) == (50.0, moments.total.tobytes())
        assert found.gram.tobytes() == moments.gram.tobytes()
        assert type(found.gram) is np.ndarray
        assert isinstance(found.gram.base.base, mmap.mmap)
    assert are_stored(tmp_path, "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gram.npy", "one.total.npy"]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        store_moments(sums(np.ones((2, 2))), tmp_path / "nowhere", "one", durable=False)
