"""Models that are attacked: onnxruntime predicts, torch gives the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from rankfold.errors import CalibrationDataError, ModelError, OptionsError, RuntimeUnavailableError
from rankfold.options import Options
from rankfold.passes.model_file import Model, input_specs, numeric_outputs, output_names, outside_weights
from rankfold.runtime_calib.distance import looks_like_probabilities, resolved
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.threads import available_cpus
from rankfold.runtime_calib.trials import Session
from rankfold.threat import AttackName, Threat, room_of
from rankfold.values import Feed, InputSpec

Array = NDArray[np.generic]
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Scoring:
    """Which input is changed, and which output says what a sample is.

    Attributes:
        input: The input.
        output: The output of class scores, (samples, classes).
        classes: How many there are.
        probabilities: Whether the scores are probabilities, not logits.
    """

    input: InputSpec
    output: str
    classes: int
    probabilities: bool


@dataclass(frozen=True)
class Attacker:
    """One model's gradients at work.

    Attributes:
        examples: Takes a batch, its labels, an attack, a radius and a generator per start; gives the input changed.
        flat: Takes a batch and its labels; tells of each sample whether its gradient is zero everywhere.
    """

    examples: Callable[[Feed, Array, AttackName, float, Sequence[np.random.Generator]], Array]
    flat: Callable[[Feed, Array], NDArray[np.bool_]]


def attacked_input(model: Model, threat: Threat) -> InputSpec:
    """Return the input that is changed: the one asked for, or the only one of floats.

    Raises:
        OptionsError: There is no such input, it holds no floats, or several do.
    """
    specs = {spec.name: spec for spec in input_specs(model)}
    listed = ", ".join(f"{name} ({spec.dtype})" for name, spec in specs.items())
    if threat.input is not None:
        found = specs.get(threat.input)
        if found is None:
            raise OptionsError(f"{model.path}: there is no input {threat.input!r} to attack; the inputs are {listed}")
        if found.dtype not in _FLOATS:
            raise OptionsError(
                f"{model.path}: input {found.name!r} holds {found.dtype}; steps along gradients need floats; the inputs"
                f" are {listed}"
            )
        return found
    floats = [spec for spec in specs.values() if spec.dtype in _FLOATS]
    if len(floats) != 1:
        raise OptionsError(
            f"{model.path}: {len(floats)} of its inputs hold floats ({listed}), and attacks change one; name it"
            if floats
            else f"{model.path}: none of its inputs holds floats ({listed}); steps along gradients need one that does"
        )
    return floats[0]


def names_of(models: Sequence[Model]) -> tuple[str, ...]:
    """Return what figures call the models: the files' names, or their paths where names repeat.

    Raises:
        OptionsError: A file is given twice.
    """
    paths = [model.path for model in models]
    if len({path.resolve() for path in paths}) < len(paths):
        raise OptionsError(f"a model is given twice: {', '.join(map(str, paths))}; give different ones")
    short = [path.name for path in paths]
    return tuple(short if len(set(short)) == len(short) else map(str, paths))


def check_alike(models: Sequence[Model]) -> None:
    """Check that all models take the same feeds and give outputs of the same names.

    Raises:
        ModelError: One does not.
    """
    first = models[0]
    for model in models[1:]:
        if input_specs(model) != input_specs(first) or output_names(model) != output_names(first):
            raise ModelError(
                f"{model.path}: its inputs and outputs are not those of {first.path}; give models of one interface"
            )


def check_runnable(models: Sequence[Model]) -> None:
    """Check before any work that gradients can be taken of all models.

    Raises:
        RuntimeUnavailableError: torch is not there.
        ModelError: torch cannot run a graph; the message names what it lacks.
    """
    try:
        from rankfold.training.executor import build
        from rankfold.training.widened import widened, widened_arrays
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise RuntimeUnavailableError(
            "attacks by gradients need torch, which is not installed; run `pip install 'rankfold[torch]'`"
        ) from error
    for model in models:
        try:
            build(widened(model.proto), weights=widened_arrays(outside_weights(model)))
        except ModelError as error:
            raise ModelError(f"{model.path}: {error}") from error


def scoring_of(model: Model, session: Session, feed: Feed, *, changed: InputSpec, output: str | None) -> Scoring:
    """Return how a model's classes are read, from what it gives for one batch.

    Raises:
        OptionsError: There is no such output, it is no row of class scores per sample, or several look like one.
    """
    names = numeric_outputs(model)
    if output is not None and output not in names:
        raise OptionsError(f"{model.path}: there is no output {output!r} of numbers; those are {', '.join(names)}")
    found = run_outputs(session, feed, outputs=names)
    shown = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
    fitting = [name for name in ((output,) if output else names) if resolved("auto", found[name]) == "kl"]
    if len(fitting) != 1:
        raise OptionsError(
            f"{model.path}: {len(fitting) or 'none'} of its outputs looks like one row of class scores per sample"
            f" ({shown}); attacks need a classifier's: name its output of logits"
        )
    scores = found[fitting[0]]
    return Scoring(changed, fitting[0], scores.shape[1], looks_like_probabilities(scores))


def check_labels(labels: Array, scoring: Scoring, where: str) -> None:
    """Check that labels are numbers of classes.

    Raises:
        CalibrationDataError: Some are not.
    """
    if labels.min() < 0 or labels.max() >= scoring.classes:
        raise CalibrationDataError(
            f"{where}: labels run from {labels.min()} to {labels.max()}, output {scoring.output!r} has"
            f" {scoring.classes} classes; number them from 0"
        )


def attacker_of(
    model: Model, scoring: Scoring, threat: Threat, *, clip: tuple[float, float], options: Options
) -> Attacker:
    """Return a model's gradients at work; `clip` is in units before normalisation."""
    from rankfold.training.attacks import Attack, Classifier, adversarial, input_gradients, limit_threads
    from rankfold.training.ball import Room
    from rankfold.training.executor import build
    from rankfold.training.widened import widened, widened_arrays

    limit_threads(available_cpus())
    logits = _softmax_input(model, scoring.output)
    module = build(
        widened(model.proto), weights=widened_arrays(outside_weights(model)), also=() if logits is None else (logits,)
    ).to(options.provider)
    name = scoring.input.name
    read = (scoring.output, scoring.probabilities) if logits is None else (logits, False)
    classifier = Classifier(module, name, *read, device=options.provider)
    attacks = {
        "fgsm": Attack(threat.norm, steps=1, step=1.0, scattered=False),
        "pgd": Attack(threat.norm, threat.steps, threat.share, threat.restarts),
    }

    def examples(
        feed: Feed, labels: Array, attack: AttackName, radius: float, randoms: Sequence[np.random.Generator]
    ) -> Array:
        low, high, unit = room_of(threat, clip, feed[name].shape)
        room = Room(low, high, unit)
        found = adversarial(classifier, feed, labels, attack=attacks[attack], radius=radius, room=room, randoms=randoms)
        return found.examples.astype(scoring.input.dtype)

    def flat(feed: Feed, labels: Array) -> NDArray[np.bool_]:
        gradients = input_gradients(classifier, feed, labels)
        still: NDArray[np.bool_] = (gradients.reshape(len(gradients), -1) == 0).all(axis=1)
        return still

    return Attacker(examples, flat)


def predicted(model: Model, session: Session, feed: Feed, scoring: Scoring) -> NDArray[np.intp]:
    """Return the class that a model gives each sample, (samples,).

    Raises:
        ModelError: Its output is not of the samples and classes that it should be of.
    """
    scores = run_outputs(session, feed, outputs=(scoring.output,))[scoring.output]
    samples = len(feed[scoring.input.name])
    if scores.shape != (samples, scoring.classes):
        raise ModelError(
            f"{model.path}: output {scoring.output!r} has shape {list(scores.shape)} for {samples} samples and"
            f" {scoring.classes} classes; give models of the same classes, one row per sample"
        )
    answers: NDArray[np.intp] = scores.argmax(axis=1)
    return answers


def _softmax_input(model: Model, output: str) -> str | None:
    """Return what the Softmax over classes reads that makes an output, or None."""
    maker: NodeProto | None = next((node for node in model.proto.graph.node if output in node.output), None)
    if maker is None or maker.op_type != "Softmax" or maker.domain not in ("", "ai.onnx"):
        return None
    axis = next((part.i for part in maker.attribute if part.name == "axis"), -1)
    return maker.input[0] if axis in (-1, 1) else None
