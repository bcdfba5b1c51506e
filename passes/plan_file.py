"""A rank plan as JSON text: made by one run, read and edited by people, used by another run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any, get_args

from rankfold.errors import PlanError
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
    lines = ",\n    ".join(json.dumps(asdict(line)) for line in plan.sites)
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
    """Return a short sha256 of the plan's ranks and forms, as it is recorded in the folded model."""
    forms = ([line.site, line.rank, *([line.form] if line.form != "pair" else [])] for line in plan.sites)
    ranks = json.dumps([plan.model_digest, list(forms)])  # a plan of pairs alone has the digest it always had
    return hashlib.sha256(ranks.encode()).hexdigest()[:16]


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
    )
