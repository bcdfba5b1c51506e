"""Export a reference network to ONNX: one plain graph, named after the network's modules, the same bytes each time."""

from __future__ import annotations

import ast
import copy
import os
import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from rankfold.models.networks import Shape

OPSET = 20  # the first with Gelu as one operator; as a formula (opset 18) onnxruntime 1.31 does not fuse it
_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules around a node, outermost first
_TREESPEC = r"`isinstance\(treespec, LeafSpec\)` is deprecated"  # raised by torch 2.13 against itself


def export_network(network: nn.Module, shape: Shape, path: Path) -> None:
    """Write the network, in evaluation mode, to `path`, whole or not at all.

    The graph maps `image` (batch, in_channels, image_size, image_size) float32 to `logits` (batch, classes), batch
    being symbolic. Nothing of the exporting machine (stack traces, paths) stays in the file.
    """
    partial = path.with_name(path.name + ".partial")
    onnx.save(named_by_module(_traced(network, shape)), partial)
    os.replace(partial, path)


def _traced(network: nn.Module, shape: Shape) -> ModelProto:
    example = torch.zeros(2, shape.in_channels, shape.image_size, shape.image_size)  # 1 would be taken as constant
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _TREESPEC, FutureWarning)
        program = torch.onnx.export(
            copy.deepcopy(network).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing; it was asked for a program")
    return program.model_proto


def named_by_module(model: ModelProto) -> ModelProto:
    """Return a copy whose nodes, tensors and constants are named after the module they come from.

    A node becomes `blocks.0.fc1/MatMul`, the tensor it makes is called the same, and the weight that a MatMul reads
    `blocks.0.fc1.weight`. Notes that hold source lines of the exporting machine are dropped.
    """
    named = ModelProto()
    named.CopyFrom(model)
    _name_nodes(named)
    _rename_tensors(named, _tensor_names(named))
    _drop_notes(named)
    return named


def _name_nodes(model: ModelProto) -> None:
    modules: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        module = _module(node, modules.get(node.input[0], ""))
        modules.update(dict.fromkeys(node.output, module))
        node.name = _unique(f"{module}/{node.op_type}".lstrip("/"), taken)


def _module(node: NodeProto, otherwise: str) -> str:
    if node.op_type == "Conv":  # a batch normalisation folded into it has put its own scope there
        return str(node.input[1]).removesuffix(".weight")
    scopes = next((note.value for note in node.metadata_props if note.key == _SCOPES), None)
    if scopes is None:  # made by the exporter's own rewriting: it belongs where its input comes from
        return otherwise
    return str(ast.literal_eval(scopes)[-2])  # the last scope is the operation itself


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"


def _tensor_names(model: ModelProto) -> dict[str, str]:
    graph = model.graph
    made = [value.name for value in graph.initializer if value.name.startswith("val_") or _is_folded_bias(value.name)]
    kept = {value.name for value in graph.initializer} - set(made) | {value.name for value in graph.output}
    taken = Counter(kept)
    names: dict[str, str] = {}
    for node in graph.node:
        for tensor in node.input:
            if tensor in made and tensor not in names:
                names[tensor] = _unique(_constant_name(node, tensor), taken)
        for tensor in node.output:
            names[tensor] = tensor if tensor in kept else _unique(node.name, taken)
    return names


def _is_folded_bias(tensor: str) -> bool:
    return tensor.endswith(".weight_bias")  # as the exporter names what batch normalisation adds


def _constant_name(reader: NodeProto, tensor: str) -> str:
    if _is_folded_bias(tensor):
        return tensor.removesuffix("weight_bias") + "bias"
    if reader.op_type == "MatMul":
        return reader.name.removesuffix("/MatMul") + ".weight"
    return reader.name + "/constant"


def _rename_tensors(model: ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.input[:] = [names.get(tensor, tensor) for tensor in node.input]
        node.output[:] = [names[tensor] for tensor in node.output]
    for value in model.graph.initializer:
        value.name = names.get(value.name, value.name)


def _drop_notes(model: ModelProto) -> None:
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
