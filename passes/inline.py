"""Putting local functions in line, so that the linear layers inside them can be seen, collected and folded.

A tensor inside a function has no name of its own: two calls share its body. In line, each call has its own tensors.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx.inliner
from onnx import FunctionProto, ModelProto, NodeProto

from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_checks import all_tensors
from rankfold.passes.graph_index import copy_without, nested_graphs
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.rules import is_linear
from rankfold.passes.write_model import write_model

FunctionId = tuple[str, str]
_LARGEST_GROWTH = 1.01  # a function's own shapes and scalars are copied for every call, and weigh nothing


def with_functions_inline(model: Model) -> Model:
    """Return the model with every local function in line that holds linear nodes, at any depth.

    It is written to a temporary folder that lives as long as the value returned, since the runtime opens models by
    path. The model itself is returned where no function holds any, where their opsets differ, and where the functions
    hold weights themselves, so that every call would get its own copy.
    """
    chosen = linear_functions(model.proto.functions)
    if not chosen:
        return model
    try:
        flat = onnx.inliner.inline_selected_functions(_with_defaults(model.proto), sorted(chosen))
    except RuntimeError:  # a function imports another opset than the model: what is inside is reported as left alone
        return model
    if _elements(flat) > _LARGEST_GROWTH * _elements(model.proto):
        return model
    with contextlib.ExitStack() as cleaning:
        folder = Path(tempfile.mkdtemp(prefix="rankfold-"))
        cleaning.callback(shutil.rmtree, folder, ignore_errors=True)
        place = folder / model.path.name
        parts = Rewritten(copy_without(flat, "initializer"), tuple(flat.graph.initializer))
        write_model(parts, model, place)
        names = tuple(f"{domain}:{name}" for domain, name in sorted(chosen))
        opened = replace(load_model(place), digest=model.digest, original=model, inlined=names)
        cleaning.pop_all()
    weakref.finalize(opened, shutil.rmtree, folder, ignore_errors=True)
    return opened


def _with_defaults(proto: ModelProto) -> ModelProto:
    """Return a copy in which every call says what it leaves to a function's defaults: onnx's inliner forgets those."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    defaults = {(found.domain, found.name): list(found.attribute_proto) for found in copy.functions}
    waiting = [copy.graph.node, *(function.node for function in copy.functions)]
    while waiting:
        for node in waiting.pop():
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in given)
            waiting.extend(body.node for body in nested_graphs(node))
    return copy


def _elements(proto: ModelProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in all_tensors(proto))


def linear_functions(functions: Iterable[FunctionProto]) -> set[FunctionId]:
    """Return the functions that hold linear nodes, by themselves or through others that they call."""
    bodies = {(function.domain, function.name): _operators(function.node) for function in functions}
    chosen = {key for key, (_, linear) in bodies.items() if linear}
    while True:
        callers = {key for key, (called, _) in bodies.items() if key not in chosen and called & chosen}
        if not callers:
            return chosen
        chosen |= callers


def _operators(nodes: Iterable[NodeProto]) -> tuple[set[FunctionId], bool]:
    """Return what a body calls, nested bodies included, and whether any of it is linear."""
    called: set[FunctionId] = set()
    linear = False
    for node in nodes:
        called.add((node.domain, node.op_type))
        linear |= is_linear(node)
        for body in nested_graphs(node):
            inner, found = _operators(body.node)
            called |= inner
            linear |= found
    return called, linear
