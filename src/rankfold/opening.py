"""Opening a model for folding: checked, its sites found, local functions put in line where that uncovers some."""

from __future__ import annotations

import os

from rankfold.options import Options, check_options
from rankfold.passes.inline import with_functions_inline
from rankfold.passes.model_file import Model, load_model
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


def _scan(model: Model, options: Options) -> Scan:
    return find_sites(model, include=options.include, exclude=options.exclude)


def _foldable(scan: Scan) -> int:
    return len(scan.sites) + len(scan.excluded)
