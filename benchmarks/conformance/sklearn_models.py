"""What skl2onnx makes of scikit-learn's models that multiply by a weight, as jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.conformance.compressing import Subject, check_made, lowered
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.parts import Job

_FEATURES, _CLASSES, _SAMPLES = 64, 40, 800
Rows = np.ndarray[Any, np.dtype[np.float32]]


def _network(kind: type[Any]) -> Callable[[Rows, Rows], Any]:
    def fitted(rows: Rows, targets: Rows) -> Any:
        model = kind(hidden_layer_sizes=(96, 64), max_iter=3, random_state=0).fit(rows, targets)
        model.coefs_ = [np.asarray(lowered(weight)) for weight in model.coefs_]
        return model

    return fitted


MODELS: dict[str, tuple[Callable[[Rows, Rows], Any], bool]] = {
    "MLPClassifier": (_network(MLPClassifier), True),
    "MLPRegressor": (lambda rows, _: _network(MLPRegressor)(rows, rows[:, :48]), True),
    "scaler, PCA, LogisticRegression": (
        lambda rows, labels: make_pipeline(
            StandardScaler(), PCA(48, random_state=0), LogisticRegression(max_iter=20, tol=0.1)
        ).fit(rows, labels),
        False,
    ),
    "TruncatedSVD, LinearRegression": (
        lambda rows, _: make_pipeline(TruncatedSVD(32, random_state=0), LinearRegression()).fit(rows, rows[:, :40]),
        False,
    ),
}


def jobs(part: str) -> Iterator[Job]:  # noqa: ARG001
    """Yield one job per model, its probabilities as a table and as the list of maps that is the default."""
    for name in MODELS:
        for plain in (True, False) if "MLPC" in name or "Logistic" in name else (True,):
            shown = name if plain else f"{name}, probabilities as maps"
            yield Job(
                f"sklearn/{shown}",
                lambda folder, name=name, shown=shown, plain=plain: [_check(name, shown, plain, folder)],  # type: ignore[misc]
            )


def _check(name: str, shown: str, plain: bool, folder: Path) -> Outcome:
    random = np.random.default_rng(0)
    rows = (random.standard_normal((_SAMPLES, _FEATURES)) + 0.25).astype(np.float32)
    make, low = MODELS[name]

    def made() -> Subject:
        model = make(rows, np.arange(_SAMPLES) % _CLASSES)
        options = {id(model): {"zipmap": not plain}} if hasattr(model, "predict_proba") else None
        path = folder / "model.onnx"
        path.write_bytes(to_onnx(model, rows[:1], options=options, target_opset=18).SerializeToString())
        return Subject(
            f"sklearn/{shown}", path, [{"X": batch} for batch in np.split(rows, _SAMPLES // 20)], lowered=low
        )

    return check_made(f"sklearn/{shown}", made)
