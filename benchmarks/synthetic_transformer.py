"""A transformer of any size with made-up weights, written piece by piece, so that making it takes little memory.

Token ids through one large embedding, pre-norm layers of attention and MLP, and a small head on the mean token. All
weights are external data. Every weight is a product of two random factors with a little noise: its rank, like that of
trained weights, is far below its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OUTPUT = "scores"
INPUT = "token_ids"
_OPSET, _IR_VERSION = 20, 9
_CLASSES = 64
_TRUE_RANK = 0.25  # share of the smaller side
_NOISE = 0.02
_ALIGNMENT = 4096
_CHUNK_ROWS = 1 << 15

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer; the MLP is four times as wide as `width`."""

    width: int
    heads: int
    layers: int
    vocabulary: int

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the embedding and of the layers' matrices, in float32."""
        return 4 * (self.vocabulary * self.width + 12 * self.layers * self.width**2)


def shape_of(gigabytes: float, *, width: int = 768, embedding: float = 0.75) -> Shape:
    """Return a shape of about that many gigabytes (10⁹), of which the embedding has the given share."""
    floats = gigabytes * 1e9 / 4
    layers = max(1, round((1 - embedding) * floats / (12 * width**2)))
    return Shape(width, max(1, width // 64), layers, max(1, round(embedding * floats / width)))


def write_transformer(path: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write the model, and its weights beside it in `NAME.data`."""
    random = np.random.default_rng(seed)
    model = ModelProto(ir_version=_IR_VERSION, producer_name="synthetic transformer")
    model.opset_import.add(version=_OPSET)
    graph = model.graph
    graph.name = "transformer"
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.INT64, ["batch", "tokens"]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", _CLASSES]))
    graph.initializer.extend(
        numpy_helper.from_array(np.array(values, np.int64), name)
        for name, values in {
            "split": [0, 0, 3, shape.heads, -1],
            "joined": [0, 0, shape.width],
            "token_axis": [1],
            "first_axis": [0],
        }.items()
    )
    scale = np.array(1 / math.sqrt(shape.width / shape.heads), np.float32)
    graph.initializer.append(numpy_helper.from_array(scale, "attention_scale"))
    graph.node.extend(_nodes(shape))
    with path.with_name(path.name + ".data").open("wb") as file:
        for name, extents in _weights(shape):
            graph.initializer.append(_written(file, name, extents, random))
    path.write_bytes(model.SerializeToString())


def token_ids(shape: Shape, *, samples: int, tokens: int, seed: int = 1) -> NDArray[np.int64]:
    """Return made-up sentences, (samples, tokens)."""
    return np.random.default_rng(seed).integers(0, shape.vocabulary, (samples, tokens))


def _weights(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = shape.width
    yield "embedding", (shape.vocabulary, width)
    for layer in range(shape.layers):
        for name, extents in {"qkv": (width, 3 * width), "mix": (width, width)}.items():
            yield f"layer{layer}/{name}/weight", extents
            yield f"layer{layer}/{name}/bias", extents[1:]
        for name, extents in {"rise": (width, 4 * width), "fall": (4 * width, width)}.items():
            yield f"layer{layer}/{name}/weight", extents
            yield f"layer{layer}/{name}/bias", extents[1:]
        for name in ("norm1", "norm2"):
            yield f"layer{layer}/{name}/scale", (width,)
            yield f"layer{layer}/{name}/shift", (width,)
    yield "norm/scale", (width,)
    yield "norm/shift", (width,)
    yield "head/weight", (width, _CLASSES)
    yield "head/bias", (_CLASSES,)


def _nodes(shape: Shape) -> Iterator[NodeProto]:
    node = helper.make_node
    yield node("Gather", ["embedding", INPUT], ["stream0"], name="embedding")
    stream = "stream0"
    for layer in range(shape.layers):
        name = f"layer{layer}"
        yield from _norm(f"{name}/norm1", stream)
        yield from _attention(name)
        yield node("Add", [stream, f"{name}/mix"], [f"{name}/between"], name=f"{name}/residual1")
        yield from _norm(f"{name}/norm2", f"{name}/between")
        yield from _dense(f"{name}/rise", f"{name}/norm2")
        yield node("Gelu", [f"{name}/rise"], [f"{name}/gelu"], name=f"{name}/gelu")
        yield from _dense(f"{name}/fall", f"{name}/gelu")
        stream = f"stream{layer + 1}"
        yield node("Add", [f"{name}/between", f"{name}/fall"], [stream], name=f"{name}/residual2")
    yield from _norm("norm", stream)
    yield node("ReduceMean", ["norm", "token_axis"], ["mean"], name="mean", keepdims=0)
    yield node("Gemm", ["mean", "head/weight", "head/bias"], [OUTPUT], name="head")


def _attention(name: str) -> Iterator[NodeProto]:
    node = helper.make_node
    yield from _dense(f"{name}/qkv", f"{name}/norm1")
    yield node("Reshape", [f"{name}/qkv", "split"], [f"{name}/heads"])
    yield node("Transpose", [f"{name}/heads"], [f"{name}/turned"], perm=[2, 0, 3, 1, 4])
    parts = [f"{name}/{part}" for part in ("query", "key", "value")]
    yield node("Split", [f"{name}/turned"], [f"{part}5" for part in parts], axis=0, num_outputs=3)
    for part in parts:
        yield node("Squeeze", [f"{part}5", "first_axis"], [part])
    yield node("Transpose", [parts[1]], [f"{name}/key_turned"], perm=[0, 1, 3, 2])
    yield node("MatMul", [parts[0], f"{name}/key_turned"], [f"{name}/products"], name=f"{name}/products")
    yield node("Mul", [f"{name}/products", "attention_scale"], [f"{name}/scaled"])
    yield node("Softmax", [f"{name}/scaled"], [f"{name}/weights"], axis=-1)
    yield node("MatMul", [f"{name}/weights", parts[2]], [f"{name}/mixed"], name=f"{name}/mixed")
    yield node("Transpose", [f"{name}/mixed"], [f"{name}/back"], perm=[0, 2, 1, 3])
    yield node("Reshape", [f"{name}/back", "joined"], [f"{name}/joined"])
    yield from _dense(f"{name}/mix", f"{name}/joined")


def _norm(name: str, source: str) -> Iterator[NodeProto]:
    yield helper.make_node("LayerNormalization", [source, f"{name}/scale", f"{name}/shift"], [name], name=name, axis=-1)


def _dense(name: str, source: str) -> Iterator[NodeProto]:
    yield helper.make_node("MatMul", [source, f"{name}/weight"], [f"{name}/product"], name=name)
    yield helper.make_node("Add", [f"{name}/product", f"{name}/bias"], [name], name=f"{name}/add")


def _written(file: BinaryIO, name: str, extents: tuple[int, ...], random: np.random.Generator) -> TensorProto:
    """Append one weight to the data file, some rows at a time, and return the reference to it."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    start = file.tell()
    for part in _values(name, extents, random):
        file.write(part.tobytes())
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=extents, data_location=TensorProto.EXTERNAL)
    entries = {"location": Path(file.name).name, "offset": start, "length": file.tell() - start}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _values(name: str, extents: tuple[int, ...], random: np.random.Generator) -> Iterator[Array]:
    if len(extents) == 1:
        offset = 1.0 if name.endswith("scale") else 0.0
        yield (offset + 0.1 * random.standard_normal(extents)).astype(np.float32)
        return
    rows, columns = extents
    rank = max(1, int(_TRUE_RANK * min(rows, columns)))
    size = 1.0 if name == "embedding" else 1 / math.sqrt(rows)
    right = random.standard_normal((rank, columns), np.float32) * np.float32(size / math.sqrt(rank))
    for start in range(0, rows, _CHUNK_ROWS):
        here = min(_CHUNK_ROWS, rows - start)
        noise = random.standard_normal((here, columns), np.float32) * np.float32(_NOISE * size)
        yield random.standard_normal((here, rank), np.float32) @ right + noise
