"""Reading and writing a model file without ever holding its weights.

Protobuf's own parser copies every weight into memory, and its writer needs the whole file as one piece of bytes. The
wire format is simple enough to do better: a message is a row of fields, each a tag, a length and a payload, so the
bytes of a weight can be left where they are, and written out one after the other.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_SMALL_BYTES = 1024  # shapes, axes and scalars are kept: shape inference needs them
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # wire types of constant length

Span = tuple[int, int]


def read_hollow(path: Path) -> tuple[ModelProto, frozenset[str]]:
    """Return the model with its large weights left in the file, and the names of those.

    Such a weight becomes a reference to external data whose location is the model file itself.

    Raises:
        DecodeError: The file is no protobuf message of this kind.
    """
    proto, inside = ModelProto(), set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        outer, graphs = _parted(content, (0, len(content)), _GRAPH)
        proto.MergeFromString(_joined(content, outer))
        for graph in graphs:
            rest, tensors = _parted(content, graph, _INITIALIZER)
            proto.graph.MergeFromString(_joined(content, rest))
            read = ((proto.graph.initializer.add(), span) for span in tensors)
            inside |= {tensor.name for tensor, span in read if _read_tensor(content, span, tensor, path.name)}
    return proto, frozenset(inside)


def _joined(content: mmap.mmap, spans: list[Span]) -> bytes:
    return b"".join(content[start:end] for start, end in spans)


def write_streamed(file: BinaryIO, proto: ModelProto, tensors: Iterable[tuple[TensorProto, memoryview | None]]) -> None:
    """Write a model whose initializers come one by one.

    Args:
        file: Where to; it must be able to seek.
        proto: Everything but the initializers.
        tensors: Each with the raw data to put into it, or None where it holds its own.
    """
    outer = ModelProto()
    outer.CopyFrom(proto)
    outer.ClearField("graph")
    file.write(outer.SerializeToString(deterministic=True))
    file.write(_tag(_GRAPH))
    place = file.tell()
    file.write(bytes(_LONGEST_LENGTH))
    start = file.tell()
    file.write(proto.graph.SerializeToString(deterministic=True))
    for tensor, raw in tensors:
        _write_tensor(file, tensor, raw)
    end = file.tell()
    if end - start > _LARGEST:
        raise OSError(
            None, "a model file ends at 2 GiB; save the source with external data, and the result has such too"
        )
    file.seek(place)
    file.write(_padded_length(end - start))
    file.seek(end)


# The graph's length is known only at its end. Five bytes hold any length a protobuf file may have (2 GiB), and
# a varint may be padded with continuation bytes.
_LONGEST_LENGTH = 5
_LARGEST = 2**31 - 1  # bytes of a protobuf message


def _padded_length(length: int) -> bytes:
    groups = [(length >> 7 * place) & 0x7F for place in range(_LONGEST_LENGTH)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def _write_tensor(file: BinaryIO, tensor: TensorProto, raw: memoryview | None) -> None:
    head = tensor.SerializeToString(deterministic=True)
    frame = b"" if raw is None else _tag(_RAW_DATA) + _length(raw.nbytes)
    file.write(_tag(_INITIALIZER) + _length(len(head) + len(frame) + (0 if raw is None else raw.nbytes)) + head + frame)
    if raw is not None:
        file.write(raw)


def _tag(number: int) -> bytes:
    return _length(number << 3 | _LENGTH_DELIMITED)


def _length(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _read_tensor(content: mmap.mmap, span: Span, tensor: TensorProto, location: str) -> bool:
    """Parse one tensor but for large raw data; return whether that stayed in the file."""
    rest, raw = _parted(content, span, _RAW_DATA)
    tensor.MergeFromString(_joined(content, rest))
    if not raw:
        return False
    start, end = raw[-1]
    if end - start <= _SMALL_BYTES:
        tensor.raw_data = content[start:end]
        return False
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(start)), ("length", str(end - start))):
        tensor.external_data.add(key=key, value=value)
    return True


def _parted(content: mmap.mmap, span: Span, number: int) -> tuple[list[Span], list[Span]]:
    """Return the spans of all other fields, tags included, and the payloads of one length-delimited field."""
    others: list[Span] = []
    payloads = []
    for field, whole, payload in _fields(content, span):
        if field == number and payload is not None:
            payloads.append(payload)
        elif others and others[-1][1] == whole[0]:
            others[-1] = (others[-1][0], whole[1])
        else:
            others.append(whole)
    return others, payloads


def _fields(content: mmap.mmap, span: Span) -> Iterator[tuple[int, Span, Span | None]]:
    place, end = span
    while place < end:
        begun = place
        tag, place = _varint(content, place, end)
        kind, payload = tag & 7, None
        if kind == _LENGTH_DELIMITED:
            length, place = _varint(content, place, end)
            payload = (place, place + length)
            place += length
        elif kind == 0:
            _, place = _varint(content, place, end)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise DecodeError(f"wire type {kind} at byte {begun}")
        if place > end:
            raise DecodeError(f"a field at byte {begun} is longer than what holds it")
        yield tag >> 3, (begun, place), payload


def _varint(content: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place
    raise DecodeError(f"a number at byte {place} does not end")
