"""Healing as the last part of a compression: on the same data, split alike."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rankfold.errors import OptionsError
from rankfold.findings import Healing
from rankfold.heal_model import check_labelled, check_pair, open_case, write_healed
from rankfold.heal_steps import taken
from rankfold.healing import How
from rankfold.lessons import check_torch
from rankfold.options import Options
from rankfold.passes.healable import Healable
from rankfold.passes.model_file import Model, load_model
from rankfold.reading import readable_again
from rankfold.runtime_calib.feeds import DataLike


def check_healing(base: Model, data: DataLike, options: Options) -> None:
    """Check before any work that what is asked for can be done.

    Raises:
        CalibrationDataError: Labels are needed, and there are none.
        OptionsError: The data can be read once only.
        ModelError: torch cannot run the graph; a fold adds nothing to it that torch lacks.
        RuntimeUnavailableError: torch is needed and not there.
    """
    if options.heal == "none":
        return
    if not readable_again(data):
        raise OptionsError(
            "healing reads the data a second time, and this data can be read once only; give a path to arrays or a"
            " list, or heal the result by itself with `rankfold heal`"
        )
    if options.heal == "finetune":
        check_labelled(base, data)
    if options.heal != "refit":
        check_torch(base, Healable((), ()), options.provider)


def heal_inside(base: Model, place: Path, data: DataLike, work: Path, options: Options) -> Healing | None:
    """Heal a model that was just written, in its place; None where nothing was folded or healing was not asked for.

    Args:
        base: The original.
        place: The model, alone in its folder with its data file.
        data: What it was calibrated on.
        work: Folder for what is written on the way.
        options: How to heal, and all that decides how data is split.

    Raises:
        RankfoldError: One of its children, as `rankfold.heal`.
    """
    how = options.heal
    if how == "none":
        return None
    candidate = load_model(place)
    healable = check_pair(base, candidate, options)
    if how != "refit":
        check_torch(candidate, healable, options.provider)
    folder, fresh = work / "healing", place.parent / "healed"
    folder.mkdir(exist_ok=True)
    fresh.mkdir()
    case, _ = open_case(base, candidate, data, folder, options)
    course: tuple[How, int] = (how, options.heal_passes)
    found = write_healed(case, taken(case, healable, course, None), healable, fresh / place.name)
    for old in candidate.files:
        old.unlink()
    for new in fresh.iterdir():
        os.replace(new, place.parent / new.name)
    fresh.rmdir()
    shutil.rmtree(folder)
    return found
