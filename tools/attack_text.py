"""Accuracy under attack as a table, as text and as JSON."""

from __future__ import annotations

from rich import box
from rich.table import Table

from rankfold.robustness import Robustness
from rankfold.shares import Share
from rankfold.tools.report_json import SCHEMA_VERSION, Json

NORM_NAMES = {"linf": "L∞", "l2": "L2"}


def attack_table(found: Robustness) -> Table:
    """Return one line per attack, radius and model that examples were made on, and a column per model asked."""
    title = (
        f"Accuracy under attack, % of {found.models[0].clean.samples:,} samples (95 % interval); ε by"
        f" {NORM_NAMES[found.threat.norm]}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("attack")
    table.add_column("ε", justify="right")
    table.add_column("examples made on", overflow="fold")
    for model in found.models:
        table.add_column(model.name, justify="right", overflow="fold")
    table.add_row("none", "0", "", *(_shown(model.clean) for model in found.models))
    shares = iter(found.robust)
    for first in shares:
        row = [first, *(next(shares) for _ in found.models[1:])]
        maker = found.models[first.place.made_on].name
        table.add_row(first.place.attack, f"{first.place.eps:.4g}", maker, *(_shown(part.right) for part in row))
    return table


def attack_lines(found: Robustness) -> tuple[str, ...]:
    """Return what the table's figures rest on."""
    bounds, scoring = found.bounds, found.scoring
    source = "as the samples hold; --clip states others" if bounds.observed else "as stated"
    read = (
        f"Changed: input {scoring.input.name!r}, within {bounds.low:g} to {bounds.high:g} ({source}). Read: output"
        f" {scoring.output!r}, {scoring.classes} classes."
    )
    lines = [read]
    if scoring.probabilities:
        lines.append(
            "It holds probabilities: the loss is taken of what the last Softmax reads, or of their logarithm where no"
            " Softmax makes them."
        )
    lines.append(
        "A sample counts where it is classified rightly both unchanged and as the example. Stronger attacks may find"
        " more: these are upper bounds of the robust accuracy."
    )
    return tuple(lines)


def attack_to_json(found: Robustness) -> Json:
    """Return all of it as JSON values."""
    threat, bounds, scoring = found.threat, found.bounds, found.scoring
    return {
        "schema_version": SCHEMA_VERSION,
        "samples": found.models[0].clean.samples,
        "models": [
            {
                "name": model.name,
                "path": str(model.path),
                "clean": _share_to_json(model.clean),
                "without_gradient": _share_to_json(model.flat),
            }
            for model in found.models
        ],
        "threat": {
            "norm": threat.norm,
            "eps": list(bounds.eps),
            "clip": [bounds.low, bounds.high],
            "clip_from": "samples" if bounds.observed else "stated",
            "mean": list(threat.mean),
            "std": list(threat.std),
            "pgd": {"steps": threat.steps, "step_size": threat.share, "restarts": threat.restarts},
        },
        "seed": found.seed,
        "input": scoring.input.name,
        "output": scoring.output,
        "classes": scoring.classes,
        "probabilities": scoring.probabilities,
        "robust": [
            {
                "attack": part.place.attack,
                "eps": part.place.eps,
                "made_on": found.models[part.place.made_on].name,
                "scored_on": found.models[part.place.scored_on].name,
                **_share_to_json(part.right),
            }
            for part in found.robust
        ],
        "warnings": list(found.warnings),
    }


def _share_to_json(share: Share) -> Json:
    return {"count": share.count, "percent": share.percent, "interval_percent": list(share.interval)}


def _shown(share: Share) -> str:
    low, high = share.interval
    return f"{share.percent:.1f} ({low:.1f} to {high:.1f})"
