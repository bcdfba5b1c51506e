"""Opening model files: what is sound is read, whatever is not ends in a ModelError and nothing else."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_examples import build, gaussian, mlp, opened, save

from rankfold.errors import ModelError
from rankfold.passes.model_file import input_specs, load_model, output_names
from rankfold.values import InputSpec

TEXT = "g (float[n,32] x) => (float[n,16] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"


def small() -> ModelProto:
    return build(TEXT, {"w": gaussian(32, 16), "b": gaussian(16)})


def external(folder: Path, name: str = "model.onnx") -> Path:
    """Write a model whose weight lies in `weights.bin`."""
    path = folder / name
    onnx.save(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    return path


def test_values_types_and_digest_of_a_sound_model(tmp_path: Path) -> None:
    model = load_model(mlp(tmp_path / "m.onnx"))
    assert model.files == (tmp_path / "m.onnx",)
    assert model.size_bytes == (tmp_path / "m.onnx").stat().st_size
    assert model.digest == hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest()
    assert not model.has_external_data
    assert output_names(model) == ("y",)
    assert input_specs(model) == (InputSpec("x", "float32", ("batch", 32)),)
    (w1,) = (tensor for tensor in model.proto.graph.initializer if tensor.name == "w1")
    np.testing.assert_array_equal(model.tensor(w1), gaussian(32, 64))


def test_inputs_of_every_kind_of_axis(tmp_path: Path) -> None:
    model = build("g (float[n,3] x, float[3] bias) => (float[n,3] y) { y = Add(x, bias) }", {"bias": gaussian(3)})
    model.graph.input[0].type.tensor_type.shape.dim.add()
    model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=0)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Cast", ["x"], ["y"], to=1))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    # `bias` has a value of its own, so that nobody has to feed it.
    assert input_specs(opened(model, tmp_path)) == (InputSpec("x", "float16", ("n", 3, None, 0)),)


def test_an_input_that_is_no_tensor_is_told(tmp_path: Path) -> None:
    model = build("g (float[3] x) => (float[3] y) { y = Neg(x) }", {})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [3]))
    model.graph.input.append(helper.make_value_info("many", kind))
    with pytest.raises(ModelError, match="input 'many' is not a tensor of known rank; rankfold feeds tensors only"):
        input_specs(opened(model, tmp_path))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: cannot be read \(No such file or directory\); give the path"):
        load_model(tmp_path / "none.onnx")


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\); give the path of an ONNX model"):
        load_model(tmp_path)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "e.onnx").touch()
    with pytest.raises(ModelError, match="the file is empty; an ONNX model was expected; export it again"):
        load_model(tmp_path / "e.onnx")


@pytest.mark.parametrize(
    "content", [b"\x00", b"hello", b"PK\x03\x04rest", b"{}", b"\x0a\xff\xff\xff\xff\x0f", b"\x3a\x00"]
)
def test_a_file_that_is_no_model_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "e.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"e.onnx: (refused by the ONNX checker: |not an ONNX model)"):
        load_model(tmp_path / "e.onnx")


def test_what_the_checker_refuses_is_told(tmp_path: Path) -> None:
    model = small()
    model.graph.node[0].op_type = "Matmull"
    with pytest.raises(ModelError, match="refused by the ONNX checker: No Op registered for Matmull"):
        opened(model, tmp_path)


def test_two_initializers_of_one_name_are_told(tmp_path: Path) -> None:
    model = small()
    model.graph.initializer.append(numpy_helper.from_array(gaussian(16), "b"))
    with pytest.raises(ModelError, match=r"refused by the ONNX checker: .*b|initializer 'b' stands 2 times"):
        opened(model, tmp_path)


SOUND = small().SerializeToString(deterministic=True)
loading = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@loading
@given(length=st.integers(1, len(SOUND) - 1))
def test_a_truncated_file_ends_in_a_model_error(length: int, tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    path.write_bytes(SOUND[:length])
    with suppress(ModelError):
        # A cut between two fields of the outermost message leaves a model, if one without what followed.
        assert load_model(path).proto.graph.node == onnx.load(path).graph.node


@loading
@example(flips=[(59, 28)])  # a data type that does not exist
@given(flips=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bytes_end_in_a_model_error_or_a_model(flips: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(SOUND)
    for place, mask in flips:
        # The weights are three quarters of the file, and any bits are numbers there: turn to what is around them.
        content[place % 300 if place % 2 else -1 - place % 300] ^= mask
    path = tmp_path / "f.onnx"
    path.write_bytes(content)
    with suppress(ModelError):
        input_specs(load_model(path))


@pytest.mark.parametrize("kind", [0, 99, 2**31 - 1, TensorProto.STRING])
def test_an_input_of_an_unknown_type_is_told(kind: int, tmp_path: Path) -> None:
    model = build("g (float[3] x, float[3] z) => (float[3] y) { y = Neg(x) }", {})
    model.graph.input[1].type.tensor_type.elem_type = kind
    try:
        (_, spec) = input_specs(opened(model, tmp_path))
    except ModelError:
        return
    assert (kind, spec.dtype) == (TensorProto.STRING, "object")


def test_external_data_is_found_beside_the_model(tmp_path: Path) -> None:
    model = load_model(external(tmp_path))
    assert model.files == (tmp_path / "model.onnx", tmp_path / "weights.bin")
    assert model.has_external_data
    assert model.size_bytes == sum(path.stat().st_size for path in model.files)
    content = b"".join(path.read_bytes() for path in model.files)
    assert model.digest == hashlib.sha256(content).hexdigest()
    (weight,) = (tensor for tensor in model.proto.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(model.tensor(weight), gaussian(32, 16))
    assert bytes(model.tensor_bytes(weight)) == gaussian(32, 16).tobytes()


def test_external_data_that_is_missing_is_told(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"is missing; copy|refused by the ONNX checker: .*weights.bin"):
        load_model(path)


def test_external_data_that_is_too_short_is_told(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    with pytest.raises(ModelError, match=r"tensor 'w' lies at bytes 0 to 2048 of .*weights.bin, which has 100 bytes"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("length", "16"), ("length", "9999"), ("length", "-4"), ("length", "many"), ("offset", "-8"), ("offset", "1000"),
     ("offset", "x"), ("offset", "99999999999999999999"), ("location", "../weights.bin"), ("location", "/etc/passwd"),
     ("location", "")],
)  # fmt: skip
def test_a_reference_that_does_not_fit_is_told(key: str, value: str, tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    save(model, tmp_path / "broken.onnx")
    with pytest.raises(ModelError, match=r"broken.onnx: "):
        load_model(tmp_path / "broken.onnx")
