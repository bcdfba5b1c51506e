"""What a report says of a target, in sentences: how close the plan came, and what one step further would have cost."""

from __future__ import annotations

from rankfold.budgets import Answer, Evaluation
from rankfold.findings import Report


def target_lines(report: Report) -> tuple[str, ...]:
    """Return one sentence or two for each part there is; none where no target was stated."""
    lines = []
    if report.answer is not None:
        lines.append(_reached(report.answer, report))
        if further := _further(report.answer):
            lines.append(further)
    if report.evaluation is not None:
        lines.append(_evaluated(report.evaluation))
    return tuple(lines)


def _reached(answer: Answer, report: Report) -> str:
    plans = f"{answer.measured:,} plans were measured" if answer.measured else "no plan was tried"
    if answer.target == "speedup":
        return (
            f"Target: the FLOPs of the foldable layers by a factor of {answer.asked:g}; the plan reaches"
            f" {answer.found:.3f} in FLOPs, which are counted, not timed. {plans.capitalize()}."
        )
    if answer.target == "max_error":
        worst = max((output.relative_l2 for output in report.discrepancy.outputs), default=float("nan"))
        return (
            f"Target: relative L2 of the worst output at most {answer.asked:g}; it is {answer.found:.4g} on the"
            f" held-out samples that chose the plan, and {worst:.4g} on those that decided nothing. {plans}."
        )
    return (
        f"Target: a score at most {answer.asked:g} lower; with the plan chosen it was {_lower(answer.found)}. {plans}."
    )


def _further(answer: Answer) -> str | None:
    if answer.next_kept is None or answer.next_found is None:
        return None
    found = f"{answer.next_found:.4g}" if answer.target == "max_error" else _lower(answer.next_found)
    return f"One step further: {100 * answer.next_kept:.2f} % kept would have been {found}."


def _evaluated(found: Evaluation) -> str:
    rows = "" if found.rows is None else f" on {found.rows:,} samples"
    interval = ""
    if found.interval is not None:
        interval = f" (95 % interval of the drop: {found.interval[0]:.4g} to {found.interval[1]:.4g})"
    return (
        f"Score of the written model{rows}: {found.after:.6g}, of the original {found.before:.6g}:"
        f" {_lower(found.drop)}{interval}."
    )


def _lower(drop: float) -> str:
    return f"{drop:.4g} lower" if drop >= 0 else f"{-drop:.4g} higher"
