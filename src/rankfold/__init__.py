"""rankfold: data-aware low-rank compression of ONNX models, with proof.

The names below are the whole public surface of the top level; they are loaded when first used, so that
`import rankfold` stays cheap and needs no runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rankfold.errors import RankfoldError as RankfoldError
    from rankfold.heal_model import heal as heal
    from rankfold.pipeline import Options as Options
    from rankfold.pipeline import Result as Result
    from rankfold.pipeline import analyze as analyze
    from rankfold.pipeline import bench as bench
    from rankfold.pipeline import calibrate as calibrate
    from rankfold.pipeline import compress as compress
    from rankfold.pipeline import make_plan as make_plan
    from rankfold.pipeline import validate as validate
    from rankfold.values import RankPlan as RankPlan

__version__ = "0.1.0"

_HOME = {
    "RankPlan": "rankfold.values",
    "RankfoldError": "rankfold.errors",
    "heal": "rankfold.heal_model",
    **dict.fromkeys(
        ("Options", "Result", "analyze", "bench", "calibrate", "compress", "make_plan", "validate"), "rankfold.pipeline"
    ),
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'rankfold' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
