"""How much errors in each layer's output count for the model's: gradients, taken in a process of their own.

torch takes a quarter of a gigabyte that it does not give back, so it is loaded in a child process that ends before
plans are tried. What that process finds lies in files, a layer's at a time in memory.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from rankfold.errors import RankfoldError, RuntimeUnavailableError
from rankfold.opening import open_model
from rankfold.options import Options
from rankfold.orphans import end_with_parent, own_process
from rankfold.passes.fold import finite_weight
from rankfold.passes.loss_basis import row_space
from rankfold.passes.model_file import Model, input_specs, numeric_outputs, outside_weights
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.runtime_calib.feeds import open_source, spool_samples
from rankfold.runtime_calib.threads import available_cpus, limited_threads
from rankfold.values import Feed, FloatArray

# torch holds the weights, their widened copies and a sample's activations: models of more than this share of the
# memory that rankfold may take are left to the data alone.
LARGEST_SHARE = 0.25
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_JOB, _REASON = "job.json", "reason.txt"


@dataclass(frozen=True)
class Sensitivity:
    """What the outputs make of errors in the sites' outputs.

    Attributes:
        places: Site name to the file that holds its metric.
        samples: How many calibration samples gradients were taken of.
        reason: Why there are none; None where there are.
    """

    places: Mapping[str, Path] = field(default_factory=dict)
    samples: int = 0
    reason: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of a report should know."""
        if self.reason is not None:
            return (f"errors of layers count by their size alone: {self.reason}",)
        if not self.places:
            return ()
        found = f"layers whose errors count by what the outputs make of them: {len(self.places)}"
        return (f"{found} (gradients of {self.samples} calibration samples)",)

    def metric(self, site: Site) -> FloatArray | None:
        """Return a site's `E[g gᵀ]`, summed over a sample's rows, in its weight's row space, (k, k), or None."""
        place = self.places.get(site.name)
        if place is None:
            return None
        found: FloatArray = np.load(place)
        return found if np.isfinite(found).all() and np.trace(found) > 0 else None


UNSENSED = Sensitivity()
"""Nothing is known of any site, and nobody asked."""


@dataclass(frozen=True)
class _Job:
    """What the child process is told: the model, which of its sites count, and what to feed it."""

    model: str
    samples: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    outputs: Mapping[str, float]
    mask: str | None
    seed: int
    threads: int


def sense(model: Model, scan: Scan, samples: Path | None, folder: Path, *, options: Options) -> Sensitivity:
    """Return how much errors count in each site, from gradients on some calibration samples.

    Args:
        model, scan: The original and its sites.
        samples: Batches of calibration samples; None where none were set aside.
        folder: Where the metrics are kept.
        options: Basis, outputs and their weights, mask, seed and memory.

    Raises:
        RuntimeUnavailableError: The basis has to go by the loss, and gradients cannot be taken.
    """
    found = _sensed(model, scan, samples, folder, options)
    if found.reason is not None and options.basis == "loss":
        raise RuntimeUnavailableError(f"the basis cannot go by the loss: {found.reason}; choose another basis")
    return found


def _sensed(model: Model, scan: Scan, samples: Path | None, folder: Path, options: Options) -> Sensitivity:
    reason = gradients_hindered(model, options)
    if reason is not None:
        return Sensitivity(reason=reason)
    if samples is None or not spool_samples(samples):
        return Sensitivity(reason="there are no samples to take gradients of")
    count = spool_samples(samples)
    for _ in options.progress((), f"gradients of {count} samples", None):
        pass
    folder.mkdir()
    job = _Job(
        str(model.given.path.resolve()),
        str(samples.resolve()),
        options.include,
        options.exclude,
        _counted(model, options),
        options.mask,
        options.seed,
        available_cpus(),
    )
    (folder / _JOB).write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "rankfold.sensing", str(folder)]
    ended = subprocess.run(command, env=own_process(), capture_output=True, text=True, check=False)
    if ended.returncode:
        return Sensitivity(reason=_told(folder, ended))
    places = {site.name: folder / f"{number}.npy" for number, site in enumerate(scan.sites)}
    return Sensitivity({name: place for name, place in places.items() if place.exists()}, count)


def torch_is_there() -> bool:
    """Return whether torch is installed; it is not imported."""
    return importlib.util.find_spec("torch") is not None


def gradients_hindered(model: Model, options: Options) -> str | None:
    """Return why no gradients are taken of a model, whatever its graph is made of, or None."""
    if options.basis == "data":
        return "the basis goes by the data alone, as asked for"
    if not torch_is_there():
        return "torch is not installed (`pip install 'rankfold[torch]'`)"
    if model.size_bytes > LARGEST_SHARE * options.memory_bytes:
        return f"the model is larger than {LARGEST_SHARE:g} of the memory that may be taken (`--memory`)"
    return None


def _counted(model: Model, options: Options) -> dict[str, float]:
    """Return the outputs that count, and what for."""
    weights = {name: float(options.weights.get(name, 1.0)) for name in options.outputs or numeric_outputs(model)}
    return {name: weight for name, weight in weights.items() if weight > 0}


def _told(folder: Path, ended: subprocess.CompletedProcess[str]) -> str:
    """Return what the child process says of its end, or the last line that it wrote."""
    said = folder / _REASON
    if said.exists():
        return said.read_text()
    last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"the process that takes gradients ended with code {ended.returncode}: {last}"


def main(folder: Path) -> int:
    """Take the gradients that a folder's job asks for; what hinders it is left there as a text."""
    end_with_parent()
    job = _Job(**json.loads((folder / _JOB).read_text()))
    try:
        _take(job, folder)
    except RankfoldError as error:
        (folder / _REASON).write_text(str(error))
        return 1
    return 0


def _take(job: _Job, folder: Path) -> None:
    from rankfold.training.executor import build
    from rankfold.training.gradients import Probing, Watched, gradient_moments
    from rankfold.training.widened import widened, widened_arrays

    model, scan = open_model(job.model, Options(include=tuple(job.include), exclude=tuple(job.exclude)))
    watched = [(number, site) for number, site in enumerate(scan.sites) if _shows_gradients(site)]
    if not watched:
        return
    roots = sorted({site.weight.root for _, site in watched})
    tensors = list(dict.fromkeys(use.output for _, site in watched for use in site.uses))
    weights = widened_arrays(outside_weights(model))
    module = build(widened(model.proto), weights=weights, trainable=roots, also=tensors)
    del weights
    probing = Probing(job.outputs, seed=job.seed, padding=job.mask, threads=job.threads)
    with limited_threads():
        uses = [
            Watched(use.output, use.feature_axis, use.scale, rows)
            for rows, site in ((_wide_rows(model, scan, site), site) for _, site in watched)
            for use in site.uses
        ]
        sums = iter(gradient_moments(module, _feeds(model, Path(job.samples)), uses, probing))
    for number, site in watched:
        np.save(folder / f"{number}.npy", np.sum([next(sums) for _ in site.uses], axis=0))


def _shows_gradients(site: Site) -> bool:
    """Return whether a site's product can be seen, and depends on weights that torch differentiates by."""
    return not site.stack and "output" in site.sides and site.weight.root_type in _FLOATS


def _wide_rows(model: Model, scan: Scan, site: Site) -> NDArray[np.float32] | None:
    """Return the row space of a wide weight, in which its gradients count; None for the others."""
    if site.out_features <= site.in_features:
        return None
    return row_space(finite_weight(model, scan, site)).astype(np.float32)


def _feeds(model: Model, samples: Path) -> Iterator[Feed]:
    """Yield the samples one by one where they may be parted: activations take memory."""
    units = open_source(samples, input_specs(model)).units
    yield from (unit.feed for unit in units)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
