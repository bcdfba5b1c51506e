"""`rankfold compress`: the whole way, from a model and data to a proven smaller model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rankfold.errors import PlanError
from rankfold.passes.plan_file import plan_from_json
from rankfold.tools.compression import Request, run_compression
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
    check_one_request,
    stage_options,
)
from rankfold.tools.output import exit_code, print_compression, print_json, print_text, print_warnings
from rankfold.tools.report_json import report_to_json
from rankfold.values import RankPlan

_NO_BUDGET = Budget()
_NO_PLAN = PlanFile()
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
    selection: Selection = _ALL,
    choice: OutputChoice = _ALL_OUTPUTS,
    calibration: CalibrationOptions = _CALIBRATION,
    healing: HealOptions = _NO_HEALING,
    limits: Limits = _NO_LIMITS,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Make a model smaller and faster, and measure on held-out data what that costs.

    Args:
        model: The ONNX model.
    """
    check_one_request(budget, plan_file.plan)
    request = Request(
        model=model,
        data=files.data,
        out=files.out,
        keep=budget.keep,
        energy=budget.energy,
        plan=read_plan(plan_file.plan) if plan_file.plan else None,
        report=files.report,
    )
    options = with_healing(stage_options(run=run, calibration=calibration, selection=selection, choice=choice), healing)
    done = run_compression(request, limits=limits, options=options, quiet=show.quiet)
    print_warnings(done.report.warnings)
    if show.json:
        print_json(report_to_json(done.report, limits=done.limits, commands=done.commands))
        return exit_code(done.limits)
    print_compression(done)
    if done.report.inlined:
        print_text(f"Local functions put in line: {', '.join(done.report.inlined)}")
    if files.report:
        print_text(f"Report: {files.report / 'report.md'}\nCheck it with Polygraphy:")
        print_text("\n".join(f"  {command}" for command in done.commands))
    return exit_code(done.limits)


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
