"""`rankfold attack`: how a classifier, and what was made of it, stand adversarial examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rankfold.robustness import attack
from rankfold.tools.attack_files import PICTURE, write_curves
from rankfold.tools.attack_options import AttackOptions, chosen_threat
from rankfold.tools.attack_text import attack_lines, attack_table, attack_to_json
from rankfold.tools.options import RunOptions, ShowOptions, stage_options
from rankfold.tools.output import print_json, print_tables, print_text, print_warnings
from rankfold.tools.pictures import make_plots_folder
from rankfold.tools.progress import shown_progress

_ATTACK = AttackOptions()
_RUN = RunOptions()
_SHOW = ShowOptions()


def attack_command(
    model: Path,
    /,
    *,
    data: Path,
    candidate: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    plots: Path | None = None,
    options: AttackOptions = _ATTACK,
    run: RunOptions = _RUN,
    show: ShowOptions = _SHOW,
) -> int:
    """Attack a classifier by its own gradients, and by examples made on others; needs torch.

    Args:
        model: The original ONNX model.
        data: Samples with `labels`, one class number each: .npz, folder of .npz, or a Python script with load_data().
        candidate: A model of the same inputs and outputs, such as a compressed one; may be given again.
        plots: Folder for the curves as pictures; needs matplotlib.
    """
    threat = chosen_threat(options)
    if plots is not None:
        make_plots_folder(plots, (PICTURE,))
    with shown_progress(quiet=show.quiet) as progress:
        settings = replace(stage_options(run=run, progress=progress), seed=options.seed)
        found = attack(model, data, candidates=candidate, threat=threat, options=settings)
    notes = () if plots is None else write_curves(plots, found)
    print_warnings(found.warnings)
    if show.json:
        print_json(attack_to_json(found))
        return 0
    print_tables(attack_table(found))
    for line in (*attack_lines(found), *notes):
        print_text(line)
    return 0
