"""What calibration data is refused for, with messages that tell what to mend."""

import base64
import io
import json
import os

import numpy as np
import pytest
from numpy.lib import format as npy

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib import feed_cut
from rankfold.runtime_calib.feeds import open_source
from rankfold.values import InputSpec

X = InputSpec("x", "float32", ("batch", 3))
IDS = InputSpec("ids", "int64", ("batch", "tokens"))
FIXED = InputSpec("x", "float32", (4, 3))
SCALE = InputSpec("scale", "float32", ())


def rows(count: int, width: int = 3) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def ids(count: int, width: int = 5) -> np.ndarray:
    return np.arange(count * width, dtype=np.int64).reshape(count, width)


def refused(data: object, inputs: tuple[InputSpec, ...], message: str) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        list(open_source(data, inputs).units)


class EmptyReader:
    def get_next(self) -> None:
        return None


def test_dtype(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(4).astype(np.float64))
    refused(tmp_path / "a.npz", (X,), r"'x' is float64, the model takes float32; convert it with array\.astype\('flo")
    refused([{"ids": ids(4).astype(np.int32)}], (IDS,), r"feed 0: input 'ids' is int32, the model takes int64")


def test_names(tmp_path):
    np.savez(tmp_path / "a.npz", y=rows(4))
    refused(tmp_path / "a.npz", (X,), "missing 'x'; unknown 'y'; found 'y', expected 'x'; name every array after its")
    np.savez(tmp_path / "b.npz", x=rows(4), y=rows(4))
    refused(tmp_path / "b.npz", (X,), r"b\.npz: the names do not fit the model: unknown 'y'; found 'x', 'y', expected")
    refused([{"x": rows(4)}], (X, IDS), "data, feed 0: .*missing 'ids'; found 'x', expected 'x', 'ids'")
    refused([{}], (X,), "missing 'x'; found none")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("inputs", [(X,), (FIXED,)])
def test_values_that_are_not_finite(tmp_path, value, inputs):
    x = rows(16)
    x[13, 2] = value
    np.savez(tmp_path / "a.npz", x=x)
    kind = "NaN" if np.isnan(value) else "infinity"
    refused(tmp_path / "a.npz", inputs, rf"a\.npz: input 'x' has {kind} at sample 13; finite values are needed")
    refused([{"x": rows(4)}, {"x": x}], inputs, f"feed 1: input 'x' has {kind} at sample 13")


def test_sample_index_in_later_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(feed_cut, "CHUNK_BYTES", 24)
    test_values_that_are_not_finite(tmp_path, np.nan, (X,))


def test_constants_are_checked_too(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(4), scale=np.float32(np.nan))
    refused(tmp_path / "a.npz", (X, SCALE), "input 'scale' has NaN; finite")


@pytest.mark.parametrize("inputs", [(X,), (FIXED,)])
def test_no_samples(tmp_path, inputs):
    np.savez(tmp_path / "a.npz", x=rows(0))
    refused(tmp_path / "a.npz", inputs, r"'x' has shape \(0, 3\): no samples")
    refused([], inputs, "data: no feeds")
    refused(EmptyReader(), inputs, "data: no feeds")


def test_shapes(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(4, 5))
    refused(tmp_path / "a.npz", (X,), r"'x' has shape \(4, 5\); the model takes \(batch, 3\).*axis 1 must be 3, not 5")
    refused([{"x": rows(4)[0]}], (X,), r"shape \(3,\), rank 1; the model takes \(batch, 3\): give rank 2 .* or rank 3")
    refused([{"x": rows(4)[None, None]}], (X,), "rank 4")


def test_sample_counts_that_differ(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(4), ids=ids(5))
    refused(tmp_path / "a.npz", (X, IDS), "sample counts on axis 0 differ: 'x' 4, 'ids' 5")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([rows(4)], "feed 0: is a ndarray; expected a dict"),
        (["x"], "feed 0: is a str"),
        (3, "data is a int; expected a path, an iterable of feed dicts or an object with get_next"),
        ([{"x": [[1.0], [1.0, 2.0]]}], "feed 0: 'x' is no array"),
    ],
)
def test_no_feeds_at_all(data, message):
    refused(data, (X,), message)


def test_paths(tmp_path):
    refused(tmp_path / "gone.npz", (X,), r"gone\.npz: no such file or folder; expected \.npz, a folder of")
    refused(str(tmp_path), (X,), r"the folder holds no \.npz and no \.json file")
    for name in ("a.npy", "a.csv"):
        (tmp_path / name).write_bytes(b"")
    refused(tmp_path / "a.npy", (X,), r"unknown kind of data '\.npy'; .*np\.savez")
    refused(tmp_path / "a.csv", (X,), r"unknown kind of data '\.csv'; expected")
    for name in ("a.npz", "a.json"):
        (tmp_path / name).write_bytes(b"")
    refused(tmp_path, (X,), r"holds both \.npz and \.json files")
    refused(tmp_path / "a.npz", (X,), r"a\.npz: not a readable \.npz file")


@pytest.mark.parametrize(
    "content", ["", "{", '{"x": {"array": 3, "polygraphy_class": "ndarray"}}', '{"x": {"polygraphy_class": "Unknown"}}']
)
def test_json_that_polygraphy_did_not_write(tmp_path, capfd, content):
    (tmp_path / "a.json").write_text(content)
    refused(tmp_path / "a.json", (X,), r"a\.json: not an inputs file of Polygraphy .*polygraphy run --save-inputs")
    assert "[!]" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("content", ["3", "[[1]]"])
def test_json_without_feeds(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    refused(tmp_path / "a.json", (X,), r"a\.json, feed 0: is a (int|list); expected a dict of input name to array")


def test_headers_are_refused_when_opening(tmp_path):
    np.savez(tmp_path / "a.npz", x=rows(4))
    np.savez(tmp_path / "b.npz", x=rows(4, 5))
    with pytest.raises(CalibrationDataError, match=r"b\.npz"):
        open_source(tmp_path, (X,))


@pytest.mark.parametrize("shape", [(10**9, 0), (0, 0), (5, 0)])
def test_samples_made_of_nothing(tmp_path, shape):
    spec = InputSpec("x", "float32", ("batch", "length"))
    np.savez(tmp_path / "a.npz", x=np.empty(shape, np.float32))
    told = r"no samples; give at least 2" if not shape[0] else r"the samples hold no values: the inputs have the shapes"
    refused(tmp_path / "a.npz", (spec,), told)


def test_an_empty_input_beside_others_is_let_through(tmp_path):
    past = InputSpec("past", "float32", ("batch", "length"))
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3), np.float32), past=np.empty((4, 0), np.float32))
    assert len(list(open_source(tmp_path / "a.npz", (X, past)).units)) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
@pytest.mark.parametrize("name", ["a.npz", "a.json", "a.py", "folder/a.npz"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name.partition("/")[0], (X,), r"a\.(npz|json|py): is no plain file; expected \.npz, a folder")


def test_json_whose_array_claims_more_than_there_is(tmp_path):
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    entry = {"array": base64.b64encode(header.getvalue()).decode(), "polygraphy_class": "ndarray"}
    (tmp_path / "a.json").write_text(json.dumps({"x": entry}))
    refused(
        tmp_path / "a.json", (X,), r"a\.json: not an inputs file of Polygraphy \(.*\); write it with polygraphy run"
    )
