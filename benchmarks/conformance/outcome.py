"""What became of one model: a plain value that goes through JSON."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import rankfold
from rankfold.passes.model_file import load_model
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan, find_sites

# In falling order of what a reader has to know.
FAILURES = ("crashed", "differs", "unfaithful")


@dataclass
class Outcome:
    """One model's way through the library.

    Attributes:
        case: Its name.
        status: `folded`, `unchanged`, `refused` with a message of the library's, `not made` where
            the tool that makes the model fails, `not run` where onnxruntime does not run it, or one of the failures.
        detail: The reason or the trace, where there is one.
        folds: Number of folded sites by pattern.
        skips: Number of linear nodes left alone by reason.
        unexplained: What the fidelity walk found and nothing explains.
        differs: How outputs disagree.
        notes: What is worth knowing and no failure.
        figures: Distances and sizes.
    """

    case: str
    status: str = "unchanged"
    detail: str = ""
    folds: dict[str, int] = field(default_factory=dict)
    skips: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Return whether this must not happen."""
        return self.status in FAILURES

    def as_json(self) -> dict[str, Any]:
        """Return the fields that say something."""
        return {name: value for name, value in asdict(self).items() if value}

    def judged(self) -> Outcome:
        """Return itself, its status brought up to date with what was found."""
        if self.unexplained and not self.failed:
            self.status = "unfaithful"
        if self.differs and self.status != "crashed":
            self.status = "differs"
        return self


def note_analysis(outcome: Outcome, path: Path) -> None:
    """Count what the library finds in a model, by pattern and by reason, as it names them itself."""
    found = rankfold.analyze(path)
    scan = find_sites(load_model(path))
    patterns = {site.name: pattern(scan, site) for site in scan.sites}
    names = (patterns.get(site.name, f"{site.op_type} in a local function") for site in found.sites)
    outcome.folds = dict(Counter(names))
    outcome.skips = dict(Counter(f"{node.op_type}: {plain_reason(node.reason)}" for node in found.skipped))


def pattern(scan: Scan, site: Site) -> str:
    """Return how a site's weight stands in the graph."""
    use = site.uses[0]
    parts = [site.op_type]
    if scan.index.nodes[use.node].domain:
        parts.append(f"of {scan.index.nodes[use.node].domain}")
    if use.weight_operand == 0:
        parts.append("with the weight on the left")
    convolution = site.op_type == "Conv"
    steps = site.weight.steps[:-1] if convolution else site.weight.steps  # the last one makes its kernel a matrix
    behind = list(dict.fromkeys(str(operation) for operation, _ in steps))
    if behind:
        parts.append(f"behind {', '.join(behind)}")
    if convolution:
        parts.append("with a kernel" if any(extent > 1 for extent in getattr(site, "kernel", None) or ()) else "1x1")
    elif len(site.weight.shape) > 2:
        parts.append("of a stack")
    if len(site.uses) > 1:
        parts.append("shared")
    return " ".join(parts)


def plain_reason(reason: str) -> str:
    """Return a reason without the names, shapes and numbers of one model."""
    short = re.sub(r"'[^']*'", "…", reason)
    short = re.sub(r"\[[^\]]*\]", "[…]", short)
    return re.sub(r"local function [^\s;,]+", "local function …", re.sub(r"\d+", "n", short))
