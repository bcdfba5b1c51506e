"""Sound models and data, and random ways to spoil a model: fields of its messages, and bytes of any file.

Everything is drawn from one `random.Random`, so that a seed names a case.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

FEATURES = 32
SAMPLES = 40
_NUMBERS = (0, 1, -1, 2, 7, 127, 255, 2**31 - 1, -(2**31), 10**12, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "y", "w", "nope", "../x", "/etc/passwd", "a\0b", "rankfold_tap/0/gram", "n" * 5000, "é", "%s", "-1")
_NEAR = 400  # bytes

_HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
_DENSE = f"{_HEAD} g (float[n,{FEATURES}] x) => (float[n,24] y) "
_GRAPHS = {
    "dense": _DENSE + "{ [fc1] h = MatMul(x, w) [add] a = Add(h, b) [act] r = Relu(a) [fc2] y = Gemm(r, v, c) }",
    "turned": _DENSE
    + "{ [t] t = Transpose<perm=[1, 0]>(u) [fc1] h = MatMul(x, t) [i] k = Identity(v) [fc2] y = MatMul(h, k) }",
    "branch": f"{_HEAD} g (float[n,{FEATURES}] x, bool flag) => (float[n,24] y) "
    "{ [fc1] h = MatMul(x, w) [if] r = If (flag) <then_branch = a () => (float[n,48] p) { p = Relu(h) },"
    " else_branch = e () => (float[n,48] q) { q = Neg(h) }> [fc2] y = MatMul(r, v) }",
    "constant": _DENSE
    + "{ [k] k = Constant<value_ints: ints = [32, 48]>() [s] m = Reshape(w, k) [fc1] h = MatMul(x, m)"
    " [soft] r = Softmax<axis = -1>(h) [fc2] y = Gemm<alpha = 0.5>(r, v, c) }",
}  # fmt: skip


def write_sound(kind: str, folder: Path) -> tuple[Path, Path]:
    """Write a sound model of one kind and data for it; return where they lie."""
    model = onnx.parser.parse_model(_GRAPHS[kind.removeprefix("external ")])
    rng = np.random.default_rng(0)
    shapes = {"w": (FEATURES, 48), "u": (48, FEATURES), "v": (48, 24), "b": (48,), "c": (24,)}
    read = {name for node in model.graph.node for name in node.input}
    for name, shape in shapes.items():
        if name in read:
            weight = (rng.standard_normal(shape) / 4).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
    outside = kind.startswith("external ")
    onnx.save(model, folder / "model.onnx", save_as_external_data=outside, location="model.bin", size_threshold=64)
    arrays: dict[str, NDArray[Any]] = {"x": rng.standard_normal((SAMPLES, FEATURES)).astype(np.float32)}
    if "branch" in kind:
        arrays["flag"] = np.array(True)
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder / "model.onnx", folder / "data.npz"


KINDS = (*_GRAPHS, "external dense", "external turned")


def spoil_model(path: Path, draw: random.Random) -> str:
    """Spoil a model file and return how, in one word."""
    if draw.random() < 0.3:
        return spoil_bytes(path, draw)
    proto = onnx.load(path, load_external_data=False)
    done = [spoil_message(proto, draw) for _ in range(draw.choice((1, 1, 1, 2, 4)))]
    path.write_bytes(proto.SerializeToString())
    return done[0]


def spoil_message(proto: ModelProto, draw: random.Random) -> str:
    """Change one field of one message of a model; kinds of messages are drawn first, so that rare ones are met."""
    kinds: dict[str, list[Message]] = {}
    for message in _messages(proto):
        kinds.setdefault(message.DESCRIPTOR.name, []).append(message)
    chosen = draw.choice(kinds[draw.choice(sorted(kinds))])
    present = [field for field, _ in chosen.ListFields()]
    field = draw.choice(present if present and draw.random() < 0.8 else chosen.DESCRIPTOR.fields)
    try:
        _spoil_field(chosen, field, draw)
    except (ValueError, TypeError):  # a value that the field cannot hold; leave it out instead
        chosen.ClearField(field.name)
    return f"{chosen.DESCRIPTOR.name}.{field.name}"


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)


def _spoil_field(message: Message, field: FieldDescriptor, draw: random.Random) -> None:
    value = getattr(message, field.name)
    if not field.is_repeated:
        if field.message_type is not None:
            message.ClearField(field.name) if draw.random() < 0.5 else value.SetInParent()
        else:
            setattr(message, field.name, _other(field, value, draw))
        return
    way = draw.choice(("drop", "double", "clear", "change", "swap"))
    parts = list(value)
    if way == "drop" and parts:
        del parts[draw.randrange(len(parts))]
    elif way == "double" and parts:
        parts.insert(draw.randrange(len(parts) + 1), draw.choice(parts))
    elif way == "swap":
        draw.shuffle(parts)
    elif way == "clear":
        parts = []
    elif field.message_type is None:
        place = draw.randrange(len(parts) + 1)
        parts[place : place + 1] = [_other(field, parts[place] if place < len(parts) else None, draw)]
    copies = [type(part).FromString(part.SerializeToString()) if field.message_type else part for part in parts]
    message.ClearField(field.name)
    getattr(message, field.name).extend(copies)


def _other(field: FieldDescriptor, value: Any, draw: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice(_TEXTS) if draw.random() < 0.8 else str(value) + draw.choice("x0.-")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return spoilt(bytes(value or b""), draw)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return draw.choice((0.0, -1.0, float("nan"), float("inf"), 1e38))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw.choice([option.number for option in field.enum_type.values])
    near = [value + step for step in (-1, 1)] if isinstance(value, int) else []
    return draw.choice([*_NUMBERS, *near, draw.randrange(64)])


def spoil_bytes(path: Path, draw: random.Random) -> str:
    """Spoil a file's bytes without regard to what they mean."""
    path.write_bytes(spoilt(path.read_bytes(), draw))
    return "bytes"


def spoilt(content: bytes, draw: random.Random) -> bytes:
    """Return bytes changed in one way: some flipped, cut off, put in, left out, repeated or zeroed."""
    changed = bytearray(content)
    way = draw.choice(("flip", "flip", "cut", "insert", "delete", "repeat", "zero"))
    place = _place(len(changed) + 1, draw)
    length = min(draw.choice((1, 2, 8, 64, 512)), len(changed) - place)
    if way == "flip" and changed:
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[_place(len(changed), draw)] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del changed[place:]
    elif way == "insert":
        changed[place:place] = draw.randbytes(draw.choice((1, 4, 64)))
    elif way == "delete":
        del changed[place : place + length]
    elif way == "repeat":
        changed[place:place] = changed[place : place + length]
    else:
        changed[place : place + length] = bytes(length)
    return bytes(changed)


def _place(length: int, draw: random.Random) -> int:
    """Return a place anywhere or, more often, near an end: in between lie values, and any bits are numbers there."""
    near = min(length, _NEAR)
    return draw.choice((draw.randrange(length), draw.randrange(near), length - 1 - draw.randrange(near)))
