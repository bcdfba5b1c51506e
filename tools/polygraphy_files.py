"""The proof as Polygraphy commands: a data loader script beside the held-out data, and the commands that use it."""

from __future__ import annotations

import shlex
from pathlib import Path

from rankfold.errors import OutputError
from rankfold.findings import Discrepancy
from rankfold.values import Provider

LOADER_NAME = "polygraphy_data.py"
BASE_OUTPUTS_NAME = "polygraphy_base_outputs.json"

_LOADER = '''"""Held-out batches for `polygraphy run --data-loader-script`; needs numpy alone."""

from itertools import groupby
from pathlib import Path

import numpy as np

HELD_OUT = Path(__file__).resolve().parent / {held_out_name!r}


def load_data():
    """Yield one dict of inputs per batch; the archive's members are named like `0000/input name`."""
    with np.load(HELD_OUT, allow_pickle=False) as archive:
        for _, keys in groupby(archive.files, key=lambda key: key.split("/", 1)[0]):
            yield {{key.split("/", 1)[1]: archive[key] for key in keys}}
'''


def write_polygraphy_loader(folder: Path, held_out_name: str = "held_out.npz") -> Path:
    """Write the script that gives Polygraphy the batches of `folder / held_out_name`, and return its path.

    Raises:
        OutputError: It cannot be written.
    """
    script = folder / LOADER_NAME
    try:
        script.write_text(_LOADER.format(held_out_name=held_out_name), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{script}: the loader script cannot be written ({error.strerror or error}); "
            "give a folder that exists and is writable"
        ) from error
    return script


def polygraphy_commands(  # public, keyword-only
    base: Path,
    candidate: Path,
    report_dir: Path,
    discrepancy: Discrepancy,
    *,
    all_outputs: bool = True,
    provider: Provider = "cpu",
) -> tuple[str, str]:
    """Return two shell commands: save the base's outputs, then compare the candidate's with them.

    The second exits with 1 where an output is further away than its `passing_atol`. `report_dir` holds the
    held-out data and the script of `write_polygraphy_loader`; the base's outputs are written there too.

    Args:
        all_outputs: False where the discrepancy leaves outputs out; they may then be as far away as they like.
    """
    outputs = str(report_dir / BASE_OUTPUTS_NAME)
    common = ["--onnxrt", "--providers", provider, "--data-loader-script", str(report_dir / LOADER_NAME)]
    tolerances = [] if all_outputs else ["inf"]
    tolerances += [f"{output.name}:{output.passing_atol!r}" for output in discrepancy.outputs]
    save = ["polygraphy", "run", str(base), *common, "--save-outputs", outputs]
    check = ["polygraphy", "run", str(candidate), *common, "--load-outputs", outputs]
    return shlex.join(save), shlex.join([*check, "--atol", *tolerances, "--rtol", "0"])
