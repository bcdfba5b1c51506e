"""Choosing nodes by pattern: what is folded, and what is left alone at the caller's wish."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.metadata import FoldedPair
from rankfold.passes.site import Site


def matched_pattern(index: GraphIndex, site: Site, patterns: Sequence[str]) -> str | None:
    """Return the first shell-style pattern that a site's node names, operator or weight name matches, or None."""
    names = [index.names[use.node] for use in site.uses]
    names += [site.weight.root, *(index.nodes[use.node].op_type for use in site.uses)]
    return next((pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)), None)


def included(pair: FoldedPair, patterns: Sequence[str]) -> bool:
    """Return whether a weight that was folded before counts: no patterns, or one that it matches."""
    names = (pair.site, pair.op_type, pair.weight)
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def unmatched(index: GraphIndex, patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns that match nothing in the graph, which are likely misspelt."""
    names = [*index.names, *(node.op_type for node in index.nodes), *index.initializers]
    return tuple(pattern for pattern in patterns if not any(fnmatch.fnmatchcase(name, pattern) for name in names))
