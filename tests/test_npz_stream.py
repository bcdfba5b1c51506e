"""Streaming `.npz` members: the same values as numpy reads, and one error for every kind of damage."""

import contextlib
import io
import math
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib import npz_stream
from rankfold.runtime_calib.npz_stream import members, open_npz, row_stream


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def pieces(path: Path, name: str, sizes: list[int]) -> list[np.ndarray]:
    with open_npz(path) as archive:
        take = row_stream(archive, path, members(archive, path)[name])
        return [take(size) for size in sizes]


def with_member(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    return path


def npy_bytes(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


ARRAYS = [
    np.arange(60, dtype=np.float32).reshape(10, 3, 2),
    np.arange(10, dtype=np.int64),
    np.zeros((10, 0, 3), np.float16),
    np.array([f"word{i}" for i in range(10)]),
    np.arange(30, dtype=">f8").reshape(10, 3),
    np.asfortranarray(np.arange(60, dtype=np.int32).reshape(10, 3, 2)),
    np.arange(10) % 2 == 0,
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_the_arrays_own_in_native_order(tmp_path, array, save):
    path = tmp_path / "a.npz"
    save(path, x=array)
    parts = pieces(path, "x", [3, 3, 3, 1])
    assert [len(part) for part in parts] == [3, 3, 3, 1]
    assert all(part.dtype.isnative and part.flags.c_contiguous for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), array)


@pytest.mark.parametrize("array", [*ARRAYS, np.float32(3.5)], ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_everything_at_once(tmp_path, array):
    whole = pieces(saved(tmp_path / "a.npz", x=array), "x", [None])[0]
    assert whole.shape == array.shape
    np.testing.assert_array_equal(whole, array)


def test_members_are_read_side_by_side(tmp_path):
    x, y = np.arange(40).reshape(10, 4), np.arange(10.0)
    path = saved(tmp_path / "a.npz", x=x, y=y)
    with open_npz(path) as archive:
        found = members(archive, path)
        take_x, take_y = (row_stream(archive, path, found[name]) for name in ("x", "y"))
        parts = [(take_x(5), take_y(5)) for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), x)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), y)


def test_memory_is_that_of_the_rows_taken(tmp_path):
    path = saved(tmp_path / "a.npz", x=np.ones((64, 2**17), np.float32))  # 32 MiB, a row is 512 KiB
    tracemalloc.start()
    try:
        with open_npz(path) as archive:
            take = row_stream(archive, path, members(archive, path)["x"])
            assert sum(float(take(1).sum()) for _ in range(64)) == 64 * 2**17
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22  # a few rows and zipfile's own buffers: an eighth of the array


def test_large_column_major_array_is_refused_with_the_mending(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_stream, "FORTRAN_LIMIT_BYTES", 100)
    path = saved(tmp_path / "a.npz", x=np.asfortranarray(np.ones((10, 3))))
    with pytest.raises(CalibrationDataError, match=r"'x' is in Fortran order .*np\.ascontiguousarray"):
        pieces(path, "x", [1])


def test_objects_and_pickles_are_refused(tmp_path):
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "a.npz", x=objects)
    with pytest.raises(CalibrationDataError, match="'x' holds Python objects"):
        pieces(tmp_path / "a.npz", "x", [1])
    with pytest.raises(CalibrationDataError, match="'x' is not an array in numpy's format"):
        pieces(with_member(tmp_path / "b.npz", objects.dumps()), "x", [1])


def test_missing_file(tmp_path):
    with pytest.raises(CalibrationDataError, match=r"gone\.npz: no such file"):
        pieces(tmp_path / "gone.npz", "x", [1])


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04"])
def test_not_a_zip(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CalibrationDataError, match=r"a\.npz: not a readable \.npz file"):
        pieces(tmp_path / "a.npz", "x", [1])


def test_truncated_zip(tmp_path):
    path = saved(tmp_path / "a.npz", x=np.ones((100, 10)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CalibrationDataError, match=r"a\.npz: not a readable \.npz file"):
        pieces(path, "x", [100])


def test_flipped_bit_is_noticed_at_the_end_of_the_member(tmp_path):
    path = saved(tmp_path / "a.npz", x=np.zeros((100, 10)))
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CalibrationDataError, match="CRC"):
        pieces(path, "x", [50, 50])


def test_member_shorter_than_its_header_says(tmp_path):
    content = npy_bytes(np.ones(100))
    with pytest.raises(CalibrationDataError, match="'x' has 792 bytes of values, its header says 800"):
        pieces(with_member(tmp_path / "a.npz", content[:-8]), "x", [1])


def test_negative_length(tmp_path):
    content = npy_bytes(np.ones((2, 3))).replace(b"(2, 3), ", b"(-2,-3),")
    with pytest.raises(CalibrationDataError, match="negative length"):
        pieces(with_member(tmp_path / "a.npz", content), "x", [1])


def test_header_cut_short(tmp_path):
    content = npy_bytes(np.ones((2, 3))).replace(b"}", b" ")
    with pytest.raises(CalibrationDataError, match=r"a\.npz: cannot be read"):
        pieces(with_member(tmp_path / "a.npz", content), "x", [1])


def test_same_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x.npy", "x"):
            archive.writestr(name, npy_bytes(np.ones(3)))
    with pytest.raises(CalibrationDataError, match="holds 'x' twice"):
        pieces(tmp_path / "a.npz", "x", [1])


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_numpy_never_writes_is_refused(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", packing) as archive:
        archive.writestr("x.npy", npy_bytes(np.zeros(1000)))
    with pytest.raises(CalibrationDataError, match="'x' is packed in a way that numpy does not write"):
        pieces(tmp_path / "a.npz", "x", [1])


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (10**30,)])
def test_a_header_that_claims_more_than_there_is(tmp_path, shape):
    content = io.BytesIO()
    npy_format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    claimed = math.prod(shape) * 4
    with pytest.raises(CalibrationDataError, match=f"'x' has 8 bytes of values, its header says {claimed}"):
        pieces(with_member(tmp_path / "a.npz", content.getvalue() + bytes(8)), "x", [1])


def test_a_packed_file_is_read_in_pieces(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((2**14, 2**10), np.float32))
    assert path.stat().st_size < 2**17  # 64 MiB of zeros
    tracemalloc.start()
    with open_npz(path) as archive:
        take = row_stream(archive, path, members(archive, path)["x"])
        for _ in range(2**8):
            take(2**6)
        _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**23  # a few pieces of 256 KiB, as raw bytes and as arrays


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_damage_gives_one_kind_of_error_or_none(tmp_path_factory, place, damage):
    path = saved(tmp_path_factory.mktemp("fuzz") / "a.npz", x=np.ones((2, 3)))
    content = bytearray(path.read_bytes())
    start = place % len(content)
    content[start : start + len(damage)] = damage
    path.write_bytes(content)
    # Anything else that is raised fails the test; damage to a byte that nobody reads goes unnoticed.
    with contextlib.suppress(CalibrationDataError), open_npz(path) as archive:
        for member in members(archive, path).values():
            row_stream(archive, path, member)(None)


@pytest.mark.parametrize("descr", ["()", "((),)", "[[]]", "{}", "[(1, 2)]", "'|O8'", "(" * 80 + ")" * 80])
def test_a_dtype_that_is_none(tmp_path, descr):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2,)}}\n".encode().ljust(245) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    with pytest.raises(CalibrationDataError, match=r"a\.npz: cannot be read \(.+\); write it again with np\.savez"):
        pieces(with_member(tmp_path / "a.npz", content), "x", [1])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 127), st.sampled_from("(){}[],'-<>0x\0é"))
def test_damaged_header_gives_one_kind_of_error_or_none(tmp_path_factory, place, damage):
    content = bytearray(npy_bytes(np.ones((2, 3))))
    content[place : place + len(damage.encode())] = damage.encode()
    path = with_member(tmp_path_factory.mktemp("fuzz") / "a.npz", bytes(content))
    with contextlib.suppress(CalibrationDataError), open_npz(path) as archive:
        for member in members(archive, path).values():
            row_stream(archive, path, member)(None)
