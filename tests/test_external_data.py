"""Weights outside of a model file: only from plain files of its own folder, whole, and apart from each other."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_examples import build, gaussian, save

from rankfold.errors import ModelError
from rankfold.passes.external_data import stored_bytes
from rankfold.passes.model_file import load_model

TEXT = "g (float[n,32] x) => (float[n,16] y) { [fc] h = MatMul(x, w) g = Add(h, b) y = Add(g, c) }"
WEIGHT_BYTES = 32 * 16 * 4


def sound() -> ModelProto:
    return build(TEXT, {"w": gaussian(32, 16), "b": gaussian(1, 16), "c": gaussian(1, 16)})


def external(folder: Path) -> Path:
    """Write a model whose weights lie in `weights.bin`."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(sound(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def pointing(path: Path, name: str, **entries: str | None) -> Path:
    """Change the reference of one tensor."""
    model = onnx.load(path, load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    tensor.ClearField("external_data")
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return save(model, path)


def refused(path: Path, told: str) -> None:
    with pytest.raises(ModelError, match=re.escape(told)):
        load_model(path)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../../secret.bin", "/etc/passwd", "..", "\\secret.bin", "..\\secret.bin", "C:\\secret.bin",
     "a\0b", "C:/secret.bin"],
)  # fmt: skip
def test_a_place_outside_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(WEIGHT_BYTES))
    path = pointing(external(tmp_path / "model"), "w", location=location, offset=None, length=None)
    refused(path, f"tensor 'w' lies in {location!r}, which does not name a file of the model's own folder")


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "model")
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    refused(path, "lies in 'weights.bin', a link that leads out of the model's folder, to")


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "elsewhere" / "weights.bin")
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "elsewhere")
    for name in "wbc":
        pointing(path, name, location="sub/weights.bin")
    refused(path, "a link that leads out of the model's folder")


def test_a_link_inside_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    refused(path, "lies in 'weights.bin', a symbolic link, which the ONNX checker refuses; copy the data file itself")


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "model")
    os.link(tmp_path / "model" / "weights.bin", tmp_path / "other.bin")
    refused(path, "lies in 'weights.bin', which has 2 names (hard links), so that it may be another folder's file too")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    refused(path, "which is no plain file; copy the data file beside the model")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "pipe.onnx: is no plain file; give the path of an ONNX model")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    refused(path, "which is missing; copy the data file beside the model whole")


@pytest.mark.parametrize("kept", [0, 1, WEIGHT_BYTES - 1])
def test_a_truncated_range_is_told(kept: int, tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * kept)
    refused(path, f"tensor 'w' lies at bytes 0 to {WEIGHT_BYTES} of {tmp_path / 'weights.bin'}, which has {kept} bytes")


@pytest.mark.parametrize("length", ["16", str(WEIGHT_BYTES - 1), str(WEIGHT_BYTES + 1)])
def test_a_length_that_is_not_the_shapes_is_told(length: str, tmp_path: Path) -> None:
    path = pointing(external(tmp_path), "w", length=length)
    refused(path, f"tensor 'w' needs {WEIGHT_BYTES} bytes for its shape [32, 16], and its external data has {length}")


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("value", ["-4", "many", "1e3", "٣", "9" * 5000, " 8"])
def test_a_number_that_is_none_is_told(key: str, value: str, tmp_path: Path) -> None:
    refused(
        pointing(external(tmp_path), "w", **{key: value}), "expected one location, and offset and length as numbers"
    )


def test_two_locations_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    refused(save(model, path), "expected one location")


def test_values_both_inside_and_outside_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].raw_data = gaussian(32, 16).tobytes()
    path.write_bytes(model.SerializeToString())
    refused(path, "expected one location")


def test_ranges_that_overlap_in_part_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    path = external(tmp_path)
    start = next(e.value for e in _references(path, "b") if e.key == "offset")
    load_model(pointing(path, "c", offset=start))
    refused(pointing(path, "c", offset=str(int(start) + 4)), "of 'weights.bin' overlap in part; export the model again")
    refused(pointing(path, "c", offset="4"), "overlap in part")


def _references(path: Path, name: str) -> list[onnx.StringStringEntryProto]:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return [entry for tensor in tensors if tensor.name == name for entry in tensor.external_data]


@pytest.mark.parametrize("dims", [[-1, 16], [32, -16], [-32, -16], [-(2**63), 1]])
def test_a_negative_extent_is_refused(dims: list[int], tmp_path: Path) -> None:
    for path in (save(sound(), tmp_path / "inside.onnx"), external(tmp_path)):
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].dims[:] = dims
        refused(save(model, path), f"tensor 'w' has the shape {dims}, with a negative extent")


@pytest.mark.parametrize("dims", [[10**6, 10**6], [2**62, 4], [33, 16], [0], [2**63 - 1] * 8])
def test_a_shape_that_its_values_do_not_fill_is_refused(dims: list[int], tmp_path: Path) -> None:
    raw, typed = sound(), sound()
    raw.graph.initializer[0].dims[:] = dims
    refused(save(raw, tmp_path / "raw.onnx"), f"for its shape {dims}, and its external data has {WEIGHT_BYTES}")
    raw.graph.initializer[1].CopyFrom(numpy_helper.from_array(gaussian(2, 2), "b"))
    tensor = typed.graph.initializer[0]
    tensor.CopyFrom(helper.make_tensor("w", TensorProto.FLOAT, [32, 16], gaussian(32, 16).ravel()))
    tensor.dims[:] = dims
    count = int(np.prod(np.array(dims, object)))
    refused(save(typed, tmp_path / "typed.onnx"), f"tensor 'w' needs {count} values for its shape {dims} and has 512")


def test_small_values_inside_are_counted_too(tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer[1].dims[:] = [10**12]
    refused(save(model, tmp_path / "m.onnx"), "tensor 'b' needs 4000000000000 bytes for its shape [1000000000000] and")


def test_a_constant_nodes_values_are_counted_too(tmp_path: Path) -> None:
    model = build("g (float[4] x) => (float[4] y) { y = Add(x, k) }", {})
    value = numpy_helper.from_array(np.ones(4, np.float32))
    value.dims[:] = [10**12]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=value))
    refused(save(model, tmp_path / "m.onnx"), "for its shape [1000000000000] and has 16")


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [(TensorProto.FLOAT, [3, 5], 60), (TensorProto.INT4, [3], 2), (TensorProto.UINT4, [2, 2], 2),
     (TensorProto.COMPLEX128, [2], 32), (TensorProto.FLOAT8E4M3FN, [7], 7), (TensorProto.BFLOAT16, [0, 4], 0),
     (TensorProto.STRING, [4], 0), (TensorProto.BOOL, [], 1)],
)  # fmt: skip
def test_what_a_tensor_takes(kind: int, dims: list[int], size: int) -> None:
    assert stored_bytes(Path("m.onnx"), TensorProto(data_type=kind, dims=dims)) == size


@pytest.mark.parametrize(
    ("kind", "values"),
    [(TensorProto.FLOAT, [1.0, 2.0, 3.0]), (TensorProto.DOUBLE, [1.0, 2.0, 3.0]), (TensorProto.INT8, [1, 2, 3]),
     (TensorProto.INT64, [1, 2, 3]), (TensorProto.UINT64, [1, 2, 3]), (TensorProto.FLOAT16, [1.0, 2.0, 3.0]),
     (TensorProto.BFLOAT16, [1.0, 2.0, 3.0]), (TensorProto.COMPLEX64, [1j, 2, 3]), (TensorProto.INT4, [1, 2, 3]),
     (TensorProto.STRING, [b"a", b"b", b"c"]), (TensorProto.BOOL, [True, False, True])],
)  # fmt: skip
def test_sound_typed_values_are_let_through(kind: int, values: list[object], tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer.append(helper.make_tensor("extra", kind, [3], values))
    model.graph.initializer.append(helper.make_tensor("none", kind, [0], []))
    load_model(save(model, tmp_path / "m.onnx"))
