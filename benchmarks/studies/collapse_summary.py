"""What the study of neural rank collapse found: ranks by weight decay and by within-class variability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.intervals import cluster_interval
from benchmarks.studies.spread import shown, spread
from benchmarks.studies.tasks import Row, Rows
from rankfold.labelled import spearman
from rankfold.values import FloatArray

MEASURES = {
    "effective_rank": "effective rank",
    "stable_rank": "stable rank",
    "distance_to_classes": "relative distance to rank K",
}
VARIABILITY = {"cluster_variation": "cluster variation", "within_share": "within-class share"}
TITLES = {"mlp": "MLP, Fashion-MNIST", "resnet": "ResNet, CIFAR-10"}
POOLED = "all layers"
_RELATIVE = ("effective_rank", "stable_rank")  # divided by the most they can be where layers are pooled
_POINTS = 100.0


def content(settings: Mapping[str, Any], rows: Rows) -> Row:
    """Return the results, fit for JSON: every run, accuracies by weight decay, correlations with their intervals."""
    runs = [
        {**row, "minutes": row["minutes"] + rows[name.replace("-measure", "-train")]["minutes"]}
        for name, row in rows.items()
        if name.endswith("-measure")
    ]
    return {
        "settings": dict(settings),
        "runs": runs,
        "accuracy": [line for network in settings["subjects"] for line in _accuracies(of(runs, network))],
        "correlations": [line for network in settings["subjects"] for line in _correlations(of(runs, network))],
    }


def table(found: Row) -> str:
    """Return two tables: a line per network and weight decay, and a line per layer with its correlations."""
    return _decay_table(found) + "\n\n" + _layer_table(found)


def of(runs: Sequence[Row], network: str) -> list[Row]:
    """Return the runs of a network, from the smallest weight decay on."""
    found = [run for run in runs if run["network"] == network]
    return sorted(found, key=lambda run: (run["weight_decay"], run["seed"]))


def values_of(runs: Sequence[Row], layer: str, measure: str) -> list[float]:
    """Return a measure of one layer in each run: of its weight, or of what it reads."""
    lines = [next(line for line in run["layers"] if line["layer"] == layer) for run in runs]
    return [line[measure] if measure in MEASURES else line["before"][measure] for line in lines]


def layers_of(runs: Sequence[Row]) -> list[str]:
    """Return the layers by depth."""
    return [line["layer"] for line in runs[0]["layers"]]


def read_layers(runs: Sequence[Row]) -> list[str]:
    """Return the layers for which collapse before them is known in every run."""
    return [
        layer
        for layer in layers_of(runs)
        if all(_is_known(line) for run in runs for line in run["layers"] if line["layer"] == layer)
    ]


def _is_known(line: Row) -> bool:
    return line["before"] is not None and all(line["before"][name] is not None for name in VARIABILITY)


def _accuracies(runs: Sequence[Row]) -> Iterable[Row]:
    for decay in sorted({run["weight_decay"] for run in runs}):
        some = [run for run in runs if run["weight_decay"] == decay]
        means = {
            measure: spread([float(np.mean([line[measure] for line in run["layers"]])) for run in some])
            for measure in MEASURES
        }
        scores = {name: spread([run[name] for run in some]) for name in ("training_accuracy", "test_accuracy")}
        yield {"network": some[0]["network"], "weight_decay": decay, **scores, **means}


def _correlations(runs: Sequence[Row]) -> Iterable[Row]:
    """Yield Spearman's coefficients of each layer and of all together, with intervals that draw seeds again."""
    decays = np.log10([run["weight_decay"] for run in runs])
    seeds = np.array([run["seed"] for run in runs])
    known = read_layers(runs)
    for measure in MEASURES:
        ranks = {layer: np.array(values_of(runs, layer, measure)) for layer in layers_of(runs)}
        for layer, rank in ranks.items():
            yield _line(runs, layer, measure, "weight_decay", _spearman(decays, rank, seeds))
        scaled = {layer: rank / _most(runs, layer, measure) for layer, rank in ranks.items()}
        yield _line(runs, POOLED, measure, "weight_decay", _pooled([decays] * len(scaled), [*scaled.values()], seeds))
        for other in VARIABILITY:
            variability = {layer: np.array(values_of(runs, layer, other)) for layer in known}
            for layer in known:
                yield _line(runs, layer, measure, other, _spearman(variability[layer], ranks[layer], seeds))
            if known:
                pairs = [variability[layer] for layer in known], [scaled[layer] for layer in known]
                yield _line(runs, POOLED, measure, other, _pooled(*pairs, seeds))


def _most(runs: Sequence[Row], layer: str, measure: str) -> float:
    line = next(line for line in runs[0]["layers"] if line["layer"] == layer)
    return float(line["most"]) if measure in _RELATIVE else 1.0


def _line(runs: Sequence[Row], layer: str, measure: str, against: str, found: Row) -> Row:
    return {"network": runs[0]["network"], "layer": layer, "measure": measure, "against": against, **found}


def _pooled(first: Sequence[FloatArray], second: Sequence[FloatArray], seeds: FloatArray) -> Row:
    return _spearman(np.concatenate(first), np.concatenate(second), np.tile(seeds, len(first)))


def _spearman(first: FloatArray, second: FloatArray, seeds: FloatArray) -> Row:
    """Return the coefficient and its interval; None for both where one side is the same for all."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return {"spearman": None, "low": None, "high": None}
    low, high = cluster_interval(lambda rows: spearman(first[rows], second[rows]), seeds)
    return {"spearman": spearman(first, second), "low": low, "high": high}


def _decay_table(found: Row) -> str:
    means = (f"mean {title}" for title in MEASURES.values())
    head = ("network, weight decay", "training accuracy, %", "test accuracy, %", *means)
    rows = [
        (
            f"{TITLES[line['network']]}, {line['weight_decay']:g}",
            *(
                shown({key: _POINTS * value for key, value in line[name].items()}, 2)
                for name in ("training_accuracy", "test_accuracy")
            ),
            *(shown(line[measure], 3 if measure == "distance_to_classes" else 1) for measure in MEASURES),
        )
        for line in found["accuracy"]
    ]
    return markdown(head, rows)


def _layer_table(found: Row) -> str:
    """Return Spearman's coefficient of each layer's effective rank and distance, with intervals."""
    columns = [
        (measure, against)
        for measure in ("effective_rank", "distance_to_classes")
        for against in ("weight_decay", "cluster_variation")
    ]
    lines = {(line["network"], line["layer"], line["measure"], line["against"]): line for line in found["correlations"]}
    places = dict.fromkeys((network, layer) for network, layer, _, _ in lines)
    rows = [
        (
            f"{TITLES[network]}, {layer}",
            *(_coefficient(lines.get((network, layer, measure, against))) for measure, against in columns),
        )
        for network, layer in places
    ]
    head = [f"{MEASURES[measure]} and {against.replace('_', ' ')}" for measure, against in columns]
    return markdown(("Spearman's coefficient, layer", *head), rows)


def _coefficient(line: Row | None) -> str:
    if line is None or line["spearman"] is None:
        return "-"
    return f"{line['spearman']:+.2f} ({line['low']:+.2f} to {line['high']:+.2f})"
