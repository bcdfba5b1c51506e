"""From samples on disk to the lessons of a training, and from a training back to a model's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from rankfold.errors import ModelError, RuntimeUnavailableError
from rankfold.healing import Case, Trained
from rankfold.lesson_aims import aims, learnable
from rankfold.passes.healable import Healable
from rankfold.passes.model_file import Model, outside_weights
from rankfold.passes.residuals import residual_sums
from rankfold.runtime_calib.originals import Originals, Wanted, keep_originals, originals_bytes
from rankfold.runtime_calib.trials import Session
from rankfold.values import Feed, Provider

Array = NDArray[np.generic]
Lesson = tuple[Feed, Feed | None, Array | None]
_NO_MEMORY = ("can't allocate memory", "out of memory")  # torch's words on a processor and on a GPU
MOST_KEPT_BYTES = 32 << 30  # of the original's tensors; what is more is computed again at every step
LABELS_WEIGHT = 0.5  # as much by the labels as by the original's outputs


@dataclass(frozen=True)
class Training:
    """How a candidate is trained.

    Attributes:
        passes: Over the samples.
        labelled: Whether on labels too.
        file: Where it is kept; None keeps nothing.
    """

    passes: int
    labelled: bool
    file: Path | None = None


def check_torch(model: Model, healable: Healable, provider: Provider) -> None:
    """Check before any work that a model can be trained.

    Raises:
        RuntimeUnavailableError: torch is not there, or sees no GPU where one is asked for.
        ModelError: torch cannot run the graph; the message names what it lacks.
    """
    try:
        from rankfold.training.executor import build
        from rankfold.training.widened import widened, widened_arrays
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise RuntimeUnavailableError(
            "healing by distillation or on labels needs torch, which is not installed; run"
            " `pip install 'rankfold[torch]'`, or heal with refit alone"
        ) from error
    _check_device(provider)
    weights = widened_arrays(outside_weights(model))
    build(widened(model.proto), weights=weights, trainable=healable.names)


def _check_device(provider: Provider) -> None:
    """Check that torch can train there.

    Raises:
        RuntimeUnavailableError: It sees no GPU.
    """
    from rankfold.training.distill import is_there

    if not is_there(provider):
        raise RuntimeUnavailableError(
            "provider cuda was asked for, and torch sees no GPU to train on; check `nvidia-smi`, install a CUDA build"
            " of torch (https://pytorch.org), or choose cpu"
        )


def train(case: Case, healable: Healable, values: Mapping[str, Array], training: Training) -> Trained:
    """Train a candidate toward the original's outputs, from the values it has so far.

    Without labels all outputs are trained by relative L2: on 2,500 images, two passes brought the squared error of a
    ViT's logits from 7.4e-4 to 4.6e-4 so, to 6.0e-4 by KL, and to 4.1e-4 where the residual sums count too. Beside a
    cross-entropy KL is in its unit.

    Raises:
        CalibrationDataError: There are no labels where they are needed, or a batch cannot be run.
    """
    from rankfold.training.distill import Schooling, distill
    from rankfold.training.pupil import Course

    middles = residual_sums(case.base, case.candidate)
    criteria, labelled = aims(case, labelled=training.labelled)
    kept, original = _of_original(case, middles)
    sampled = _Sampled(case, kept)
    course = Course(
        sampled.lessons,
        len(case.training.batches(sampled.size)),
        sampled.held_out,
        criteria,
        middles=middles,
        labelled=labelled,
        labels_weight=LABELS_WEIGHT,
        padding=case.options.mask,
        original=original,
    )
    schooling = Schooling(
        training.passes,
        watched=lambda steps, total: case.options.progress(steps, "training", total),
        file=training.file,
        device=case.options.provider,
    )
    weights = outside_weights(case.candidate) | {
        name: _stored(case.candidate, name, array) for name, array in values.items()
    }
    with _told_failures():
        found = distill(case.candidate.proto, course, schooling, trainable=healable.names, weights=weights)
    return Trained(found.arrays, found.before, found.after, found.rate, found.steps)


@contextmanager
def _told_failures() -> Iterator[None]:
    """Tell what torch cannot do with a model while it runs: it has no memory left, or fails at a node.

    Raises:
        MemoryError: No memory is left, on the processor or the GPU.
        ModelError: A node cannot be computed; the message names it.
    """
    try:
        yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        said, _, _ = str(error).partition("\n")
        if any(sign in said for sign in _NO_MEMORY):
            raise MemoryError(said) from error
        at = [note for note in getattr(error, "__notes__", ()) if note.startswith("while computing")]
        if not at:
            raise
        raise ModelError(f"torch fails {at[0]} ({said.rstrip('.')}); heal with refit alone") from error


@dataclass(frozen=True)
class _Sampled:
    """Lessons from samples on disk; each is a batch, the original's tensors where they are kept, and labels."""

    case: Case
    originals: Originals | None

    @property
    def size(self) -> int:
        """Return the samples of a batch."""
        return self.case.options.batch_size if self.originals is None or self.originals.joins else 1

    def lessons(self, number: int, start: int) -> Iterator[Lesson]:
        """Yield the lessons of a pass, from a place on, in an order of its own; the next is read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            lessons = self._read(number, start)
            coming = reader.submit(next, lessons, None)
            while (lesson := coming.result()) is not None:
                coming = reader.submit(next, lessons, None)
                yield lesson

    def held_out(self) -> Iterator[Lesson]:
        """Yield the lessons that only judge."""
        yield from zip(self.case.choosing.feeds, self.case.choosing.references, self.case.labels, strict=True)

    def _read(self, number: int, start: int) -> Iterator[Lesson]:
        shelf = self.case.training
        random = np.random.default_rng((self.case.options.seed, number))
        batches = shelf.batches(self.size, order=random.permutation(len(shelf)).tolist())
        for place in random.permutation(len(batches))[start:]:
            feed, labels = shelf.batch(batches[place])
            yield feed, None if self.originals is None else self.originals.of(batches[place]), labels


def _of_original(case: Case, middles: tuple[str, ...]) -> tuple[Originals | None, Any]:
    """Return what the original gives for the samples to train on, or what computes it at every step.

    On a CPU a pass over the samples is saved at each pass that reads them from disk; to a GPU the original's forward
    pass is less work than reading what it gives.
    """
    options, shelf = case.options, case.training
    if options.provider != "cpu" and (module := _module(case.base, middles)) is not None:
        return None, module
    wanted = Wanted(tuple(dict.fromkeys((*learnable(case), *middles))), frozenset(middles))
    session = case.part(case.base, {}, wanted.tensors)
    if _are_many(session, wanted, case) and (module := _module(case.base, middles)) is not None:
        return None, module
    batches = shelf.batches(options.batch_size)
    watched = options.progress(batches, "running the original", len(batches))
    return keep_originals(session, wanted, shelf, case.folder / "originals.bin", batches=watched), None


def _are_many(session: Session, wanted: Wanted, case: Case) -> bool:
    first = case.training.batches(case.options.batch_size)[0]
    return originals_bytes(session, wanted, case.training, first) > MOST_KEPT_BYTES


def _module(model: Model, middles: tuple[str, ...]) -> Any:
    """Return a model as a module of torch, None where torch cannot run it."""
    from rankfold.training.executor import build
    from rankfold.training.widened import widened, widened_arrays

    try:
        return build(widened(model.proto), weights=widened_arrays(outside_weights(model)), also=middles)
    except ModelError:
        return None


def _stored(model: Model, name: str, array: Array) -> Array:
    """Return values as the file will hold them."""
    kind = next(tensor.data_type for tensor in model.proto.graph.initializer if tensor.name == name)
    return array.astype(helper.tensor_dtype_to_np_dtype(kind))
