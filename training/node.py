"""What an operator is here, and what it reads of a node: once, when the graph is built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, NodeProto, helper
from torch import Tensor

from rankfold.errors import ModelError

Compute = Callable[..., Tensor | tuple[Tensor, ...]]
"""Takes a node's inputs in their order, None for one left out, and returns its output or outputs."""


@dataclass(frozen=True)
class Node:
    """A node whose attributes are read by name; one that nobody asked for is one that its operator lacks.

    Attributes:
        proto: The node.
        opset: The version of its domain that the graph imports.
        constants: The graph's constants by name.
    """

    proto: NodeProto
    opset: int
    constants: Mapping[str, Tensor]
    _read: set[str] = field(default_factory=set)

    @property
    def outputs(self) -> int:
        """Return how many outputs it has, up to the last that has a name."""
        return max((place + 1 for place, name in enumerate(self.proto.output) if name), default=0)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an attribute; without a default it has to be there."""
        return int(self._value(name, default))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an attribute of 0 or 1."""
        return bool(self._value(name, default))

    def number(self, name: str, default: float | None = None) -> float:
        """Return an attribute; without a default it has to be there."""
        return float(self._value(name, default))

    def choice(self, name: str, default: str, known: Collection[str]) -> str:
        """Return a text attribute.

        Raises:
            ModelError: It is none of those known.
        """
        value = self.value(name)
        text = default if value is None else value.decode()
        if text not in known:
            raise ModelError(f"attribute {name}={text!r}")
        return text

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute, None where it is left out."""
        value = self.value(name)
        return None if value is None else [int(number) for number in value]

    def only(self, name: str, meant: int) -> None:
        """Refuse every value of an attribute but one, which is also its default.

        Raises:
            ModelError: It has another.
        """
        value = self.integer(name, meant)
        if value != meant:
            raise ModelError(f"attribute {name}={value}")

    def ignore(self, *names: str) -> None:
        """Note attributes that make no difference here."""
        self._read.update(names)

    def value(self, name: str) -> Any:
        """Return an attribute as onnx gives it, None where it is left out.

        Raises:
            ModelError: It stands for an attribute of a local function.
        """
        self._read.add(name)
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return _content(attribute)
        return None

    def constant(self, place: int) -> Tensor | None:
        """Return an input that is a constant of the graph, None where it is computed or left out."""
        return self.constants.get(self.proto.input[place]) if self.has(place) else None

    def has(self, place: int) -> bool:
        """Return whether an input is given."""
        return place < len(self.proto.input) and bool(self.proto.input[place])

    def unread(self) -> list[str]:
        """Return the attributes that nobody asked for."""
        return [attribute.name for attribute in self.proto.attribute if attribute.name not in self._read]

    def _value(self, name: str, default: float | None) -> Any:
        value = self.value(name)
        if value is None and default is None:
            raise ModelError(f"attribute {name} is missing")
        return default if value is None else value


@dataclass(frozen=True)
class Operator:
    """What computes the nodes of one operator.

    Attributes:
        bind: Reads a node and returns what computes it; raises ModelError for a meaning it lacks.
        shapes: The inputs that are best on the CPU: shapes, axes and such, which are read as Python numbers.
        outputs: How many outputs it can give.
        on_cpu: Whether its output is made there whatever device computes: it follows from shapes, or from `shapes`.
        counts: Whether the shape of its output follows from the numbers that it reads.
        picks: Whether `shapes` say what comes out, and not how much.
    """

    bind: Callable[[Node], Compute]
    shapes: tuple[int, ...] = ()
    outputs: int = 1
    on_cpu: bool = False
    counts: bool = False
    picks: bool = False


def plain(function: Compute, *, shapes: tuple[int, ...] = (), on_cpu: bool = False) -> Operator:
    """Return the operator without attributes that a function of tensors computes."""
    return Operator(lambda node: function, shapes=shapes, on_cpu=on_cpu)  # noqa: ARG005


def bound(operator: Operator, node: Node) -> Compute:
    """Return what computes a node.

    Raises:
        ModelError: It has an attribute, a value of one, or an output, that the operator lacks; the message names it.
    """
    compute = operator.bind(node)
    if unread := node.unread():
        raise ModelError(f"attribute {', '.join(unread)}")
    if node.outputs > operator.outputs:
        raise ModelError(f"output {node.outputs}")
    return compute


def _content(attribute: AttributeProto) -> Any:
    if attribute.ref_attr_name:
        raise ModelError(f"attribute {attribute.name} of a function that is not in line")
    return helper.get_attribute_value(attribute)
