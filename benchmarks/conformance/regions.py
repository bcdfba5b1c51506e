"""Finding the new nodes that stand where a folded one stood, and checking that they fill its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

_PAIRS = "rankfold.pairs"
_WEIGHT_TURNS = frozenset({"transA", "transB", "transBatchA", "transBatchB"})
_WINDOW = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0, "group": 1}  # of a convolution of one pixel
# What may stand beside the two products, by form: a bias, and what parts the input's features or joins the output's.
_BESIDE: dict[str, set[tuple[str, ...]]] = {
    "pair": {(), ("Add",)},
    "pivoted": {
        *((*added, *joining) for joining in (("Concat",), ("Concat", "Gather")) for added in ((), ("Add",))),
        *(
            (*added, *parting)
            for parting in (("Split",), ("Gather", "Gather"))
            for added in ((), ("Add",), ("Add", "Add"))
        ),
    },
}
_OF_FEATURES = frozenset({"Split", "Gather", "Concat"})  # the old node had no such; their axis is that of the features
_PRODUCTS = {"FusedGemm": {"FusedGemm", "Gemm"}}  # what may stand in the place of an operator, beside itself


@dataclass(frozen=True)
class Pair:
    """One record of the result's metadata."""

    site: str
    down: str
    up: str
    in_features: int
    out_features: int
    rank: int
    blocks: int = 1
    form: str = "pair"


@dataclass(frozen=True)
class Region:
    """The new nodes of one use of a pair.

    Attributes:
        pair: Whose factors they multiply by.
        nodes: In graph order.
        outputs: Those of their outputs that the source had too.
        label: What their names are derived from.
        factors: The tensors that hold `down` and `up`: the weights themselves, or what they are cast to.
    """

    pair: Pair
    nodes: tuple[NodeProto, ...]
    outputs: tuple[str, ...]
    label: str
    factors: frozenset[str]

    @property
    def output(self) -> str:
        """Return the tensor by which the old node is known."""
        return self.outputs[0] if self.outputs else ""


def new_pairs(before: ModelProto, after: ModelProto) -> tuple[Pair, ...]:
    """Return the pairs that the result records and the source does not."""
    known = _recorded(before)
    return tuple(pair for pair in _recorded(after) if pair not in known)


def _recorded(model: ModelProto) -> list[Pair]:
    found = [entry.value for entry in model.metadata_props if entry.key == _PAIRS]
    fields = set(Pair.__dataclass_fields__)
    entries = json.loads((found or ["[]"])[0])
    return [Pair(**{key: value for key, value in entry.items() if key in fields}) for entry in entries]


def regions(pair: Pair, before: GraphProto, after: GraphProto) -> Iterator[Region]:
    """Yield the new nodes around each product by `down`, up to the tensors that the source has.

    What parts the activation before that product (a Split, or Gathers) belongs to them.
    """
    known = {name for node in before.node for name in node.output}
    made_by = {name: node for node in after.node for name in node.output if name not in known}
    down, up = read_as(pair.down, after), read_as(pair.up, after)
    for first in after.node:
        if not down.intersection(first.input) or down.intersection(first.output):
            continue
        parting = [made_by[name] for name in first.input if name in made_by and name not in down]
        nodes, names = [], {name for node in (first, *parting) for name in node.output} - known
        for node in after.node:
            if node in (first, *parting) or names.intersection(node.input):
                nodes.append(node)
                names |= set(node.output) - known
        outputs = tuple(name for node in nodes for name in node.output if name in known)
        yield Region(pair, tuple(nodes), outputs, first.name.rpartition("/")[0], down | up)


def read_as(name: str, graph: GraphProto) -> frozenset[str]:
    """Return the tensors that hold a constant: itself, and what it is cast to."""
    casts = (node.output[0] for node in graph.node if node.op_type == "Cast" and list(node.input) == [name])
    return frozenset([name, *casts])


def region_complaints(region: Region, before: GraphProto, after: GraphProto) -> Iterator[str]:
    """Yield what keeps a region from being the old node in two factors."""
    where = f"fold of {region.pair.site!r} at {region.output!r}"
    old = next((node for node in before.node if region.output and region.output in node.output), None)
    if old is None or len(region.outputs) != 1:
        yield f"{where}: gives {list(region.outputs)}, expected the one output of the old node"
        return
    yield from (f"{where}: {reason}" for reason in _node_reasons(region, old))
    yield from (f"{where}: {reason}" for reason in _operand_reasons(region, old, before, after))
    yield from (f"{where}: {reason}" for reason in _attribute_reasons(region, old))
    yield from (f"{where}: {reason}" for reason in _size_reasons(region, after))


def _node_reasons(region: Region, old: NodeProto) -> Iterator[str]:
    products = [node for node in region.nodes if region.factors.intersection(node.input)]
    added = [node for node in region.nodes if node not in products]
    if len(products) != 2:
        yield f"{len(products)} products in {len(region.nodes)} nodes, expected 2"
    for node in products:
        if node.op_type not in _PRODUCTS.get(old.op_type, {old.op_type}) or node.domain not in ("", old.domain):
            yield f"{node.op_type} of domain {node.domain!r} in the place of {old.op_type} of {old.domain!r}"
    beside = tuple(sorted(node.op_type for node in added))
    allowed = _BESIDE.get(region.pair.form, set())
    for node in added:
        if node.domain or not any(node.op_type in kinds for kinds in allowed):
            yield f"an additional {node.op_type} node"
    if beside not in allowed:
        yield f"{list(beside)} beside the products of a fold of the form {region.pair.form!r}"
    for node in region.nodes:
        stem = node.name.rpartition("/")[0]
        if stem != region.label or not (stem.startswith(old.name) if old.name else stem.startswith(old.op_type)):
            yield f"the new name {node.name!r} does not derive from {old.name or old.op_type!r}"


def _operand_reasons(region: Region, old: NodeProto, before: GraphProto, after: GraphProto) -> Iterator[str]:
    made = {name for node in region.nodes for name in node.output}
    outside = {name for node in region.nodes for name in node.input if name} - made
    foreign = outside - set(old.input) - {tensor.name for tensor in after.initializer} - region.factors
    borrowed = (outside - set(old.input)) & {tensor.name for tensor in before.initializer}
    if foreign or borrowed:
        yield f"reads {sorted(foreign | borrowed)}, which the old node did not"
    lost = [name for name in old.input if name and name not in outside and not is_constant(name, before)]
    if lost:
        yield f"does not read {lost}, which the old node did"
    inner = made - set(region.outputs)
    strangers = [node for node in after.node if node not in region.nodes and inner.intersection(node.input)]
    if strangers or inner.intersection(value.name for value in after.output):
        yield "something else reads a tensor between the factors"


def is_constant(name: str, graph: GraphProto) -> bool:
    """Return whether a tensor is computed from initializers and constants alone."""
    if any(tensor.name == name for tensor in graph.initializer):
        return True
    maker = next((node for node in graph.node if name in node.output), None)
    return maker is not None and all(is_constant(inner, graph) for inner in maker.input if inner)


def _attribute_reasons(region: Region, old: NodeProto) -> Iterator[str]:
    wanted = {attribute.name: attribute for attribute in old.attribute}
    joining = [node for node in region.nodes if node.op_type in _OF_FEATURES]
    found = [attribute for node in region.nodes if node not in joining for attribute in node.attribute]
    features = 1 if old.op_type == "Conv" else -1
    for node in joining:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
        if axis != features:
            yield f"{node.op_type} along axis {axis}, expected that of the features, {features}"
    for attribute in found:
        if not _says(attribute, wanted.get(attribute.name)) and not _neutral(attribute, old):
            yield f"attribute {attribute.name} is {helper.get_attribute_value(attribute)}, the old node had another"
    for name, attribute in wanted.items():
        kept = any(_says(attribute, other) for other in found) or name in _WEIGHT_TURNS
        if not kept and not _neutral(attribute, old):
            yield f"attribute {name} = {helper.get_attribute_value(attribute)} is lost"


def _says(attribute: AttributeProto, other: AttributeProto | None) -> bool:
    """Return whether two attributes say the same; what is noted on them goes with the old node."""
    if other is None:
        return False
    bare = []
    for given in (attribute, other):
        bare.append(AttributeProto())
        bare[-1].CopyFrom(given)
        bare[-1].ClearField("doc_string")
    return bool(bare[0] == bare[1])


def _neutral(attribute: AttributeProto, node: NodeProto) -> bool:
    """Return whether an attribute says what its absence says, or that a convolution sees one pixel."""
    value = helper.get_attribute_value(attribute)
    values = list(value) if isinstance(value, list | tuple) else [value]
    if node.op_type == "Conv" and attribute.name in _WINDOW:
        return all(entry == _WINDOW[attribute.name] for entry in values)
    if not onnx.defs.has(node.op_type, node.domain):
        return value in {"alpha": (1.0,), "beta": (1.0,)}.get(attribute.name, (0,))
    declared = onnx.defs.get_schema(node.op_type, node.domain).attributes
    if attribute.name not in declared or not declared[attribute.name].default_value.name:
        return False
    return bool(helper.get_attribute_value(declared[attribute.name].default_value) == value)


def _size_reasons(region: Region, after: GraphProto) -> Iterator[str]:
    factors = {tensor.name: tensor for tensor in after.initializer}
    pair = region.pair
    down, up = factors.get(pair.down), factors.get(pair.up)
    if down is None or up is None:
        yield "a factor is no initializer"
        return
    each, fan_in, fan_out = pair.rank * pair.blocks, pair.in_features, pair.out_features
    expected = {(each * fan_in, each * fan_out)}
    if pair.form == "pivoted":
        expected = {(each * (fan_in - pair.rank), each * fan_out), (each * fan_in, each * (fan_out - pair.rank))}
    if (math.prod(down.dims), math.prod(up.dims)) not in expected:
        yield f"factors of shapes {list(down.dims)}, {list(up.dims)} for {pair}"
    if down.data_type != up.data_type:
        yield "the factors are of two types"
