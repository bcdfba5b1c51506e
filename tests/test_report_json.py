"""JSON of reports: fields that others read by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_examples import REPORT

from rankfold.findings import Analysis, SiteSummary
from rankfold.tools.limits import error_limit
from rankfold.tools.report_json import (
    analysis_to_json,
    bench_to_json,
    calibration_to_json,
    report_to_json,
    to_text,
    validation_to_json,
)
from rankfold.values import Calibration


def parsed(content: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(to_text(content), parse_constant=refuse_constant)
    return result


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_a_report_has_the_fields_that_are_promised() -> None:
    found = parsed(report_to_json(REPORT))
    assert found["schema_version"] == 1
    assert found["versions"] == {"rankfold": "0.1.0", "onnxruntime": "1.31.1"}
    assert found["source"] == {"path": "models/base.onnx", "sha256": "a" * 64}
    assert found["output"] == {"path": "out/small.onnx", "sha256": "b" * 64}
    assert found["linear_parameters"] == {"before": 6816, "after": 3008}
    assert found["parameters"] == {"before": 7000, "after": 3192}
    assert found["bytes"] == {"before": 28_500, "after": 14_250}
    assert {name: found["outputs"][0][name] for name in ("name", "relative_l2", "cosine", "max_abs")} == {
        "name": "logits",
        "relative_l2": 0.125,
        "cosine": 0.9921875,
        "max_abs": 0.75,
    }
    promised = ("provider", "batch", "before_ms", "after_ms", "speedup")
    assert [found["latency"][1][name] for name in promised] == ["cpu", 8, 20.0, 10.0, 2.0]
    assert [site["rank"] for site in found["sites"]] == [8, 16, None]
    assert found["skipped"][0] == {
        "node": "patch|conv",
        "op_type": "Conv",
        "reason": "convolutions are not folded yet",
    }


def test_a_report_says_more_than_what_is_promised() -> None:
    limits = error_limit(REPORT.discrepancy, 0.1)
    found = parsed(report_to_json(REPORT, limits=limits, commands=["polygraphy run a", "polygraphy run b"]))
    assert found["changed"] is True
    assert found["requested"] == "keep 0.5"
    assert found["kept"] == 3008 / 6816
    assert found["samples"] == {"calibration": 1600, "held_out": 400}
    check = {"held_out": 3e-7, "unseen": 4e-8, "tolerance": 2.4e-4, "checked": 2, "folded": 2, "pivoted": 2e-8}
    assert found["self_check"] == check
    assert found["warnings"] == list(REPORT.warnings)
    assert found["polygraphy"] == ["polygraphy run a", "polygraphy run b"]
    (limit,) = found["limits"]
    assert (limit["option"], limit["found"], limit["allowed"], limit["exceeded"]) == ("--max-error", 0.125, 0.1, True)


def test_numbers_that_json_lacks_become_null() -> None:
    features = parsed(report_to_json(REPORT))["outputs"][1]
    assert features["cosine"] is None
    assert features["max_rel"] is None
    assert features["top1_agreement"] is None
    assert features["relative_l2"] == 0.0625


def test_a_comparison_and_times_keep_the_reports_names() -> None:
    whole = parsed(report_to_json(REPORT))
    comparison = parsed(validation_to_json(REPORT.discrepancy, limits=()))
    assert comparison == {"schema_version": 1, "samples": 400, "outputs": whole["outputs"], "limits": []}
    times = parsed(bench_to_json(REPORT.latency, limits=()))
    assert times == {"schema_version": 1, "latency": whole["latency"], "limits": []}


def test_an_analysis_lists_sites_and_skips() -> None:
    site = SiteSummary("fc", "MatMul", 48, 64, 2, 27, 40, {0.9: 12, 0.999: 33}, 320)
    found = parsed(analysis_to_json(Analysis("c" * 64, (site,), REPORT.skipped, 1, 3072, ("few rows",))))
    assert found["sites"][0]["energy_ranks"] == {"0.9": 12, "0.999": 33}
    assert found["sites"][0]["uses"] == 2
    assert [node["node"] for node in found["skipped"]] == ["patch|conv", "scores", "mix"]
    assert (found["folded_before"], found["foldable_parameters"], found["warnings"]) == (1, 3072, ["few rows"])


def test_a_calibration_is_told_without_its_moments() -> None:
    calibration = Calibration("c" * 64, {}, {}, 320, 80, {}, {"seed": 3})
    assert parsed(calibration_to_json(calibration, Path("cal.npz"))) == {
        "schema_version": 1,
        "path": "cal.npz",
        "model_digest": "c" * 64,
        "samples": {"calibration": 320, "held_out": 80},
        "tensors": [],
        "settings": {"seed": 3},
    }


def test_notes_are_there() -> None:
    assert report_to_json(replace(REPORT, notes=("one", "two")))["notes"] == ["one", "two"]
