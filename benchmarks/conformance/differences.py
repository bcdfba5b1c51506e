"""Every difference between two protobuf messages, found by walking their descriptors: no list of known fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import NodeProto

_IDENTITIES = ("name", "key", "tensor_name", "domain", "dim_param")  # what elements of a list are called by
_LONGEST_TEXT = 120


@dataclass(frozen=True)
class Difference:
    """What one place of a message holds before and after; None where it is not there.

    Attributes:
        path: Field names from the root, such as `graph.node`.
        before, after: A whole element of a repeated message field, or a field's value. Equal where an element moved.
    """

    path: str
    before: Any
    after: Any

    def lines(self) -> Iterator[str]:
        """Yield what changed, down to the single field."""
        if isinstance(self.before, Message) and isinstance(self.after, Message):
            inner = list(differences(self.before, self.after))
            if not inner:
                yield f"{self.path}[{identity(self.before)}]: moved"
            for difference in inner:
                yield from (f"{self.path}[{identity(self.before)}].{line}" for line in difference.lines())
            return
        yield f"{self.path}: {_text(self.before)} became {_text(self.after)}"


def differences(before: Message, after: Message, path: str = "") -> Iterator[Difference]:
    """Yield every difference between two messages of one type, unknown fields and mere presence included."""
    prefix = f"{path}." if path else ""
    for field in before.DESCRIPTOR.fields:
        yield from _of_field(before, after, field, f"{prefix}{field.name}")
    strangers = _unknown(before), _unknown(after)
    if strangers[0] != strangers[1]:
        yield Difference(f"{prefix}(unknown fields)", *strangers)


def identity(message: Message) -> str:
    """Return what a message is called: its first output for a node, else a name or a key."""
    fields = message.DESCRIPTOR.fields_by_name
    if isinstance(message, NodeProto):
        return ",".join(message.output)
    return next((str(getattr(message, name)) for name in _IDENTITIES if name in fields), "")


def _of_field(before: Message, after: Message, field: FieldDescriptor, path: str) -> Iterator[Difference]:
    pair = getattr(before, field.name), getattr(after, field.name)
    if field.is_repeated:
        if field.message_type is not None:
            yield from _of_sequences(*pair, path)
        elif list(map(repr, pair[0])) != list(map(repr, pair[1])):  # by repr, in which NaN equals itself
            yield Difference(path, list(pair[0]), list(pair[1]))
        return
    there = [message.HasField(field.name) if field.has_presence else True for message in (before, after)]
    if all(there) and field.message_type is not None:
        yield from differences(*pair, path)
    elif there[0] != there[1] or (field.message_type is None and repr(pair[0]) != repr(pair[1])):
        yield Difference(path, *(value if present else None for value, present in zip(pair, there, strict=True)))


def _of_sequences(before: Sequence[Message], after: Sequence[Message], path: str) -> Iterator[Difference]:
    """Yield the elements that are gone, new or in another place; those of one identity as one difference."""
    keys = [[element.SerializeToString(deterministic=True) for element in side] for side in (before, after)]
    gone: list[Message] = []
    new: list[Message] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        if kind != "equal":
            gone.extend(before[i1:i2])
            new.extend(after[j1:j2])
    for element in gone:
        partner = next((other for other in new if identity(other) == identity(element)), None)
        if partner is not None:
            new.remove(partner)
        yield Difference(path, element, partner)
    yield from (Difference(path, None, element) for element in new)


def _unknown(message: Message) -> bytes:
    """Return the bytes of a message's own fields that its descriptor does not know."""
    bare = type(message)()
    bare.CopyFrom(message)
    for field, _ in message.ListFields():
        bare.ClearField(field.name)
    return bare.SerializeToString(deterministic=True)


def _text(value: object) -> str:
    if value is None:
        return "nothing"
    text = " ".join(str(value).split()) if isinstance(value, Message) else repr(value)
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"
