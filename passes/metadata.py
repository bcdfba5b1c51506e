"""The one addition to a model's metadata: which pairs rankfold made, so that a later run knows them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, get_args

from onnx import ModelProto

from rankfold.errors import ModelError
from rankfold.passes.model_file import Model
from rankfold.values import Form, folded_parameters

PREFIX = "rankfold."
_PAIRS = PREFIX + "pairs"
_VERSION = PREFIX + "version"
_PLAN = PREFIX + "plan"


@dataclass(frozen=True)
class FoldedPair:
    """Two factors that stand for one weight.

    Attributes:
        site: The node whose weight it was.
        down, up: Initializer names of the factors.
        in_features, out_features, rank: Sizes of the original and of the fold.
        blocks: How many matrices of that shape are stacked.
        op_type, weight: The node's operator and the weight's name, by which it may be included or not.
        form: How the matrix of that rank is stored; what was recorded before there was a choice is a pair.
    """

    site: str
    down: str
    up: str
    in_features: int
    out_features: int
    rank: int
    blocks: int = 1
    op_type: str = ""
    weight: str = ""
    form: Form = "pair"

    @property
    def parameters(self) -> int:
        """Return the elements of both factors."""
        return self.blocks * folded_parameters(self.in_features, self.out_features, self.rank, self.form)

    @property
    def dense_parameters(self) -> int:
        """Return the elements of the weight they stand for."""
        return self.blocks * self.in_features * self.out_features


def read_pairs(model: Model) -> tuple[FoldedPair, ...]:
    """Return the recorded pairs whose factors are still there.

    Raises:
        ModelError: The record is damaged.
    """
    try:
        pairs = pairs_of(model.proto)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{model.path}: the metadata key {_PAIRS!r} is damaged ({error}); remove the key, and the factors will be"
            " taken for ordinary weights"
        ) from error
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.proto.graph.initializer}
    return tuple(pair for pair in pairs if _is_there(pair, sizes))


def pairs_of(proto: ModelProto) -> list[FoldedPair]:
    """Return the pairs a model records.

    Raises:
        ValueError, TypeError: The record is damaged.
    """
    text = next((entry.value for entry in proto.metadata_props if entry.key == _PAIRS), "[]")
    return [_pair(entry) for entry in json.loads(text)]


def _pair(entry: dict[str, Any]) -> FoldedPair:
    pair = FoldedPair(**entry)
    if pair.form not in get_args(Form):
        raise ValueError(f"form {pair.form!r} of {pair.site!r}")
    return pair


def _is_there(pair: FoldedPair, sizes: dict[str, int]) -> bool:
    each, fan_in, fan_out = pair.blocks * pair.rank, pair.in_features, pair.out_features
    if pair.form == "pair":
        expected = {(each * fan_in, each * fan_out)}
    else:  # pivots among the outputs, or among the inputs
        expected = {(each * fan_in, each * (fan_out - pair.rank)), (each * (fan_in - pair.rank), each * fan_out)}
    return (sizes.get(pair.down), sizes.get(pair.up)) in expected


def record_pairs(proto: ModelProto, pairs: Iterable[FoldedPair], *, version: str, plan_digest: str) -> None:
    """Write the record into a model, in place of the one it has; all other metadata stays as it is."""
    record = {
        _VERSION: version,
        _PLAN: plan_digest,
        _PAIRS: json.dumps([asdict(pair) for pair in pairs], separators=(",", ":")),
    }
    for entry in proto.metadata_props:
        if entry.key in record:
            entry.value = record.pop(entry.key)
    for key, value in record.items():
        proto.metadata_props.add(key=key, value=value)
