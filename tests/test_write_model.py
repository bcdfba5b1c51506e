"""Results are written whole or not at all, with weights where the source had them."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_examples import build, folded, gaussian, low_rank_rows, opened, run

from rankfold import Options, compress
from rankfold.errors import OutputError
from rankfold.passes import write_model as module
from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_index import copy_without
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.write_model import (
    check_writable,
    whole_file,
    whole_file_reported,
    write_model,
    write_referring,
)
from rankfold.runtime_calib.sessions import open_session, run_outputs

TEXT = "g (float[n,40] x) => (float[n,30] y) { [fc] h = MatMul(x, w) hb = Add(h, b) y = MatMul(hb, v) u = Relu(spare) }"
FEED = {"x": low_rank_rows(100, 40, 3, offset=1.0)}
WEIGHTS = {"w": gaussian(40, 40), "b": gaussian(40, scale=1.0), "v": gaussian(40, 30), "spare": gaussian(20, 20)}


def inside(folder: Path) -> Model:
    return opened(build(TEXT, WEIGHTS), folder)


def external(folder: Path) -> Model:
    path = folder / "model.onnx"
    onnx.save(build(TEXT, WEIGHTS), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return load_model(path)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_unchanged_model_is_copied_byte_by_byte(tmp_path: Path) -> None:
    model = inside(tmp_path)
    write_model(None, model, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == model.path.read_bytes()
    assert names(tmp_path) == {"model.onnx", "copy.onnx"}


def test_weights_that_were_inside_stay_inside(tmp_path: Path) -> None:
    model = inside(tmp_path)
    path = folded(model, FEED, 4)
    assert names(tmp_path) == {"model.onnx", "folded.onnx"}
    again = load_model(path)
    assert not again.has_external_data
    tensors = {tensor.name: again.tensor(tensor) for tensor in again.proto.graph.initializer}
    np.testing.assert_array_equal(tensors["spare"], WEIGHTS["spare"])


@pytest.mark.parametrize("rank", [None, 4])
def test_external_weights_move_to_a_data_file_of_their_own(rank: int | None, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    model = external(source)
    expected = run(model.path, FEED)
    folder = tmp_path / "result"
    folder.mkdir()
    result = folded(model, FEED, rank, target="../result/r.onnx")
    shutil.rmtree(source)
    (data,) = names(folder) - {"r.onnx"}
    assert re.fullmatch(r"r\.[0-9a-f]{12}\.data", data)
    # Rows of rank 3 and a mean: what is left are some 80 roundings of 6e-8 on values of size one.
    np.testing.assert_allclose(run(folder / result.name, FEED)[0], expected[0], rtol=0, atol=1e-4)
    onnx.checker.check_model(str(folder / "r.onnx"), full_check=True)
    again = load_model(folder / "r.onnx")
    tensors = {tensor.name: again.tensor(tensor) for tensor in again.proto.graph.initializer}
    np.testing.assert_array_equal(tensors["spare"], WEIGHTS["spare"])


def test_an_unchanged_external_model_loads_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    model = external(tmp_path / "a")
    write_model(None, model, tmp_path / "b" / "copy.onnx")
    expected = onnx.load(model.path)
    shutil.rmtree(tmp_path / "a")
    assert onnx.load(tmp_path / "b" / "copy.onnx") == expected


def test_the_data_file_is_named_by_its_content(tmp_path: Path) -> None:
    model = external(tmp_path)
    first, second = (folded(model, FEED, rank, target=f"{rank}.onnx") for rank in (8, 16))
    before = names(tmp_path)
    again = folded(model, FEED, 8, target="8.onnx")
    assert names(tmp_path) == before  # the same bytes have the same name
    assert first == again
    data = {name.split(".")[1] for name in before if name.endswith(".data")}
    assert len(data) == 2
    assert load_model(second).files[1].name.startswith("16.")
    (file,) = (tmp_path / name for name in before if name.startswith("8.") and name.endswith(".data"))
    assert file.name == f"8.{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}.data"


def test_tensors_of_a_data_file_can_be_mapped(tmp_path: Path) -> None:
    result = onnx.load(folded(external(tmp_path), FEED, 16), load_external_data=False)
    offsets = [int(e.value) for t in result.graph.initializer for e in t.external_data if e.key == "offset"]
    assert len(offsets) > 1
    assert all(offset % 4096 == 0 for offset in offsets)


class DiskFullError(OSError):
    pass


@pytest.mark.parametrize("make", [inside, external])
@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_left_behind_on_failure(
    make: object, existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(tmp_path)  # type: ignore[operator]
    if existing:
        (tmp_path / "folded.onnx").write_bytes(b"the one before")
    before = names(tmp_path)

    def full(*_: object) -> None:
        raise DiskFullError(28, "No space left on device")

    monkeypatch.setattr(module, "write_streamed", full)
    with pytest.raises(
        OutputError, match=r"folded.onnx: cannot be written \(No space left on device\); give a file in"
    ):
        folded(model, FEED, 4)
    assert names(tmp_path) == before
    if existing:
        assert (tmp_path / "folded.onnx").read_bytes() == b"the one before"


def test_a_failure_while_data_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = external(tmp_path)
    before = names(tmp_path)

    def full(*_: object) -> None:
        raise DiskFullError(28, "No space left on device")

    monkeypatch.setattr(module, "_moved_out", full)
    with pytest.raises(OutputError, match="No space left on device"):
        folded(model, FEED, 4)
    assert names(tmp_path) == before


def test_the_model_before_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    class StoppedError(Exception):
        pass

    def stopped() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise StoppedError

    with pytest.raises(StoppedError):
        stopped()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"m.onnx"}
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("place", ["file/model.onnx", "nowhere/model.onnx", "folder"])
def test_a_place_that_cannot_be_written_is_told(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    path = tmp_path / place
    wanted = rf"{re.escape(str(path))}: cannot be written \(.+\); give a file in a folder that exists, is writable and"
    with pytest.raises(OutputError, match=wanted):
        check_writable(path)
    with pytest.raises(OutputError, match=wanted):
        write_model(None, inside(tmp_path), path)
    with pytest.raises(OutputError, match=wanted), whole_file_reported(path) as file:
        file.write(b"x")
    assert names(tmp_path) == before | {"model.onnx"}


def test_checking_a_place_leaves_it_as_it_is(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.onnx")
    assert names(tmp_path) == set()
    (tmp_path / "old.onnx").write_bytes(b"old")
    check_writable(tmp_path / "old.onnx")
    assert (tmp_path / "old.onnx").read_bytes() == b"old"


def test_a_model_for_a_passing_look_copies_no_external_weights(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    model = external(tmp_path / "source")
    made = Rewritten(copy_without(model.proto, "initializer"), tuple(model.proto.graph.initializer))
    write_referring(made, model, tmp_path / "look.onnx")
    assert (tmp_path / "look.onnx").stat().st_size < 2000
    look = onnx.load(tmp_path / "look.onnx", load_external_data=False)
    assert {entry.value for t in look.graph.initializer for entry in t.external_data if entry.key == "location"} == {
        "weights.bin"
    }
    session = open_session(tmp_path / "look.onnx", weights_folder=tmp_path / "source", lean=True)
    np.testing.assert_array_equal(run_outputs(session, FEED)["y"], run(model.path, FEED)[0])


def test_a_model_for_a_passing_look_holds_what_was_inside(tmp_path: Path) -> None:
    model = inside(tmp_path)
    made = Rewritten(copy_without(model.proto, "initializer"), tuple(model.proto.graph.initializer))
    (tmp_path / "look").mkdir()
    write_referring(made, model, tmp_path / "look" / "look.onnx")
    np.testing.assert_array_equal(run(tmp_path / "look" / "look.onnx", FEED)[0], run(model.path, FEED)[0])


def test_data_of_bodies_and_constants_goes_along(tmp_path: Path) -> None:
    text = """g (float[n,32] x, bool c) => (float[n,32] y) {
      h = MatMul(x, w)
      y = If (c) <
        then_branch = one () => (float[n,32] t) { t = Add(h, k) },
        else_branch = two () => (float[n,32] e) { e = Identity(h) }
      >
    }"""
    model = build(text, {"w": gaussian(32, 4) @ gaussian(4, 32, seed=1)})
    inner = next(found.g for found in model.graph.node[1].attribute if found.name == "then_branch")
    inner.initializer.append(numpy_helper.from_array(gaussian(32, seed=2, scale=1.0), "k"))
    (tmp_path / "given").mkdir()
    given, out = tmp_path / "given" / "m.onnx", tmp_path / "out" / "m.onnx"
    out.parent.mkdir()
    onnx.save(model, given, save_as_external_data=True, size_threshold=0, location="m.bin")
    assert inner.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    feed = {"x": gaussian(64, 32, seed=3, scale=1.0), "c": np.array(True)}
    expected = run(given, feed)[0]
    feeds = [{"x": row[None], "c": np.array(True)} for row in feed["x"]]
    done = compress(given, feeds, keep=0.6, output=out, options=Options(latency_rounds=0))
    assert done.report.changed
    shutil.rmtree(given.parent)
    # One product of rank four instead of two; some 32 roundings of values near one.
    np.testing.assert_allclose(run(out, feed)[0], expected, rtol=0, atol=1e-5)
