"""Hollow reading and streamed writing together give back the model that protobuf itself would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx_examples import build, gaussian, opened

from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_index import copy_without
from rankfold.passes.model_file import load_model
from rankfold.passes.wire import read_hollow, write_streamed
from rankfold.passes.write_model import write_model

SMALL_BYTES = 1024
TEXT = """g (float[n,32] x) => (float[n,16] y) {
  h = MatMul(x, w)
  k = Constant<value = float[2] {1.0, 2.0}>()
  c = Constant<value = bool {1}>()
  y = If (c) <
    then_branch = one () => (float[n,16] t) { t = Add(h, b) },
    else_branch = two () => (float[n,16] e) { e = Identity(h) }
  >
}
<domain: "made.up", opset_import: ["" : 17]>
twice (a) => (b) { b = Add(a, a) }"""


def model_of(sizes: list[int], typed: bool) -> ModelProto:
    model = build(TEXT, {"w": gaussian(32, 16), "b": gaussian(16)})
    model.metadata_props.add(key="k", value="v")
    for place, size in enumerate(sizes):
        values = np.arange(size, dtype=np.uint8) if not typed else np.arange(size, dtype=np.float32)
        tensor = numpy_helper.from_array(values, f"extra{place}")
        if typed:  # the other way to hold numbers
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.tolist())
        model.graph.initializer.append(tensor)
    return model


def written_again(path: Path, target: Path) -> ModelProto:
    model = load_model(path)
    skeleton = copy_without(model.proto, "initializer")
    write_model(Rewritten(skeleton, tuple(model.proto.graph.initializer)), model, target)
    return onnx.load(target)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.sampled_from([0, 1, 1023, 1024, 1025, 70000]), max_size=4), typed=st.booleans())
def test_a_round_trip_gives_the_model_back(sizes: list[int], typed: bool, tmp_path: Path) -> None:
    original = model_of(sizes, typed)
    path = tmp_path / "m.onnx"
    onnx.save(original, path)
    assert written_again(path, tmp_path / "again.onnx") == original
    hollow, inside = read_hollow(path)
    raw = {tensor.name: tensor.raw_data for tensor in original.graph.initializer}
    assert inside == {name for name, content in raw.items() if len(content) > SMALL_BYTES}
    for tensor in hollow.graph.initializer:
        assert uses_external_data(tensor) == (tensor.name in inside)
        assert list(tensor.dims) == list(next(t.dims for t in original.graph.initializer if t.name == tensor.name))
    assert hollow.graph.node == original.graph.node
    assert hollow.functions == original.functions


def test_a_hollow_weight_says_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of([], False), path)
    hollow, inside = read_hollow(path)
    assert inside == {"w"}
    (weight,) = (tensor for tensor in hollow.graph.initializer if tensor.name == "w")
    place = {entry.key: entry.value for entry in weight.external_data}
    assert place["location"] == "m.onnx"
    start = int(place["offset"])
    assert path.read_bytes()[start : start + int(place["length"])] == gaussian(32, 16).tobytes()


def test_streaming_the_same_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    onnx.save(model_of([2000], False), tmp_path / "m.onnx")
    for name in ("a", "b"):
        written_again(tmp_path / "m.onnx", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_graph_in_two_pieces_is_one_graph(tmp_path: Path) -> None:
    # Protobuf merges fields that stand twice; appending a piece is how taps come into a model.
    original, more = model_of([], False), ModelProto()
    more.graph.initializer.append(numpy_helper.from_array(gaussian(40, 10), "late"))
    path = tmp_path / "m.onnx"
    path.write_bytes(original.SerializeToString() + more.SerializeToString())
    merged = onnx.load(path)
    hollow, inside = read_hollow(path)
    assert inside == {"w", "late"}
    assert [t.name for t in hollow.graph.initializer] == [t.name for t in merged.graph.initializer]
    assert written_again(path, tmp_path / "again.onnx") == merged


def test_external_references_are_passed_on_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model_of([], False), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    hollow, inside = read_hollow(path)
    assert inside == set()
    assert hollow == onnx.load(path, load_external_data=False)


def test_a_tensor_that_stands_alone_is_written_with_its_raw_data(tmp_path: Path) -> None:
    original = model_of([], False)
    skeleton = copy_without(original, "initializer")
    heads = []
    for tensor in original.graph.initializer:
        head = TensorProto()
        head.CopyFrom(tensor)
        head.ClearField("raw_data")
        heads.append((head, memoryview(tensor.raw_data)))
    with (tmp_path / "s.onnx").open("wb") as file:
        write_streamed(file, skeleton, heads)
    assert onnx.load(tmp_path / "s.onnx") == original
    opened(onnx.load(tmp_path / "s.onnx"), tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x0b", "wire type 3 at byte 0"),
        (b"\x3a\x05ab", "a field at byte 0 is longer than what holds it"),
        (b"\x3a\xff", "a number at byte 2 does not end"),
        (b"\xff" * 12, "a number at byte 10 does not end"),
        (b"\x08", "a number at byte 1 does not end"),
    ],
)
def test_what_is_no_message_is_told(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        read_hollow(tmp_path / "bad")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=60))
def test_any_bytes_give_a_message_or_a_decode_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "any").write_bytes(content)
    try:
        found, _ = read_hollow(tmp_path / "any")
    except DecodeError:
        return
    expected = ModelProto()
    expected.ParseFromString(content)  # what we take, protobuf takes too, and reads alike
    if not any(tensor.raw_data for tensor in expected.graph.initializer):
        assert found == expected
