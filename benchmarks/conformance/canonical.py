"""Model files in a form in which two of them can be compared: every weight's content in its place, as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner

_LONGEST = 1024  # bytes of raw data that stay as they are


FunctionId = tuple[str, str]


def canonical(path: Path, *, inlined: Collection[FunctionId] = ()) -> ModelProto:
    """Return a model file's content with large and external weights replaced by digests of their bytes.

    An external tensor stays marked as external, so that a weight that moved into the file or out of it shows; where in
    its data file it lies does not count.

    Args:
        path: The file; external data is looked for beside it.
        inlined: Domain and name of the local functions that are put in the place of their calls first.

    Raises:
        OSError: External data is not there.
    """
    proto = onnx.load(path, load_external_data=False)
    if inlined:
        proto = inliner.inline_selected_functions(proto, sorted(inlined))
    for tensor in tensors(proto):
        _digest(tensor, path.parent)
    return proto


def tensors(message: Message) -> Iterator[TensorProto]:
    """Yield every tensor within a message, however deep."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else [value]:
            yield from tensors(inner)


def reads(graph: GraphProto) -> dict[str, int]:
    """Return how often each tensor name is read: by nodes, by nested bodies, or as an output of the graph."""
    found: dict[str, int] = {}
    names = [*_read_by(graph.node), *(value.name for value in graph.output)]
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


def _read_by(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield from filter(None, node.input)
        for body in bodies(node):
            yield from _read_by(body.node)
            yield from (value.name for value in body.output)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs that a node holds in its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _digest(tensor: TensorProto, folder: Path) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        content = _external(tensor, folder)
        tensor.ClearField("external_data")
    else:
        content = tensor.raw_data
    if len(content) > _LONGEST or tensor.data_location == TensorProto.EXTERNAL:
        tensor.raw_data = f"{len(content)} bytes, {hashlib.sha256(content).hexdigest()}".encode()


def _external(tensor: TensorProto, folder: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset", 0)))
        return file.read(int(entries["length"])) if "length" in entries else file.read()
