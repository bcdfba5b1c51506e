"""Data that is read several times is split alike each time, and what can be read once only is kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from rankfold.errors import CalibrationDataError
from rankfold.options import Options
from rankfold.reading import data_fingerprint, open_reading
from rankfold.runtime_calib.feeds import DataLike, read_spool
from rankfold.values import Feed, InputSpec

SPECS = (InputSpec("x", "float32", ("batch", 2)),)
ROWS = np.arange(46, dtype=np.float32).reshape(23, 2)
OPTIONS = Options(batch_size=4, seed=3)


def joined(feeds: Iterable[Feed]) -> np.ndarray:
    return np.concatenate([feed["x"] for feed in feeds])


def as_file(folder: Path) -> Path:
    np.savez(folder / "data.npz", x=ROWS)
    return folder / "data.npz"


@pytest.mark.parametrize("kind", ["file", "list", "dict", "generator"])
def test_every_reading_gives_the_same_batches(kind: str, tmp_path: Path) -> None:
    parts = [{"x": part} for part in np.split(ROWS, 23)]
    data: DataLike = {"file": as_file(tmp_path), "list": parts, "dict": {"x": ROWS}, "generator": iter(parts)}[kind]
    first, reading = open_reading(data, SPECS, tmp_path / "held_out.npz")
    np.testing.assert_array_equal(first.feed["x"], ROWS[:1])
    assert (reading.again is None) == (kind == "generator")
    if reading.again is None:
        reading.kept = tmp_path / "kept.npz"
    readings = [list(reading.batches(OPTIONS)) for _ in range(3)]
    assert [feed["x"].shape[0] for feed in readings[0]] == [4, 4, 4, 4, 2]
    assert reading.samples == 18
    for again in readings[1:]:
        assert [feed["x"].tobytes() for feed in again] == [feed["x"].tobytes() for feed in readings[0]]
    both = np.concatenate([joined(readings[0]), joined(read_spool(tmp_path / "held_out.npz"))])
    assert {tuple(row) for row in both} == {tuple(row) for row in ROWS}
    assert len(both) == 23


def test_what_is_known_to_be_read_is_not_split_again(tmp_path: Path) -> None:
    _, before = open_reading(as_file(tmp_path), SPECS, tmp_path / "held_out.npz")
    expected = joined(before.batches(OPTIONS))
    _, reading = open_reading(iter([{"x": ROWS}]), SPECS, tmp_path / "other.npz")
    reading.samples = 18
    np.testing.assert_array_equal(joined(reading.batches(OPTIONS)), expected)
    assert not (tmp_path / "other.npz").exists()


def test_no_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="no feeds; give at least 2 samples"):
        open_reading([], SPECS, tmp_path / "held_out.npz")


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    path = as_file(tmp_path)
    before = data_fingerprint(path)
    assert data_fingerprint(str(path)) == before
    np.savez(path, x=ROWS + 1)
    assert data_fingerprint(path) != before
    assert data_fingerprint([{"x": ROWS}]) == "list"
