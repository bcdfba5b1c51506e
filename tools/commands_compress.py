"""`rankfold compress`: the whole way, from a model and data to a proven smaller model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rankfold.errors import PlanError
from rankfold.passes.plan_file import plan_from_json
from rankfold.tools.compression import Compression, Request, run_compression
from rankfold.tools.heal_options import HealOptions, with_healing
from rankfold.tools.options import (
    Budget,
    CalibrationOptions,
    CompressFiles,
    Limits,
    OutputChoice,
    PlanFile,
    RunOptions,
    Selection,
    ShowOptions,
    UtilizedBudget,
    stage_options,
)
from rankfold.tools.output import exit_code, print_compression, print_json, print_text, print_warnings
from rankfold.tools.report_json import report_to_json
from rankfold.tools.target_options import SearchOptions, Targets, check_one_budget, chosen_evaluate, with_search
from rankfold.values import RankPlan

_NO_BUDGET = Budget()
_NO_PLAN = PlanFile()
_NO_TARGETS = Targets()
_NOT_UTILIZED = UtilizedBudget()
_SEARCH = SearchOptions()
_ALL = Selection()
_ALL_OUTPUTS = OutputChoice()
_CALIBRATION = CalibrationOptions()
_NO_HEALING = HealOptions()
_NO_LIMITS = Limits()
_RUN = RunOptions()
_SHOW = ShowOptions()


def compress(
    model: Path,
    /,
    *,
    files: CompressFiles,
    budget: Budget = _NO_BUDGET,
    plan_file: PlanFile = _NO_PLAN,
    targets: Targets = _NO_TARGETS,
    utilized: UtilizedBudget = _NOT_UTILIZED,
    selection: Selection = _ALL,
    choice: OutputChoice = _ALL_OUTPUTS,
    calibration: CalibrationOptions = _CALIBRATION,
    search: SearchOptions = _SEARCH,
    healing: HealOptions = _NO_HEALING,
    limits: Limits = _NO_LIMITS,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Make a model smaller and faster, and measure on held-out data what that costs.

    Args:
        model: The ONNX model.
    """
    aimed = check_one_budget(budget, plan_file.plan, targets, limits, utilized)
    request = Request(
        model=model,
        data=files.data,
        out=files.out,
        keep=budget.keep,
        energy=budget.energy,
        plan=read_plan(plan_file.plan) if plan_file.plan else None,
        max_error=limits.max_error if aimed else None,
        max_drop=targets.max_drop,
        evaluate=chosen_evaluate(model, targets, batch_size=run.batch_size),
        speedup=targets.speedup,
        utilized=utilized.utilized,
        report=files.report,
    )
    limits = replace(limits, max_error=None) if aimed else limits
    options = stage_options(run=run, calibration=calibration, selection=selection, choice=choice)
    options = replace(with_healing(with_search(options, search), healing), centred=not utilized.about_zero)
    done = run_compression(request, limits=limits, options=options, quiet=show.quiet)
    _show(done, files.report, as_json=show.json)
    return exit_code(done.limits)


def _show(done: Compression, report: Path | None, *, as_json: bool) -> None:
    print_warnings(done.report.warnings)
    if as_json:
        print_json(report_to_json(done.report, limits=done.limits, commands=done.commands))
        return
    print_compression(done)
    if done.report.inlined:
        print_text(f"Local functions put in line: {', '.join(done.report.inlined)}")
    if report:
        print_text(f"Report: {report / 'report.md'}\nCheck it with Polygraphy:")
        print_text("\n".join(f"  {command}" for command in done.commands))


def read_plan(path: Path) -> RankPlan:
    """Return the plan that a file holds.

    Raises:
        PlanError: The file cannot be read or holds no plan.
    """
    try:
        return replace(plan_from_json(path.read_text(encoding="utf-8")), made_by=f"plan {path.name}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError(f"{path}: the plan cannot be read ({reason}); give a plan.json that rankfold wrote") from error
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
