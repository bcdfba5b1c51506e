"""Healing a compressed model: brought nearer to the original, step by step, each kept where held-out error falls."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.capture import check_mask_input
from rankfold.errors import CalibrationDataError, ModelError, OptionsError
from rankfold.findings import Discrepancy, Healing
from rankfold.heal_steps import Step, taken
from rankfold.healing import HOWS, Case, Healed, How
from rankfold.lessons import check_torch
from rankfold.measures import versions
from rankfold.memory import runs_lean
from rankfold.opening import with_outputs
from rankfold.options import Options, check_options
from rankfold.passes.graph_checks import check_measurable
from rankfold.passes.graph_index import index_graph
from rankfold.passes.healable import Healable, find_healable
from rankfold.passes.model_file import Model, input_specs, load_model, output_names
from rankfold.passes.replaced import changed_by, with_values
from rankfold.passes.selection import unmatched
from rankfold.passes.write_model import check_no_input, check_writable, staged, write_model
from rankfold.reading import data_fingerprint, readable_again, told_by_files
from rankfold.runtime_calib.checkpoint import Run as KeptRun
from rankfold.runtime_calib.checkpoint_folder import check_outside, checkpoint_folder
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.feeds import DataLike, Parting, Unit, hold_out, open_source
from rankfold.runtime_calib.labelled_units import unlabelled
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.trials import Run, reference_rows

Array = NDArray[np.generic]
PathLike = str | os.PathLike[str]

PASSES = 4
_CHOOSING_SHARE = 0.25  # of the memory, for the samples that choose, which stay in it
_MOST_CHOOSING = 1024  # samples: more tell no more, and each look at them takes longer


def heal(
    base: PathLike,
    candidate: PathLike,
    data: DataLike,
    *,
    how: How = "refit",
    output: PathLike | None = None,
    passes: int = PASSES,
    options: Options = Options(),
) -> Healed:
    """Bring a compressed model nearer to the original, without a change to its size, its speed or its graph.

    Args:
        base: The original ONNX file.
        candidate: What rankfold made of it.
        data: Samples, as for `compress`; with `labels` for fine-tuning. A part is held out, to choose and to report.
        how: `refit` fits factors and biases in closed form; `distill` then trains them, with the norms and the weights
            that were left dense, toward the original's outputs; `finetune` trains on labels as well. The last two
            need torch.
        output: Where the result goes; by default beside the candidate, `NAME.healed.onnx`.
        passes: Over the data while training.
        options: Batch size, seed, mask, provider, share held out, memory, checkpoint and progress; `include` and
            `exclude` as for the compression: what they put out of its reach stays as it is, where it was not folded.

    Raises:
        RankfoldError: One of its children, with what to do; nothing is written then.
    """
    _check(how, passes, options)
    first, second = load_model(base), load_model(candidate)
    path = Path(output) if output is not None else second.path.with_suffix(".healed.onnx")
    check_outside(options.checkpoint, (path,))
    check_writable(path)
    check_no_input(path, (*first.files, *second.files, data))
    healable = _checked((first, second), data, how, options)
    options = with_outputs(first, options)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rankfold-", ignore_cleanup_errors=True)))
        kept = stack.enter_context(checkpoint_folder(options.checkpoint)) if options.checkpoint else None
        run = None if kept is None else KeptRun(kept, _fingerprint((first, second), data, (how, passes), options))
        if run is not None and told_by_files(data):
            run.begin()
        case, reporting = open_case(first, second, data, folder, options)
        if run is not None and not told_by_files(data):  # a script may give other samples than before
            replace(run, fingerprint=run.fingerprint | {"samples": case.training.digest()}).begin()
        steps = taken(case, healable, (how, passes), kept)
        with staged(path) as place:
            healing = write_healed(case, steps, healable, place)
            after = _compared(case, place, reporting)
        before = _compared(case, second.path, reporting)
    samples = (case.training.samples, case.choosing.samples, reporting.samples)
    skipped = tuple(part for step in steps for part in step.skipped)
    return Healed(path, healing.steps, healing.changed, healing.others, before, after, samples, skipped)


def _check(how: str, passes: int, options: Options) -> None:
    check_options(options)
    if how not in HOWS:
        raise OptionsError(f"how is {how!r}; expected {', '.join(map(repr, HOWS))}")
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
        raise OptionsError(f"passes is {passes!r}; expected a whole number from 1 on")


def _checked(models: tuple[Model, Model], data: DataLike, how: How, options: Options) -> Healable:
    """Return what can be healed; all that can be said without reading the data is said here."""
    base, candidate = models
    check_measurable(base.path, base.proto)
    check_mask_input(base, options.mask)
    if unknown := unmatched(index_graph(base.proto), options.exclude):
        raise OptionsError(f"{base.path}: {unknown[0]!r} matches no node, operator or weight; mend the pattern")
    healable = check_pair(base, candidate, options)
    if how == "finetune":
        check_labelled(base, data)
    if how != "refit":
        check_torch(candidate, healable, options.provider)
    return healable


def check_pair(base: Model, candidate: Model, options: Options) -> Healable:
    """Return what can be healed.

    Raises:
        ModelError: The two do not belong together, or nothing was folded.
    """
    if input_specs(base) != input_specs(candidate) or output_names(base) != output_names(candidate):
        raise ModelError(
            f"{candidate.path}: its inputs and outputs are not those of {base.path}; give the model that it was made of"
        )
    found = find_healable(candidate, include=options.include, exclude=options.exclude)
    if not found.factors:
        raise ModelError(
            f"{candidate.path}: no folds are recorded in its metadata; give a model that `rankfold compress` wrote"
        )
    return found


def check_labelled(base: Model, data: DataLike) -> None:
    """Check before any work that the first samples have labels, where looking at them loses none.

    Raises:
        CalibrationDataError: They have none, or do not fit the model.
    """
    if not readable_again(data):
        return
    first = next(iter(open_source(data, input_specs(base)).units), None)
    if first is not None and first.labels is None:
        raise CalibrationDataError(unlabelled(data, instead="heal by distillation"))


def _fingerprint(
    models: tuple[Model, Model], data: DataLike, course: tuple[str, int], options: Options
) -> dict[str, str]:
    """Return what decides the result, by name."""
    settings = ("batch_size", "holdout", "seed", "mask", "provider", "outputs", "include", "exclude")
    return {
        "original": models[0].digest,
        "candidate": models[1].digest,
        "data": data_fingerprint(data),
        "way of healing": f"{course[0]}, {course[1]} passes",
        "versions": str(sorted(versions().items())),
        **{name.replace("_", " "): str(getattr(options, name)) for name in settings},
    }


def open_case(base: Model, candidate: Model, data: DataLike, folder: Path, options: Options) -> tuple[Case, Shelf]:
    """Return what is healed on, and the samples that only report."""
    with (
        Shelf(folder / "training.bin") as training,
        Shelf(folder / "choosing.bin") as choosing,
        Shelf(folder / "reporting.bin") as reporting,
    ):
        units = options.progress(open_source(data, input_specs(base)).units, "reading", None)
        aside = Parting(choosing, reporting, seed=options.seed)
        for unit in hold_out(units, share=options.holdout, seed=options.seed, spool=aside):
            training.write(unit)
    if not len(choosing):
        raise CalibrationDataError(
            "there are too few held-out samples to choose by and to report on; give more data, or a larger --holdout"
        )
    batches = _first(choosing, options)
    loaded = [choosing.batch(numbers) for numbers in batches]
    rows = reference_rows(
        base.path,
        [feed for feed, _ in loaded],
        metrics=dict.fromkeys(options.outputs or output_names(base), "relative_l2"),
        padding=options.mask,
        run=Run(options.provider, runs_lean(base, options)),
    )
    return Case(base, candidate, training, rows, tuple(labels for _, labels in loaded), folder, options), reporting


def _first(choosing: Shelf, options: Options) -> list[list[int]]:
    """Return the batches that choose: all, or as many as a share of the memory holds."""
    unit: Unit = choosing.unit(0)
    each = sum(array.nbytes for array in unit.feed.values())
    room = int(_CHOOSING_SHARE * options.memory_bytes / max(1, each))
    return choosing.batches(options.batch_size, order=range(max(1, min(len(choosing), room, _MOST_CHOOSING))))


def write_healed(case: Case, steps: tuple[Step, ...], healable: Healable, place: Path) -> Healing:
    """Write the candidate with what the last step left, and return what was done."""
    values, candidate = steps[-1].values, case.candidate
    changed = changed_by(candidate, values)
    others = tuple(name for name in changed if name not in healable.factors)
    final = with_values(candidate, {name: values[name] for name in changed}, recorded=others)
    write_model(final if changed else None, candidate, place)
    return Healing(tuple(step.told for step in steps), changed, others)


def _compared(case: Case, path: Path, reporting: Shelf) -> Discrepancy:
    options = case.options
    feeds = options.progress(
        reporting.feeds(options.batch_size), "comparing", len(reporting.batches(options.batch_size))
    )
    return compare(case.base.path, path, feeds, outputs=options.outputs, provider=options.provider, lean=case.run.lean)
