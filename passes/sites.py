"""Finding every linear site of a model, and saying of every other linear node why it is left alone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from rankfold.passes.constants import Step
from rankfold.passes.graph_index import GraphIndex, index_graph, nested_graphs
from rankfold.passes.matmul_sites import Candidate, gemm_candidate, matmul_candidate
from rankfold.passes.metadata import FoldedPair, read_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site
from rankfold.values import Request, Skipped

_RULES = {"MatMul": matmul_candidate, "Gemm": gemm_candidate}
_QUANTISED = frozenset(
    [
        "MatMulInteger",
        "QLinearMatMul",
        "ConvInteger",
        "QLinearConv",
        "MatMulNBits",
        "DynamicQuantizeMatMul",
        "QGemm",
        "MatMulIntegerToFloat",
    ]
)
_LEFT_ALONE = {
    "Conv": "convolutions are not folded yet",
    "ConvTranspose": "transposed convolutions are not folded",
    "Einsum": "Einsum is not folded",
    "LSTM": "recurrent layers are not folded",
    "GRU": "recurrent layers are not folded",
    "RNN": "recurrent layers are not folded",
    "Attention": "a fused attention node; fold first, optimise the graph afterwards",
    "QAttention": "a fused attention node; fold first, optimise the graph afterwards",
    "FusedMatMul": "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards",
    "FusedGemm": "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards",
    "GemmFastGelu": "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards",
    **dict.fromkeys(_QUANTISED, "already quantised; fold before quantising"),
}
_LINEAR = frozenset(_RULES) | frozenset(_LEFT_ALONE)
_TRANSPARENT = frozenset({"Identity", "Transpose", "Cast", "Reshape"})
_OLDEST_IR_VERSION = 4  # before it, every initializer has to be a graph input: folding would change the interface


@dataclass(frozen=True)
class Scan:
    """What a model holds that is linear.

    Attributes:
        sites: Foldable, in graph order.
        excluded: Foldable too, but left alone at the caller's wish; they count in every share.
        pairs: Folded by an earlier run; they count with their original size.
        skipped: Linear nodes that are left alone, with the reason.
        index: Lookups over the graph.
    """

    sites: tuple[Site, ...]
    excluded: tuple[Site, ...]
    pairs: tuple[FoldedPair, ...]
    skipped: tuple[Skipped, ...]
    index: GraphIndex

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return the union of what the sites need, each once, in graph order."""
        return tuple(dict.fromkeys(request for site in self.sites for request in site.requests))

    @property
    def fixed_parameters(self) -> int:
        """Return the parameters, as they are now, of foldable weights that a plan may not touch."""
        return sum(site.parameters for site in self.excluded) + sum(pair.parameters for pair in self.pairs)

    @property
    def fixed_dense_parameters(self) -> int:
        """Return the same as in the model before its first fold."""
        return sum(site.parameters for site in self.excluded) + sum(pair.dense_parameters for pair in self.pairs)


def find_sites(model: Model, *, exclude: Iterable[str] = ()) -> Scan:
    """Return every linear site of the model's main graph.

    Args:
        model: The model; its weights are not read.
        exclude: Shell-style patterns of node names to leave alone, such as `/head/*`.
    """
    index = index_graph(model.proto)
    pairs = read_pairs(model)
    folded = {name for pair in pairs for name in (pair.down, pair.up)}
    candidates: dict[int, Candidate] = {}
    skipped: dict[int, str] = {}
    for place, node in enumerate(index.nodes):
        if node.op_type not in _LINEAR or folded.intersection(node.input):
            continue
        found = _judged(model.proto, index, place)
        if isinstance(found, str):
            skipped[place] = found
        else:
            candidates[place] = found
    sites, shared = _grouped(index, candidates)
    chosen, excluded = _excluded(index, sites, tuple(exclude))
    skipped |= shared | {use.node: reason for site, reason in excluded for use in site.uses}
    outer = (
        Skipped(index.names[place], index.nodes[place].op_type, reason) for place, reason in sorted(skipped.items())
    )
    return Scan(
        _with_cheaper_side(chosen),
        tuple(site for site, _ in excluded),
        pairs,
        (*outer, *_nested(model.proto)),
        index,
    )


def unmatched_patterns(scan: Scan, exclude: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that match no node, which are likely misspelt."""
    return tuple(pattern for pattern in exclude if not fnmatch.filter(scan.index.names, pattern))


def _judged(proto: ModelProto, index: GraphIndex, place: int) -> Candidate | str:
    node = index.nodes[place]
    if node.op_type not in _RULES or node.domain not in ("", "ai.onnx"):
        return _LEFT_ALONE.get(node.op_type, f"operator of domain {node.domain!r}")
    if proto.ir_version < _OLDEST_IR_VERSION:
        return (
            f"ir_version {proto.ir_version} makes every weight a graph input; raise it to {_OLDEST_IR_VERSION} or more"
        )
    return _RULES[node.op_type](index, place)


def _grouped(index: GraphIndex, candidates: dict[int, Candidate]) -> tuple[list[Site], dict[int, str]]:
    """Put uses of one weight together; refuse those whose weight must stay for another use."""
    groups: dict[tuple[str, tuple[Step, ...], bool, int, int], list[Candidate]] = {}
    for candidate in candidates.values():
        use = candidate.use
        key = (
            candidate.weight.root,
            candidate.weight.steps,
            candidate.flipped,
            use.weight_operand,
            use.feature_axis,
        )
        groups.setdefault(key, []).append(candidate)
    sites, refused = [], {}
    for members in groups.values():
        places = {member.use.node for member in members}
        other = next((use for use in _final_readers(index, members[0].weight.root) if use not in places), None)
        if other is None:
            sites.append(_site(index, members))
            continue
        for place in places:
            refused[place] = (
                f"weight {members[0].weight.root!r} is also used by {other}; it would have to stay, and folding would"
                " only add parameters"
                if isinstance(other, str)
                else f"weight {members[0].weight.root!r} is also used by {index.nodes[other].op_type}"
                f" {index.names[other]!r} in another form; folding would only add parameters"
            )
    return sorted(sites, key=lambda site: site.uses[0].node), refused


def _site(index: GraphIndex, members: list[Candidate]) -> Site:
    first = members[0]
    fan_in, fan_out = first.shape
    return Site(
        name=index.names[first.use.node],
        op_type=index.nodes[first.use.node].op_type,
        weight=first.weight,
        flipped=first.flipped,
        in_features=fan_in,
        out_features=fan_out,
        uses=tuple(member.use for member in members),
        side="output",
    )


def _final_readers(index: GraphIndex, tensor: str) -> Iterator[int | str]:
    """Yield the nodes that read a constant, looked at through reshaping nodes, and names for what is not a node."""
    if tensor in index.pinned:
        yield "a graph output or a nested graph"
    for place in index.readers.get(tensor, ()):
        node = index.nodes[place]
        if node.op_type in _TRANSPARENT and node.input[0] == tensor:
            yield from _final_readers(index, node.output[0])
        else:
            yield place


def _excluded(
    index: GraphIndex, sites: list[Site], patterns: tuple[str, ...]
) -> tuple[list[Site], list[tuple[Site, str]]]:
    kept, left = [], []
    for site in sites:
        names = [index.names[use.node] for use in site.uses]
        hit = next((p for p in patterns if any(fnmatch.fnmatchcase(name, p) for name in names)), None)
        if hit is None:
            kept.append(site)
        else:
            left.append((site, f"excluded by the pattern {hit!r}"))
    return kept, left


def _with_cheaper_side(sites: list[Site]) -> tuple[Site, ...]:
    """Choose for each site whether the second moment of its input or of its output is collected.

    Sites that read one tensor share its moment, so the choice is made for all of them together, by the
    multiplications that a row costs. At a tie the input wins: it tells more.
    """
    by_input: dict[Request, list[Site]] = {}
    for site in sites:
        by_input.setdefault(site.uses[0].input_request, []).append(site)
    cheaper_input = {
        site.name
        for group in by_input.values()
        for site in group
        if group[0].in_features ** 2 <= sum(member.out_features**2 for member in group)
    }
    return tuple(
        replace(site, side="input") if site.name in cheaper_input or _output_is_blurred(site) else site
        for site in sites
    )


def _output_is_blurred(site: Site) -> bool:
    """Return whether something other than a known bias is added within the node that makes the product."""
    return any(use.centred == "never" for use in site.uses)


def _nested(proto: ModelProto) -> Iterator[Skipped]:
    """Yield the linear nodes inside control-flow bodies and local functions."""
    for function in proto.functions:
        reason = f"inside the local function {function.domain}:{function.name}; inline functions first"
        yield from _inside(function.node, reason)
    for node in proto.graph.node:
        for body in nested_graphs(node):
            yield from _inside(body.node, f"inside the body of {node.op_type} {node.name!r}, which cannot be tapped")


def _inside(nodes: Iterable[NodeProto], reason: str) -> Iterator[Skipped]:
    for node in nodes:
        if node.op_type in _LINEAR:
            yield Skipped(node.name or node.op_type, node.op_type, reason)
        for body in nested_graphs(node):
            yield from _inside(body.node, reason)
