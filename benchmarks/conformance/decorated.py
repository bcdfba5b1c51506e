"""A model that carries something in every corner of the format, to see what of it a fold leaves standing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.external_data_helper import set_external_data

from benchmarks.conformance.compressing import lowered

STORED = ("decorated, weights inside", "decorated, weights outside", "decorated, weights in two files")
_LARGE = 1024  # bytes
_TEXT = """
<ir_version: 11, opset_import: ["" : 21, "other" : 3, "local" : 2]>
g (float[batch,64] x) => (float[batch,96] y, float[batch,64] z) {
  [cond_value] c = Constant<value_int=1>()
  [cond] t = Cast<to=9>(c)
  [fc1] h = MatMul(x, w1)
  [fc1_bias] hb = Add(h, b1)
  [act] a = Relu(hb)
  [choose] e = If (t) <
    then_branch = then_body () => (float[batch,64] p) { p = Mul(a, branch) },
    else_branch = else_body () => (float[batch,64] q) { q = Add(a, inner) }
  >
  [turn] v = Transpose<perm=[1,0]>(w2)
  [fc2] y = Gemm<alpha=0.5>(e, v, b2)
  [scale] k = Constant()
  [extra] z = Mul(e, k)
}
<domain: "local", opset_import: ["" : 21]>
unused (r) => (s) { s = Relu(r) }
"""
_SHAPES = {"w1": (64, 64), "b1": (64,), "w2": (96, 64), "b2": (96,), "inner": (1, 64), "unread": (3, 5)}


def decorated() -> ModelProto:
    """Return the model; the walk over descriptors below leaves no text field and no list of properties empty."""
    model = parser.parse_model(_TEXT)
    random = np.random.default_rng(3)
    for name, shape in _SHAPES.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name.startswith("w"):
            values = np.asarray(lowered(values)) / 8
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    branch = next(node for node in model.graph.node if node.op_type == "If").attribute[0].g
    branch.initializer.append(numpy_helper.from_array(random.standard_normal((1, 64)).astype(np.float32), "branch"))
    scale = next(node for node in model.graph.node if node.name == "scale")
    scale.attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(np.linspace(1, 2, 64, dtype=np.float32)))
    )
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(helper.make_tensor("sparse", TensorProto.FLOAT, [1], [5.0]))
    sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [1], [2]))
    for name, shape in (("h", ("batch", 64)), ("hb", ("batch", 64)), ("a", ("batch", 64)), ("v", (64, 96))):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
    annotation = model.graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unread")
    training = model.training_info.add()
    training.initialization.name = "start"
    training.algorithm.name = "step"
    model.graph.input[0].type.denotation = "TENSOR"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.producer_name, model.producer_version, model.domain, model.model_version = "maker", "1.2", "org.made", 7
    for message in _messages(model):
        _decorate(message)
    return model


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def _decorate(message: Any) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    if "doc_string" in fields:
        message.doc_string = f"of a {message.DESCRIPTOR.name}"
    if "metadata_props" in fields:
        message.metadata_props.add(key="note", value=f"on a {message.DESCRIPTOR.name}")


def save_stored(model: ModelProto, path: Path, stored: str) -> None:
    """Write the model with its weights where `stored` says, those in branches and attributes among them."""
    if stored == STORED[0]:
        onnx.save(model, path)
    elif stored == STORED[1]:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    else:
        for number, tensor in enumerate(model.graph.initializer):
            if len(tensor.raw_data) > _LARGE or tensor.name == "inner":
                set_external_data(tensor, f"weights{number % 2}.bin")
        onnx.save(model, path)
