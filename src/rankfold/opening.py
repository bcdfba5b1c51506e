"""Opening a model for folding: checked, its sites found, local functions put in line where that uncovers some."""

from __future__ import annotations

import os
from dataclasses import replace

from rankfold.errors import ModelError
from rankfold.options import Options, check_options
from rankfold.passes.inline import with_functions_inline
from rankfold.passes.model_file import Model, load_model, numeric_outputs, output_names
from rankfold.passes.sites import Scan, find_sites


def open_model(path: str | os.PathLike[str], options: Options) -> tuple[Model, Scan]:
    """Return a model and its sites.

    Raises:
        OptionsError: A setting makes no sense.
        ModelError: The model cannot be used.
    """
    check_options(options)
    model = load_model(path)
    scan = _scan(model, options)
    flat = with_functions_inline(model)
    if flat is model:
        return model, scan
    uncovered = _scan(flat, options)
    return (flat, uncovered) if _foldable(uncovered) > _foldable(scan) else (model, scan)


def with_outputs(model: Model, options: Options) -> Options:
    """Return the options with the outputs to compare checked, or chosen: those that can hold numbers.

    Raises:
        ModelError: One that is asked for does not exist, or there are none with numbers.
    """
    names = output_names(model)
    unknown = [name for name in options.outputs if name not in names]
    if unknown:
        raise ModelError(f"{model.path}: there is no output {unknown[0]!r}; the outputs are {', '.join(names)}")
    chosen = options.outputs or numeric_outputs(model)
    if not chosen:
        raise ModelError(
            f"{model.path}: none of its outputs ({', '.join(names)}) holds numbers that could be compared; give a model"
            " that has such an output, as a classifier exported without its ZipMap has"
        )
    return options if chosen == names else replace(options, outputs=chosen)


def output_warnings(model: Model) -> tuple[str, ...]:
    """Return a warning for each output that cannot be compared."""
    left = [name for name in output_names(model) if name not in numeric_outputs(model)]
    return tuple(f"output {name!r} holds no numbers and was not compared" for name in left)


def _scan(model: Model, options: Options) -> Scan:
    return find_sites(model, include=options.include, exclude=options.exclude)


def _foldable(scan: Scan) -> int:
    return len(scan.sites) + len(scan.excluded)
