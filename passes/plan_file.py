"""A rank plan as JSON text: made by one run, read and edited by people, used by another run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, get_args

from rankfold.errors import PlanError
from rankfold.projections import Projection
from rankfold.values import Form, RankPlan, SiteRank

SCHEMA_VERSION = 1
FORMS = get_args(Form)


def plan_to_json(plan: RankPlan) -> str:
    """Return the plan as indented JSON, one line per site, with its totals for the reader."""
    head = {
        "schema_version": SCHEMA_VERSION,
        "model_digest": plan.model_digest,
        "made_by": plan.made_by,
        "fixed_parameters": plan.fixed_parameters,
        "fixed_dense_parameters": plan.fixed_dense_parameters,
        "parameters_before": plan.parameters_before,
        "parameters_after": plan.parameters_after,
        "kept": round(plan.kept, 6),
    }
    lines = ",\n    ".join(json.dumps(_line(line)) for line in plan.sites)
    return json.dumps(head, indent=2)[:-2] + f',\n  "sites": [\n    {lines}\n  ]\n}}\n'


def plan_from_json(text: str) -> RankPlan:
    """Return the plan a text holds; its totals are worked out anew, so ranks may have been edited.

    Raises:
        PlanError: The text is no plan, or of another schema.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        if content["schema_version"] != SCHEMA_VERSION:
            raise PlanError(
                f"the plan has schema_version {content['schema_version']}, expected {SCHEMA_VERSION}; make it anew"
            )
        return RankPlan(
            model_digest=str(content["model_digest"]),
            made_by=str(content["made_by"]),
            fixed_parameters=int(content["fixed_parameters"]),
            fixed_dense_parameters=int(content["fixed_dense_parameters"]),
            sites=tuple(_site_rank(entry) for entry in content["sites"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PlanError(
            f"not a rank plan: {type(error).__name__} {error}; expected JSON as `rankfold plan` writes it"
        ) from error


def plan_digest(plan: RankPlan) -> str:
    """Return a short sha256 of the plan's ranks, forms and projections, as it is recorded in the folded model."""
    ranks = json.dumps([plan.model_digest, [_decided(line) for line in plan.sites]])
    return hashlib.sha256(ranks.encode()).hexdigest()[:16]


def _decided(line: SiteRank) -> list[object]:
    """Return what is decided of a site; of a plain pair of best approximation, what it always was."""
    decided: list[object] = [line.site, line.rank, *([line.form] if line.form != "pair" else [])]
    if line.projection is not None and line.rank is not None:
        decided.append(asdict(line.projection))
    return decided


def _line(line: SiteRank) -> dict[str, Any]:
    content = asdict(line)
    if line.projection is None:
        del content["projection"]
    return content


def _projection(entry: dict[str, Any] | None, site: str) -> Projection | None:
    if entry is None:
        return None
    for name in ("inputs", "outputs"):
        if isinstance(entry[name], bool) or not isinstance(entry[name], int):
            raise TypeError(f"site {site!r} has a projection on {entry[name]!r} {name}; expected a whole number")
    if not isinstance(entry["centred"], bool):
        raise TypeError(f"site {site!r} has a projection with centred {entry['centred']!r}; expected true or false")
    return Projection(entry["inputs"], entry["outputs"], entry["centred"])


def _site_rank(entry: dict[str, Any]) -> SiteRank:
    rank = entry["rank"]
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise TypeError(f"site {entry['site']!r} has rank {rank!r}; expected a whole number or null")
    form = entry.get("form", "pair")
    if form not in FORMS:
        raise ValueError(f"site {entry['site']!r} has form {form!r}; expected one of {', '.join(FORMS)}")
    return SiteRank(
        site=str(entry["site"]),
        in_features=int(entry["in_features"]),
        out_features=int(entry["out_features"]),
        rank=rank,
        predicted_error=float(entry["predicted_error"]),
        blocks=int(entry.get("blocks", 1)),
        form=form,
        projection=_projection(entry.get("projection"), str(entry["site"])),
    )
