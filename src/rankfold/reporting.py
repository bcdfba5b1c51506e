"""Measuring a result against the original: everything that a report says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from rankfold.decide import Decision, whole_bases
from rankfold.evaluation import MaxDrop, compared, evaluation_warning, scored
from rankfold.findings import Report
from rankfold.measures import sizes, versions
from rankfold.memory import memory_notes, runs_lean
from rankfold.opening import output_warnings
from rankfold.options import Options
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.sites import Scan
from rankfold.proof import first_batch, latencies, self_check
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.feeds import read_spool
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.trials import Run, open_trial
from rankfold.stated import Budget


def report_on(model: Model, scan: Scan, decision: Decision, places: tuple[Path, Path], options: Options) -> Report:
    """Measure the result against the original; `places` are the written model and the held-out batches."""
    path, spool = places
    plan, calibration, written, feed = decision.plan, decision.calibration, load_model(path), first_batch(spool)
    lean = runs_lean(model, options)
    total = -(-calibration.held_out_samples // options.batch_size)
    batches = options.progress(read_spool(spool), "comparing", total)
    linear, parameters, size = sizes(model.given, written, plan)
    return Report(
        source=model.given.path,
        output=path,
        source_digest=model.digest,
        output_digest=written.digest,
        versions=versions(),
        settings=calibration.settings | {"made_by": plan.made_by, **_patterns(options)},
        changed=bool(plan.folded),
        plan=plan,
        linear_parameters=linear,
        parameters=parameters,
        size_bytes=size,
        calibration_samples=calibration.samples,
        held_out_samples=calibration.held_out_samples,
        discrepancy=compare(
            model.given.path, path, batches, outputs=options.outputs, provider=options.provider, lean=lean
        ),
        self_check=self_check(
            model, scan, plan, feed, spectra=decision.spectra, whole=whole_bases(model, scan, decision), options=options
        ),
        latency=latencies(model.given, path, feed, lean=lean, options=options),
        sites=decision.outcomes,
        skipped=scan.skipped,
        warnings=(*decision.warnings, *output_warnings(model)),
        inlined=model.inlined if plan.folded else (),
        tried=decision.tried,
        answer=decision.answer,
        notes=(*memory_notes(model, calibration, options), *decision.sensitivity.notes, *decision.notes),
    )


def with_evaluation(report: Report, budget: Budget, decision: Decision, options: Options) -> Report:
    """Return the report with what the written model scores in a session of its own, where a score was asked for."""
    if decision.before is None or not isinstance(budget, MaxDrop):
        return report
    session = open_trial(report.output, run=Run(options.provider))
    after = scored(budget.evaluate, partial(run_outputs, session))
    found = compared(decision.before, after, limit=budget.limit, seed=options.seed)
    warning = evaluation_warning(found)
    return replace(report, evaluation=found, warnings=(*report.warnings, *([warning] if warning else [])))


def _patterns(options: Options) -> dict[str, str | None]:
    """Return what was included and excluded, for the report."""
    return {"include": ", ".join(options.include) or None, "exclude": ", ".join(options.exclude) or None}
