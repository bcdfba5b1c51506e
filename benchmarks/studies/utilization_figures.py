"""What the study of utilization measures of a network, sums up over seeds, and says in its tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.intervals import Interval, student_interval
from rankfold.projections import SiteUtilization
from rankfold.utilization import Utilization

Row = dict[str, Any]

SHARES = (0.9, 0.95, 0.99, 0.999)
ABOUT = ("mean", "zero")
TITLES = {
    "vit": "embedded ViT, supervised",
    "dinov2": "DINOv2 ViT-S/14, self-supervised",
    "untrained": "before training",
    "supervised": "supervised",
    "masked": "self-supervised",
}
_BLOCK = re.compile(r"(?:blocks|layer)\.(\d+)[./]")
_KINDS = {
    "attention in": ("attention.projections", "attention/attention/"),
    "attention out": ("attention.out", "attention/output/"),
    "fc1": ("fc1",),
    "fc2": ("fc2",),
}


def place_of(site: str) -> tuple[int, str]:
    """Return the number of the block that a layer is in, from 0 on, and what it does there.

    Raises:
        ValueError: The name is of no layer of a block.
    """
    block = _BLOCK.search(site)
    kinds = [kind for kind, parts in _KINDS.items() if any(part in site for part in parts)]
    if block is None or len(kinds) != 1:
        raise ValueError(f"layer {site!r}: no name of a block's layer; expected one like 'blocks.0.fc1/MatMul'")
    return int(block.group(1)), kinds[0]


def figures(found: Utilization) -> Row:
    """Return what is kept of one measurement: the mean layer utilization, and each layer.

    Raises:
        ValueError: A layer has no utilized rank, or is of no block.
    """
    if found.left:
        raise ValueError(f"{found.left[0].node}: no utilized rank ({found.left[0].reason}); all layers should have one")
    return {
        "shares": found.shares,
        "mlu": [found.mlu[share] for share in found.shares],
        "stable": fmean(site.weight.stable / _full(site) for site in found.sites),
        "effective": fmean(site.weight.effective / _full(site) for site in found.sites),
        "rows": min(site.rows for site in found.sites),
        "layers": [_layer(site) for site in found.sites],
    }


def _layer(site: SiteUtilization) -> Row:
    block, kind = place_of(site.name)
    return {
        "name": site.name,
        "block": block,
        "kind": kind,
        "in_features": site.in_features,
        "out_features": site.out_features,
        "inputs": [ranks.inputs for ranks in site.shares],
        "outputs": [ranks.outputs for ranks in site.shares],
        "held_out_loss": [ranks.held_out for ranks in site.shares],
        "stable": site.weight.stable,
        "effective": site.weight.effective,
    }


def _full(site: SiteUtilization) -> int:
    return min(site.in_features, site.out_features)


def utilizations(layers: Iterable[Row], place: int) -> list[float]:
    """Return utilized rank over full rank of each layer, at the share of that place."""
    return [
        min(layer["inputs"][place], layer["outputs"][place]) / min(layer["in_features"], layer["out_features"])
        for layer in layers
    ]


def summary(rows: Sequence[Row]) -> list[Row]:
    """Return for each way of counting and each share by how much self-supervised MLU is above supervised, in pairs.

    Both networks of a pair began with the same weights. `verdict` is `higher` or `lower` where the interval of the
    difference leaves 0 out, else `not clear`.
    """
    lines = []
    for about in ABOUT:
        taught, masked = (of_kind(rows, kind, about) for kind in ("supervised", "masked"))
        for place, share in enumerate(SHARES):
            pairs = [(first["mlu"][place], second["mlu"][place]) for first, second in zip(taught, masked, strict=True)]
            found = student_interval(np.array([second - first for first, second in pairs]))
            ratio = fmean(second for _, second in pairs) / fmean(first for first, _ in pairs)
            lines.append(
                {"about": about, "share": share, **asdict(found), "ratio": ratio, "verdict": _verdict(found)},
            )
    return lines


def of_kind(rows: Iterable[Row], kind: str, about: str) -> list[Row]:
    """Return the measurements of one kind of network, by seed."""
    found = [row for row in rows if (row["kind"], row["about"]) == (kind, about)]
    return sorted(found, key=lambda row: row["seed"] or 0)


def table(rows: Sequence[Row]) -> str:
    """Return three tables: the two networks that exist, those trained here, and how the latter differ."""
    return "\n\n".join([_existing(rows), _trained(rows), _differences(rows)])


def _existing(rows: Sequence[Row]) -> str:
    head = ("MLU of networks that exist", "about", *_heads(), "stable rank", "effective rank", "layers")
    lines = [
        (TITLES[kind], about, *_cells([row]), str(len(row["layers"])))
        for kind in ("vit", "dinov2")
        for about in ABOUT
        for row in of_kind(rows, kind, about)
    ]
    return markdown(head, lines)


def _trained(rows: Sequence[Row]) -> str:
    count = len(of_kind(rows, "masked", ABOUT[0]))
    head = (f"MLU of one ViT, {count} seeds", "about", *_heads(), "stable rank", "effective rank", "labels read off")
    lines = [
        (TITLES[kind], about, *_cells(runs := of_kind(rows, kind, about)), _probes(runs))
        for kind in ("untrained", "supervised", "masked")
        for about in ABOUT
    ]
    return markdown(head, lines)


def _differences(rows: Sequence[Row]) -> str:
    lines, found = [], summary(rows)
    for about in ABOUT:
        here = [line for line in found if line["about"] == about]
        lines += [
            ("points", about, *(_interval(line) for line in here)),
            ("relative", about, *(f"{100 * (line['ratio'] - 1):+.0f} %" for line in here)),
            ("self-supervised is", about, *(line["verdict"] for line in here)),
        ]
    return markdown(("self-supervised less supervised", "about", *_heads()), lines)


def _heads() -> list[str]:
    return [f"{100 * share:g} %" for share in SHARES]


def _cells(runs: Sequence[Row]) -> list[str]:
    columns = [[run["mlu"][place] for run in runs] for place in range(len(SHARES))]
    columns += [[run[name] for run in runs] for name in ("stable", "effective")]
    return [_spread(values) for values in columns]


def _probes(runs: Sequence[Row]) -> str:
    return _spread([run["trained"]["probe_accuracy"] for run in runs])


def _spread(shares: Sequence[float]) -> str:
    """Return the mean of shares in percent, of several with the least and the largest."""
    mean = f"{100 * fmean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


def _interval(line: Row) -> str:
    return f"{100 * line['difference']:+.1f} ({100 * line['low']:+.1f} to {100 * line['high']:+.1f})"


def _verdict(found: Interval) -> str:
    if found.low > 0:
        return "higher"
    return "lower" if found.high < 0 else "not clear"
