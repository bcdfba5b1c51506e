"""A calibration survives its file, and a file that is none is told."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_examples import sums

from rankfold.calibration_file import load_calibration, save_calibration
from rankfold.errors import CalibrationDataError, OutputError
from rankfold.values import Calibration, Request


def example() -> Calibration:
    random = np.random.default_rng(0)
    requests = [Request("x"), Request("a/b c", -2)]
    moments, held = ({r: sums(random.standard_normal((rows, 3))) for r in requests} for rows in (7, 2))
    settings_: dict[str, str | int | float | bool | None] = {"batch_size": 8, "holdout": 0.2, "mask": None, "cut": True}
    return Calibration("ab" * 32, moments, held, 7, 2, dict(zip(requests, (1, 4), strict=True)), settings_)


def test_everything_comes_back(tmp_path: Path) -> None:
    first = example()
    save_calibration(first, tmp_path / "c.npz")
    second = load_calibration(tmp_path / "c.npz")
    assert (second.model_digest, second.samples, second.held_out_samples) == ("ab" * 32, 7, 2)
    assert second.row_strides == first.row_strides
    assert second.settings == first.settings
    for side in ("moments", "held_out"):
        for request, moments in getattr(first, side).items():
            found = getattr(second, side)[request]
            assert found.count == moments.count
            np.testing.assert_array_equal(found.total, moments.total)
            np.testing.assert_array_equal(found.gram, moments.gram)


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        save_calibration(example(), tmp_path / "file" / "c.npz")


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04"])
def test_a_file_that_is_no_calibration_is_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CalibrationDataError, match=r"c.npz: not a calibration .*; make one with `rankfold calibrate`"):
        load_calibration(path)


def rewritten(path: Path, **head: Any) -> Path:
    """Write the example with parts of its head changed; None takes a part out."""
    save_calibration(example(), path)
    with np.load(path) as file:
        arrays = dict(file)
    content = json.loads(str(arrays["head"])) | head
    arrays["head"] = np.array(json.dumps({key: value for key, value in content.items() if value is not None}))
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "part", ["schema_version", "model_digest", "samples", "held_out_samples", "settings", "requests"]
)
def test_a_head_that_lacks_something_is_told(part: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="not a calibration"):
        load_calibration(rewritten(tmp_path / "c.npz", **{part: None}))


def test_another_schema_is_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match=r"not a calibration \(schema_version is 1, expected 2\)"):
        load_calibration(rewritten(tmp_path / "c.npz", schema_version=1))


def test_a_head_with_more_requests_than_sums_is_told(tmp_path: Path) -> None:
    with pytest.raises(CalibrationDataError, match="not a calibration"):
        load_calibration(rewritten(tmp_path / "c.npz", requests=[["x", -1, None, 1]] * 3))


# numpy leaves a damaged archive open until it is collected: not what is asked here.
unclosed = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@unclosed
@pytest.mark.parametrize(("place", "value"), [(6, 200), (8, 1), (8, 64), (10, 99)])
def test_an_archive_that_cannot_be_unpacked_is_told(place: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    save_calibration(example(), path)
    content = bytearray(path.read_bytes())
    # In the archive's directory: the version needed, the flags (encrypted; patched), the way of compression.
    content[content.index(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    with pytest.raises(CalibrationDataError, match="not a calibration"):
        load_calibration(path)


@unclosed
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=2), cut=st.booleans())
def test_damaged_bytes_end_in_an_error_or_a_calibration(
    flips: list[tuple[int, int]], cut: bool, tmp_path: Path
) -> None:
    path = tmp_path / "c.npz"
    save_calibration(example(), path)
    content = bytearray(path.read_bytes())
    for place, mask in flips:
        content[place % len(content)] ^= mask
    path.write_bytes(content[: flips[0][0] % len(content)] if cut else content)
    with suppress(CalibrationDataError):
        assert load_calibration(path).moments.keys()
