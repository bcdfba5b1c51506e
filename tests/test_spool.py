"""The spool of held-out batches: what is written is read back, and a failed run leaves no file."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from rankfold.errors import CalibrationDataError, OutputError
from rankfold.runtime_calib.feeds import SpoolWriter, Unit, read_spool, spool_samples
from rankfold.runtime_calib.spool import is_spool

JOINS = frozenset({"x"})


def written(path: Path, units: list[Unit], batch_size: int) -> Path:
    with SpoolWriter(path, batch_size) as spool:
        for unit in units:
            spool.write(unit)
    return path


def samples(count: int, width: int = 3) -> list[Unit]:
    scale = np.float32(2)
    return [
        Unit({"x": np.full((1, width), i, np.float32), "scale": np.array(scale)}, None, JOINS) for i in range(count)
    ]


def test_batches_come_back_in_order(tmp_path):
    path = written(tmp_path / "s.npz", samples(7), 3)
    batches = list(read_spool(path))
    assert [batch["x"][:, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(list(batch) == ["x", "scale"] for batch in batches)
    assert all(batch["scale"].shape == () and batch["scale"] == 2 for batch in batches)
    assert spool_samples(path) == 7


def test_member_names_and_storage_are_plain_numpy(tmp_path):
    path = written(tmp_path / "s.npz", samples(4), 3)
    with np.load(path) as loaded:
        assert loaded.files == ["0000/x", "0000/scale", "0001/x", "0001/scale"]
        np.testing.assert_array_equal(loaded["0001/x"], [[3, 3, 3]])
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_same_units_same_bytes(tmp_path):
    first, second = (written(tmp_path / name, samples(5), 2).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second


def test_a_shape_change_starts_a_batch(tmp_path):
    path = written(tmp_path / "s.npz", [*samples(2, 3), *samples(2, 4), *samples(1, 3)], 8)
    assert [batch["x"].shape for batch in read_spool(path)] == [(2, 3), (2, 4), (1, 3)]


def test_units_that_do_not_join_stay_alone(tmp_path):
    units = [Unit({"x": np.full((4, 2), i)}) for i in range(3)]
    path = written(tmp_path / "s.npz", units, 8)
    assert [batch["x"][0, 0] for batch in read_spool(path)] == [0, 1, 2]
    assert spool_samples(path) == 12


def test_input_names_with_slashes(tmp_path):
    unit = Unit({"model/encoder/x:0": np.ones((1, 2)), "0000/y": np.zeros((1, 2))})
    path = written(tmp_path / "s.npz", [unit], 8)
    assert [list(batch) for batch in read_spool(path)] == [["model/encoder/x:0", "0000/y"]]


def test_pending_units_do_not_hold_on_to_their_chunk(tmp_path):
    chunk = np.zeros((2, 3))
    with SpoolWriter(tmp_path / "s.npz", 4) as spool:
        spool.write(Unit({"x": chunk[:1]}, None, JOINS))
        chunk[:] = 7
    assert next(read_spool(tmp_path / "s.npz"))["x"].tolist() == [[0, 0, 0]]


def test_nothing_appears_before_the_end_and_nothing_after_an_error(tmp_path):
    path = tmp_path / "s.npz"
    with SpoolWriter(path, 1) as spool:
        spool.write(samples(1)[0])
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.npz"]
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        written(path, [*samples(1), None], 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.npz"]
    assert path.read_bytes() == before


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"s\.npz: held-out data cannot be written .*No such file"):
        written(tmp_path / "none" / "s.npz", samples(1), 1)


def test_batch_size_below_one(tmp_path):
    with pytest.raises(ValueError, match="batch_size is 0"):
        SpoolWriter(tmp_path / "s.npz", 0)


def test_is_spool_by_member_names(tmp_path):
    assert is_spool(written(tmp_path / "s.npz", samples(3), 2))
    np.savez(tmp_path / "plain.npz", x=np.ones(3))
    assert not is_spool(tmp_path / "plain.npz")
    np.savez(tmp_path / "empty.npz")
    assert not is_spool(tmp_path / "empty.npz")


def test_damaged_spool(tmp_path):
    path = written(tmp_path / "s.npz", samples(30), 2)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(CalibrationDataError, match=r"s\.npz: not a readable"):
        spool_samples(path)
