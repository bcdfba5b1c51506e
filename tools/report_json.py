"""A report and its parts as JSON values, with field names that stay while `schema_version` stays."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankfold.budgets import Evaluation
from rankfold.findings import Analysis, Discrepancy, Latency, Report, SelfCheck
from rankfold.tools.limits import Limit
from rankfold.values import Calibration

SCHEMA_VERSION = 1

Json = dict[str, Any]


def to_text(content: Mapping[str, object]) -> str:
    """Return JSON text; numbers that JSON lacks (NaN and the infinities) become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def report_to_json(report: Report, *, limits: Sequence[Limit] = (), commands: Sequence[str] = ()) -> Json:
    """Return the whole report; `commands` are the shell commands that check it with Polygraphy."""
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": dict(report.versions),
        "source": {"path": str(report.source), "sha256": report.source_digest},
        "output": {"path": str(report.output), "sha256": report.output_digest},
        "changed": report.changed,
        "requested": report.plan.made_by,
        "kept": report.plan.kept,
        "settings": dict(report.settings),
        "linear_parameters": asdict(report.linear_parameters),
        "parameters": asdict(report.parameters),
        "bytes": asdict(report.size_bytes),
        "samples": {"calibration": report.calibration_samples, "held_out": report.held_out_samples},
        "outputs": outputs_to_json(report.discrepancy),
        "tried": [asdict(trial) for trial in report.tried],
        "self_check": _self_check_to_json(report.self_check),
        "latency": latency_to_json(report.latency),
        "sites": [asdict(site) for site in report.sites],
        "skipped": [asdict(node) for node in report.skipped],
        "inlined_functions": list(report.inlined),
        "healing": None if report.healing is None else asdict(report.healing),
        "warnings": list(report.warnings),
        "notes": list(report.notes),
        "target": None if report.answer is None else asdict(report.answer),
        "evaluation": _evaluation_to_json(report.evaluation),
        "limits": limits_to_json(limits),
        "polygraphy": list(commands),
    }


def validation_to_json(discrepancy: Discrepancy, *, limits: Sequence[Limit]) -> Json:
    """Return a comparison of two models."""
    return {
        "schema_version": SCHEMA_VERSION,
        "samples": discrepancy.samples,
        "outputs": outputs_to_json(discrepancy),
        "limits": limits_to_json(limits),
    }


def bench_to_json(latency: Sequence[Latency], *, limits: Sequence[Limit]) -> Json:
    """Return the times of two models."""
    return {"schema_version": SCHEMA_VERSION, "latency": latency_to_json(latency), "limits": limits_to_json(limits)}


def analysis_to_json(analysis: Analysis) -> Json:
    """Return what a model holds that can be folded, and what not."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model_digest": analysis.model_digest,
        "foldable_parameters": analysis.foldable_parameters,
        "folded_before": analysis.folded_before,
        "sites": [
            asdict(site) | {"energy_ranks": {f"{share:g}": rank for share, rank in site.energy_ranks.items()}}
            for site in analysis.sites
        ],
        "skipped": [asdict(node) for node in analysis.skipped],
        "inlined_functions": list(analysis.inlined),
        "warnings": list(analysis.warnings),
    }


def calibration_to_json(calibration: Calibration, path: Path) -> Json:
    """Return what a calibration file holds, without the moments."""
    return {
        "schema_version": SCHEMA_VERSION,
        "path": str(path),
        "model_digest": calibration.model_digest,
        "samples": {"calibration": calibration.samples, "held_out": calibration.held_out_samples},
        "tensors": [request.tensor for request in calibration.moments],
        "settings": dict(calibration.settings),
    }


def outputs_to_json(discrepancy: Discrepancy) -> list[Json]:
    """Return one object per output."""
    return [asdict(output) for output in discrepancy.outputs]


def latency_to_json(latency: Sequence[Latency]) -> list[Json]:
    """Return one object per provider and batch."""
    return [asdict(line) for line in latency]


def limits_to_json(limits: Sequence[Limit]) -> list[Json]:
    """Return one object per stated limit."""
    return [asdict(limit) for limit in limits]


def _evaluation_to_json(found: Evaluation | None) -> Json | None:
    return None if found is None else asdict(found) | {"drop": found.drop}


def _self_check_to_json(check: SelfCheck | None) -> Json | None:
    return None if check is None else asdict(check)


def _finite(content: object) -> object:
    """Return the value with every non-finite float in it replaced by None."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
