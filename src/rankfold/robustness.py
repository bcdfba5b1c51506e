"""How a classifier and what was made of it stand adversarial examples: robust accuracy, and transfer between them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.attacked import (
    Attacker,
    Scoring,
    attacked_input,
    attacker_of,
    check_alike,
    check_labels,
    check_runnable,
    names_of,
    predicted,
    scoring_of,
)
from rankfold.errors import CalibrationDataError
from rankfold.masking import Place, Rights, signs_of_masking
from rankfold.memory import runs_lean
from rankfold.options import Options, check_options
from rankfold.passes.model_file import Model, input_specs, load_model
from rankfold.runtime_calib.feeds import DataLike, open_source
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.threads import limited_threads
from rankfold.runtime_calib.trials import Run, Session, open_trial
from rankfold.shares import Share
from rankfold.threat import AttackName, Bounds, Threat, bounds_of, check_threat, per_channel
from rankfold.values import Feed

Array = NDArray[np.generic]
PathLike = str | os.PathLike[str]
_USUAL = Threat()


@dataclass(frozen=True)
class Standing:
    """A model as it is.

    Attributes:
        name: How the figures call it.
        path: Its file.
        clean: The samples that it classifies rightly, unchanged.
        flat: The samples whose loss has a gradient of zero by the attacked input.
    """

    name: str
    path: Path
    clean: Share
    flat: Share


@dataclass(frozen=True)
class Robust:
    """Of one attack, radius and pair of models: the samples right both unchanged and as examples.

    Attributes:
        place: Which attack, how far, and the models' places: on whose gradients, and who is asked.
        right: How many.
    """

    place: Place
    right: Share


@dataclass(frozen=True)
class Robustness:
    """What attacks did.

    Attributes:
        models: The original first, then the candidates.
        threat: What an attacker may do.
        bounds: The valid values and the radii that this came to.
        scoring: The input that was changed, and the output that was asked.
        robust: Every attack, radius and pair of models, in this order.
        seed: Of the random starts.
        warnings: What a reader should know.
    """

    models: tuple[Standing, ...]
    threat: Threat
    bounds: Bounds
    scoring: Scoring
    robust: tuple[Robust, ...]
    seed: int
    warnings: tuple[str, ...]

    def share(self, place: Place) -> Share:
        """Return the samples that stay right in one place."""
        return next(part.right for part in self.robust if part.place == place)


@dataclass(frozen=True)
class _Case:
    """Models and samples that fit together."""

    models: tuple[Model, ...]
    sessions: tuple[Session, ...]
    batches: tuple[tuple[Feed, Array], ...]
    scoring: Scoring
    options: Options


def attack(
    model: PathLike,
    data: DataLike,
    *,
    candidates: Sequence[PathLike] = (),
    threat: Threat = _USUAL,
    options: Options = Options(),
) -> Robustness:
    """Attack a classifier and candidates for its place, each by its own gradients and by the others' examples.

    Args:
        model: The original ONNX file.
        data: Samples with `labels`, one class number each.
        candidates: ONNX files of the same inputs and outputs.
        threat: What an attacker may do.
        options: Batch size, seed, provider, memory and progress.

    Raises:
        RankfoldError: One of its children, with what to do.
    """
    check_options(options)
    check_threat(threat)
    models = tuple(map(load_model, (model, *candidates)))
    names = names_of(models)
    changed = attacked_input(models[0], threat)
    check_alike(models)
    check_runnable(models)
    sessions = tuple(open_trial(each.path, run=Run(options.provider, runs_lean(each, options))) for each in models)
    where = str(data) if isinstance(data, str | os.PathLike) else "data"
    with tempfile.TemporaryDirectory(prefix="rankfold-", ignore_cleanup_errors=True) as folder, limited_threads():
        batches = _batches(models[0], data, Path(folder) / "samples.bin", threat, options)
        scoring = scoring_of(models[0], sessions[0], batches[0][0], changed=changed, output=threat.output)
        case = _Case(models, sessions, batches, scoring, options)
        check_labels(np.concatenate([labels for _, labels in batches]), scoring, where)
        values = int(np.prod(batches[0][0][changed.name].shape[1:]))
        bounds = bounds_of(threat, _extremes(case, threat, where), values, f"{where}: input {changed.name!r}")
        return _attacked(case, names, threat, bounds)


def _batches(
    model: Model, data: DataLike, place: Path, threat: Threat, options: Options
) -> tuple[tuple[Feed, Array], ...]:
    """Return the samples and their labels in batches; their arrays lie on disk."""
    source = open_source(data, input_specs(model))
    with Shelf(place) as shelf:
        left = threat.samples
        for unit in options.progress(source.units, "reading", None):
            if unit.labels is None:
                raise CalibrationDataError(
                    "the data has no labels; give an array `labels` with one whole number per sample"
                )
            shelf.write(unit)
            left = None if left is None else left - len(unit.labels)
            if left is not None and left <= 0:
                break
    found = []
    for numbers in shelf.batches(options.batch_size):
        feed, labels = shelf.batch(numbers)
        assert labels is not None  # asked above
        found.append((feed, labels))
    if not found:
        raise CalibrationDataError("the data has no samples that fill a batch; give more")
    return tuple(found)


def _extremes(case: _Case, threat: Threat, where: str) -> tuple[float, float]:
    """Return the lowest and highest value of the attacked input, before normalisation."""
    name, lows, highs = case.scoring.input.name, [], []
    for feed, labels in case.batches:
        array = feed[name]
        if array.ndim == 0 or len(array) != len(labels):
            raise CalibrationDataError(
                f"{where}: input {name!r} has shape {list(array.shape)} for {len(labels)} labels; an attack needs its"
                " axis 0 to count samples"
            )
        mean, std = (per_channel(getattr(threat, part), array.shape, part) for part in ("mean", "std"))
        plain = array.astype(np.float64) * std + mean
        lows.append(float(plain.min()))
        highs.append(float(plain.max()))
    return min(lows), max(highs)


def _attacked(case: _Case, names: tuple[str, ...], threat: Threat, bounds: Bounds) -> Robustness:
    labels = np.concatenate([labels for _, labels in case.batches])
    pairs = tuple(zip(case.models, case.sessions, strict=True))
    clean = [np.concatenate([predicted(*pair, feed, case.scoring) for feed, _ in case.batches]) for pair in pairs]
    right = [answers == labels for answers in clean]
    rights: dict[Place, Rights] = {}
    flat = []
    for number, model in enumerate(case.models):
        attacker = attacker_of(model, case.scoring, threat, clip=(bounds.low, bounds.high), options=case.options)
        flat.append(_share(np.concatenate([attacker.flat(*batch) for batch in case.batches])))
        for name in dict.fromkeys(threat.attacks):
            answers = _answers(case, attacker, (name, f"{name} on {names[number]}"), bounds.eps, threat.restarts)
            for (eps, asked), found in answers.items():
                rights[Place(name, eps, number, asked)] = right[asked] & (found == labels)
    return Robustness(
        tuple(
            Standing(name, model.path, _share(each), still)
            for name, model, each, still in zip(names, case.models, right, flat, strict=True)
        ),
        threat,
        bounds,
        case.scoring,
        tuple(Robust(place, _share(rights[place])) for place in sorted(rights)),
        case.options.seed,
        signs_of_masking(rights, names, flat, f"input {case.scoring.input.name!r}"),
    )


def _answers(
    case: _Case, attacker: Attacker, named: tuple[AttackName, str], radii: Sequence[float], restarts: int
) -> dict[tuple[float, int], NDArray[np.intp]]:
    """Return, per radius and model asked, the classes given to the examples, (samples,).

    Every radius and every model's examples begin at the same random points of the unit ball.
    """
    name, described = named
    parts: dict[tuple[float, int], list[NDArray[np.intp]]] = {}
    ways = [(eps, number) for eps in radii for number in range(len(case.batches))]
    for eps, number in case.options.progress(ways, described, len(ways)):
        if number == 0:
            randoms = [np.random.default_rng((case.options.seed, start)) for start in range(restarts)]
        feed, labels = case.batches[number]
        examples = attacker.examples(feed, labels, name, eps, randoms)
        changed = {**feed, case.scoring.input.name: examples}
        for asked, (model, session) in enumerate(zip(case.models, case.sessions, strict=True)):
            answers = predicted(model, session, changed, case.scoring)
            parts.setdefault((eps, asked), []).append(answers)
    return {place: np.concatenate(answers) for place, answers in parts.items()}


def _share(which: NDArray[np.bool_]) -> Share:
    return Share(int(which.sum()), len(which))
