"""The way as a whole, and its stages by themselves: analyze, calibrate, plan, compress, validate, bench."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rankfold import __version__
from rankfold.answers import original_score
from rankfold.budgets import Utilized
from rankfold.calibration_file import load_calibration as load_calibration
from rankfold.calibration_file import save_calibration as save_calibration
from rankfold.capture import capture, captured, work_folder
from rankfold.cautions import pattern_warnings
from rankfold.decide import Grounds, decide, grounds_of, site_spectra, whole_bases
from rankfold.errors import PlanError
from rankfold.evaluation import Evaluate, MaxDrop
from rankfold.findings import Analysis, Discrepancy, Latency, Report
from rankfold.frontier import Frontier as Frontier
from rankfold.frontier import frontier as frontier
from rankfold.heal_inside import check_healing, heal_inside
from rankfold.measures import analysis_of
from rankfold.memory import runs_lean
from rankfold.opening import open_model, with_outputs
from rankfold.options import Options as Options
from rankfold.options import check_options
from rankfold.passes.fold import fold
from rankfold.passes.graph_checks import check_measurable
from rankfold.passes.model_file import Model, input_specs, load_model
from rankfold.passes.plan import check_plan, site_curves
from rankfold.passes.plan import make_plan as plan_for
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import check_no_input, check_writable, staged, write_model
from rankfold.projecting import prepared, projected_factors_of
from rankfold.proof import latencies
from rankfold.reporting import report_on, with_evaluation
from rankfold.runtime_calib.checkpoint_folder import check_outside
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.feeds import DataLike, batched, open_source
from rankfold.runtime_calib.threads import limited_threads
from rankfold.sensing import gradients_hindered, sense
from rankfold.stated import Budget, Stated, searches, stated_budget
from rankfold.utilization import Utilization as Utilization
from rankfold.utilization import utilization as utilization
from rankfold.values import Calibration, Energy, Keep, RankPlan

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Result:
    """A compression: what was measured, the plan, the model written, and the held-out batches if they were kept."""

    report: Report
    plan: RankPlan
    path: Path
    held_out: Path | None


def analyze(model: PathLike, data: DataLike | None = None, *, options: Options = Options()) -> Analysis:
    """Return the sites of a model, the nodes left alone with the reason, and with data the rank each site uses.

    Raises:
        ModelError: The model cannot be used.
        CalibrationDataError: The data does not fit.
    """
    loaded, scan = open_model(model, options)
    spectra: Mapping[str, Spectrum] = {}
    warnings = pattern_warnings(scan, options)
    if data is not None:
        with captured(loaded, scan, data, options) as calibration:
            spectra, warnings = site_spectra(loaded, scan, calibration, options)
    return analysis_of(loaded, scan, spectra, warnings)


def calibrate(
    model: PathLike, data: DataLike, *, output: PathLike | None = None, options: Options = Options()
) -> Calibration:
    """Return the moments of every site's rows, collected in one pass over the data, or in several for want of memory.

    Args:
        model: The ONNX file.
        data: Calibration data: a path, or an iterable of feed dicts.
        output: Where to save them too, before a checkpoint is removed.
        options: Everything else.

    Raises:
        ModelError: The model cannot be used.
        CalibrationDataError: The data does not fit.
        OutputError: `output` cannot be written.
    """
    check_outside(options.checkpoint, (None if output is None else Path(output), options.held_out_to))
    loaded, scan = open_model(model, options)
    with captured(loaded, scan, data, options) as calibration:
        if output is not None:
            save_calibration(calibration, output)
        return calibration


def make_plan(
    model: PathLike, calibration: Calibration, *, budget: Keep | Energy, options: Options = Options()
) -> RankPlan:
    """Return the rank plan that meets a budget; the model is not run.

    Raises:
        PlanError: The calibration is another model's, or the budget cannot be met.
    """
    loaded, scan = open_model(model, options)
    if calibration.model_digest != loaded.digest:
        raise PlanError(f"the calibration was collected on another model than {loaded.path}; collect it on this one")
    missing = [site.name for site in scan.sites if not calibration.moments.keys() >= set(site.requests)]
    if missing:
        raise PlanError(
            f"the calibration holds nothing for site {missing[0]!r}; use the --include and --exclude patterns and the"
            " version it was collected with, or collect it anew"
        )
    spectra, _ = site_spectra(loaded, scan, calibration, options)
    return plan_for(scan, site_curves(scan, spectra), budget, model_digest=loaded.digest)


def compress(  # the public way in: one budget of several, and where the result goes
    model: PathLike,
    data: DataLike,
    *,
    keep: float | None = None,
    energy: float | None = None,
    plan: RankPlan | None = None,
    max_error: float | None = None,
    max_drop: float | None = None,
    evaluate: Evaluate | None = None,
    speedup: float | None = None,
    utilized: float | None = None,
    output: PathLike | None = None,
    options: Options = Options(),
) -> Result:
    """Fold a model's linear weights by what the data shows of them, write the result, and prove it.

    Args:
        model: The ONNX file; it is not changed.
        data: Calibration data: a path, or an iterable of feed dicts. An iterable is read once.
        keep: Share of the parameters of all foldable weights to keep, in (0, 1].
        energy: Or: share of each site's output energy to keep, in (0, 1].
        plan: Or: a plan made before.
        max_error: Or: the largest relative L2 that any compared output may have, on held-out samples that choose.
        max_drop, evaluate: Or: how much less than the original the result may score, and the score: a function that is
            given `predict` (feed dict to outputs by name) and returns a number, or one per sample; higher is better.
        speedup: Or: by how much the FLOPs of the foldable layers shall fall, above 1.
        utilized: Or: share of the variance of each site's inputs and outputs that projections on them keep, in (0, 1].
        output: Where the result goes; by default beside the model, `NAME.folded.onnx`.
        options: Everything else.

    Raises:
        RankfoldError: One of its children, with what to do; nothing is written then.
    """
    budget = stated_budget(Stated(keep, energy, plan, max_error, max_drop, evaluate, speedup, utilized))
    loaded, scan = open_model(model, options)
    check_measurable(loaded.given.path, loaded.given.proto)
    path = Path(output) if output is not None else loaded.given.path.with_suffix(".folded.onnx")
    _check_place(path, loaded, data, options)
    options = with_outputs(loaded, options)
    check_healing(loaded.given, data, options)
    if isinstance(budget, RankPlan):
        check_plan(budget, scan, model_digest=loaded.digest)
    scan, budget = prepared(scan, budget, options)
    budget = _with_score(budget, loaded, options)
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder, limited_threads(), work_folder(options) as work:
        spool = options.held_out_to or Path(folder) / "held_out.npz"
        decision = decide(_grounds((loaded, scan), data, budget, (spool, work, Path(folder)), options), budget)
        whole = whole_bases(loaded, scan, decision)
        between = projected_factors_of(loaded, scan, decision.calibration)
        with staged(path) as place:
            folded = fold(
                loaded, scan, decision.plan, decision.spectra, version=__version__, whole=whole, projected=between
            )
            write_model(folded, loaded if folded else loaded.given, place)
            healing = heal_inside(loaded.given, place, data, Path(folder), options) if folded else None
            report = report_on(loaded, scan, decision, (place, spool), options)
            report = with_evaluation(report, budget, decision, options)
    return Result(replace(report, output=path, healing=healing), decision.plan, path, options.held_out_to)


def _with_score(budget: Budget, model: Model, options: Options) -> Budget:
    """Return a budget with what the original scores: a score that cannot be told shall not waste a calibration."""
    if not isinstance(budget, MaxDrop):
        return budget
    return replace(budget, before=original_score(model, budget.evaluate, options))


def _grounds(
    opened: tuple[Model, Scan], data: DataLike, budget: Budget, places: tuple[Path, Path, Path], options: Options
) -> Grounds:
    """Return what a decision is made on; `places` are for the held-out batches, for sums and for gradients."""
    model, scan = opened
    spool, work, folder = places
    if isinstance(budget, Energy | Utilized):
        options = replace(options, basis="data")  # its shares are of energy and variance themselves
    sampled = work / "sampled.npz" if gradients_hindered(model, options) is None else None
    choosing = work / "choosing.npz" if searches(budget, options) or options.heal != "none" else None
    calibration = capture(model, scan, data, spool, work=work, options=options, choosing=choosing, sampled=sampled)
    sensitivity = sense(model, scan, sampled, folder / "gradients", options=options)
    tried_on = choosing if searches(budget, options) else None
    return grounds_of(model, scan, calibration, options, choosing=tried_on, sensitivity=sensitivity, budget=budget)


def _check_place(path: Path, model: Model, data: DataLike, options: Options) -> None:
    check_outside(options.checkpoint, (path, options.held_out_to))
    check_writable(path)
    check_no_input(path, (*model.given.files, data))


def validate(base: PathLike, candidate: PathLike, data: DataLike, *, options: Options = Options()) -> Discrepancy:
    """Compare two models over all samples of the data, output by output.

    Raises:
        ModelError: A model cannot be used, or their outputs differ in name or shape.
        CalibrationDataError: The data does not fit.
    """
    check_options(options)
    first, second = load_model(base), load_model(candidate)
    source = open_source(data, input_specs(first))
    options = with_outputs(first, options)
    batches = options.progress(batched(source.units, options.batch_size), "comparing", None)
    lean = runs_lean(first, options)
    return compare(first.path, second.path, batches, outputs=options.outputs, provider=options.provider, lean=lean)


def bench(base: PathLike, candidate: PathLike, data: DataLike, *, options: Options = Options()) -> tuple[Latency, ...]:
    """Time two models, interleaved in one process, at batch 1 and at the batch size, on the first samples.

    Raises:
        ModelError: A model cannot be used.
        CalibrationDataError: The data does not fit, or holds no samples.
    """
    check_options(options)
    first, second = load_model(base), load_model(candidate)
    feed = next(batched(open_source(data, input_specs(first)).units, options.batch_size))
    return latencies(first, second.path, feed, lean=runs_lean(first, options), options=options)
