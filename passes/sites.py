"""Finding every linear site of a model, and saying of every other linear node why it is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from rankfold.passes import reasons
from rankfold.passes.graph_checks import OLDEST_MEASURED_OPSET
from rankfold.passes.graph_index import GraphIndex, index_graph, nested_graphs, onnx_opset
from rankfold.passes.metadata import FoldedPair, read_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.operands import Candidate
from rankfold.passes.pivots import pivot_sides
from rankfold.passes.rules import is_linear, judged
from rankfold.passes.selection import included, matched_pattern, unmatched
from rankfold.passes.sharing import grouped
from rankfold.passes.site import Site
from rankfold.values import Request, Skipped

_OLDEST_IR_VERSION = 4  # before it, every initializer has to be a graph input: folding would change the interface


@dataclass(frozen=True)
class Scan:
    """What a model holds that is linear.

    Attributes:
        sites: Foldable, in graph order.
        excluded: Foldable too, but left alone at the caller's wish; they count in every share.
        pairs: Folded by an earlier run.
        counted: Those of them that are included: they count with their original size.
        skipped: Linear nodes that are left alone, with the reason.
        index: Lookups over the graph.
        parts: Sites whose weight is cut out of a larger one, whether they are looked at or not: once one of them is
            folded, the others need a weight of their own, or the larger one would have to stay.
    """

    sites: tuple[Site, ...]
    excluded: tuple[Site, ...]
    pairs: tuple[FoldedPair, ...]
    skipped: tuple[Skipped, ...]
    index: GraphIndex
    parts: tuple[Site, ...] = ()
    counted: tuple[FoldedPair, ...] = ()

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return the union of what the sites need, each once, in graph order."""
        return tuple(dict.fromkeys(request for site in self.sites for request in site.requests))

    @property
    def fixed_parameters(self) -> int:
        """Return the parameters, as they are now, of foldable weights that a plan may not touch."""
        return sum(site.parameters for site in self.excluded) + sum(pair.parameters for pair in self.counted)

    @property
    def fixed_dense_parameters(self) -> int:
        """Return the same as in the model before its first fold."""
        return sum(site.parameters for site in self.excluded) + sum(pair.dense_parameters for pair in self.counted)


def find_sites(model: Model, *, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Scan:
    """Return every linear site of the model's main graph.

    Args:
        model: The model; its weights are not read.
        include: Shell-style patterns of node names, operators or weight names; given any, only what they match is
            looked at, and only that counts in a share.
        exclude: Patterns of what is left alone, such as `/head/*`; it counts in every share.
    """
    index = index_graph(model.proto)
    pairs = read_pairs(model)
    folded = {name for pair in pairs for name in (pair.down, pair.up)}
    candidates: dict[int, Candidate] = {}
    skipped: dict[int, str] = {}
    for place, node in enumerate(index.nodes):
        if not is_linear(node) or folded.intersection(_weight_names(index, node)):
            continue
        found = _judged(model.proto, index, place)
        if isinstance(found, str):
            skipped[place] = found
        else:
            candidates[place] = found
    sites, shared = grouped(index, candidates)
    opset = onnx_opset(model.proto)
    sites = [replace(site, pivots=pivot_sides(index, site, opset=opset)) for site in sites]
    chosen, excluded, deselected = _selected(index, sites, tuple(include), tuple(exclude))
    skipped |= shared | deselected
    outer = (
        Skipped(index.names[place], index.nodes[place].op_type, reason) for place, reason in sorted(skipped.items())
    )
    parts = tuple(site for site in sites if any(operation == "Split" for operation, _ in site.weight.steps))
    counted = tuple(pair for pair in pairs if included(pair, tuple(include)))
    return Scan(_with_cheaper_side(chosen), excluded, pairs, (*outer, *_nested(model.proto)), index, parts, counted)


def unmatched_patterns(scan: Scan, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that match no node, operator or weight, which are likely misspelt."""
    return unmatched(scan.index, patterns)


def _judged(proto: ModelProto, index: GraphIndex, place: int) -> Candidate | str:
    if proto.ir_version < _OLDEST_IR_VERSION and index.nodes[place].op_type not in reasons.OPERATORS_LEFT_ALONE:
        return reasons.OLD_IR.format(found=proto.ir_version, oldest=_OLDEST_IR_VERSION)
    opset = onnx_opset(proto)
    if opset < OLDEST_MEASURED_OPSET and index.nodes[place].op_type not in reasons.OPERATORS_LEFT_ALONE:
        return reasons.OLD_OPSET.format(found=opset, oldest=OLDEST_MEASURED_OPSET)
    return judged(index, place)


def _weight_names(index: GraphIndex, node: NodeProto) -> Iterator[str]:
    """Yield the names of a node's operands, and what they are cast from."""
    for name in node.input:
        yield name
        place = index.producer.get(name)
        if place is not None and index.nodes[place].op_type == "Cast":
            yield index.nodes[place].input[0]


def _selected(
    index: GraphIndex, sites: list[Site], include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[list[Site], tuple[Site, ...], dict[int, str]]:
    """Return the sites to fold, those that are excluded, and for each node left out the reason."""
    chosen, excluded = [], []
    left: dict[int, str] = {}
    for site in sites:
        nodes = [use.node for use in site.uses]
        pattern = matched_pattern(index, site, exclude)
        if include and matched_pattern(index, site, include) is None:
            left |= dict.fromkeys(nodes, reasons.NOT_INCLUDED)
        elif pattern is not None:
            excluded.append(site)
            left |= dict.fromkeys(nodes, reasons.EXCLUDED.format(pattern=pattern))
        else:
            chosen.append(site)
    return chosen, tuple(excluded), left


def _with_cheaper_side(sites: list[Site]) -> tuple[Site, ...]:
    """Choose for each site whether the second moment of its input or of its output is collected.

    Sites that read one tensor share its moment, so the choice is made for all of them together, by the
    multiplications that a row costs. At a tie the input wins: it tells more.
    """
    by_input: dict[Request, list[Site]] = {}
    for site in sites:
        if len(site.sides) > 1:
            by_input.setdefault(site.uses[0].request("input"), []).append(site)
    cheaper_input = {
        site.name
        for group in by_input.values()
        for site in group
        if group[0].in_features ** 2 <= sum(member.out_features**2 for member in group)
    }
    return tuple(
        replace(site, side="input") if site.name in cheaper_input or site.sides == {"input"} else site for site in sites
    )


def _nested(proto: ModelProto) -> Iterator[Skipped]:
    """Yield the linear nodes inside control-flow bodies and local functions."""
    for function in proto.functions:
        yield from _inside(function.node, reasons.IN_FUNCTION.format(function=f"{function.domain}:{function.name}"))
    for node in proto.graph.node:
        for body in nested_graphs(node):
            yield from _inside(body.node, reasons.IN_BODY.format(node=f"{node.op_type} {node.name!r}"))


def _inside(nodes: Iterable[NodeProto], reason: str) -> Iterator[Skipped]:
    for node in nodes:
        if is_linear(node):
            yield Skipped(node.name or node.op_type, node.op_type, reason)
        for body in nested_graphs(node):
            yield from _inside(body.node, reason)
