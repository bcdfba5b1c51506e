"""Running a model for some of the tensors inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from rankfold.runtime_calib.sessions import ORT_ERRORS, open_session, unusable_batch
from rankfold.runtime_calib.trials import Run
from rankfold.values import Feed


@dataclass(frozen=True)
class Exposed:
    """A session that gives out tensors inside its graph, and computes no more than what is asked for needs."""

    session: onnxruntime.InferenceSession

    def run(self, feed: Feed, tensors: Sequence[str]) -> Feed:
        """Return named tensors of one batch.

        Raises:
            CalibrationDataError: onnxruntime cannot run it.
        """
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        try:
            arrays = self.session.run(list(tensors), feed, options)
        except ORT_ERRORS as error:
            raise unusable_batch(feed, error) from error
        return dict(zip(tensors, arrays, strict=True))


def open_exposed(
    model: Path, tensors: Sequence[str], *, exposed: Sequence[str], run: Run, weights_folder: Path | None = None
) -> Exposed:
    """Open a model so that tensors inside it come out.

    Args:
        model: The file.
        tensors: Names anywhere in the main graph.
        exposed: Those that are outputs already.
        run: Where and how.
        weights_folder: Where external weights lie; by default beside the model.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    addition = onnx.ModelProto()
    new = (name for name in dict.fromkeys(tensors) if name not in exposed)
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    content = addition.SerializeToString()
    session = open_session(model, provider=run.provider, addition=content, lean=run.lean, weights_folder=weights_folder)
    return Exposed(session)
