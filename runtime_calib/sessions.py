"""Opening onnxruntime sessions: on exactly the provider asked for, quietly, and without needless copies."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from rankfold.errors import CalibrationDataError, ModelError, RuntimeUnavailableError
from rankfold.runtime_calib.threads import available_cpus
from rankfold.values import Feed, Provider

_PROVIDER_NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# Without TF32 the original and the candidate are both computed in real float32, so that their distance is the
# compression's; with it every product is rounded to 10 bits.
_PROVIDER_OPTIONS: dict[Provider, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}

_FATAL = 4  # onnxruntime's log severities: 2 warning (its default), 3 error, 4 fatal; errors reach us as exceptions
_DEFAULT_SEVERITY = 2

ORT_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    ValueError,
)

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "bad_alloc")
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_LONGEST_REASON = 400  # characters; with custom operators the message can list hundreds of schemas

_PROBE = '<ir_version: 8, opset_import: ["" : 13]> probe (float[1] x) => (float[1] y) { y = Add(x, x) }'


# Weights in external files are mapped, not read. But for its kernels onnxruntime copies every weight once more
# ("prepacking"), and folding a Transpose or Cast of a weight makes another copy. On a transformer of 600 MB, run in
# batches of 8 x 16 tokens, 430 MB of anonymous memory became 26 MB without these two, at the same speed.
_LEAN = {
    "session.disable_prepacking": "1",
    "optimization.constant_folding_max_output_size_in_bytes": str(1 << 20),  # shapes and scales are still folded
}


def open_session(
    model: Path,
    *,
    provider: Provider = "cpu",
    addition: bytes = b"",
    lean: bool = False,
    weights_folder: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Return a session of a model file, weights inside or outside of it.

    Args:
        model: The file.
        provider: Where all of it shall run; onnxruntime itself puts shape arithmetic on the CPU also for "cuda".
        addition: A serialized `ModelProto` to be merged into the model, as protobuf does with appended bytes.
        lean: Make no copies of the weights: less memory, and on some models less speed.
        weights_folder: Where external weights lie; by default beside the model.

    Raises:
        ModelError: onnxruntime refuses the model.
        RuntimeUnavailableError: The provider is not there; it never falls back to another one.
    """
    entries = {_WEIGHTS_FOLDER: str(weights_folder or model.resolve().parent), **(_LEAN if lean else {})}
    if not addition:
        return _open(model, model, provider, entries)
    # By way of a file: a session opened from bytes keeps them for as long as it lives.
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder:
        merged = Path(folder) / "model.onnx"
        try:
            with model.open("rb") as original, merged.open("wb") as copy:
                shutil.copyfileobj(original, copy)
                copy.write(addition)
        except OSError as error:
            raise ModelError(f"{model}: cannot be copied to {merged} to be opened: {error}") from error
        return _open(merged, model, provider, entries)


def run_outputs(
    session: onnxruntime.InferenceSession, feed: Feed, *, outputs: Sequence[str] = ()
) -> dict[str, NDArray[np.generic]]:
    """Return what a session computes from one batch, by output name; `outputs` empty means all of them.

    Raises:
        CalibrationDataError: onnxruntime cannot run the batch.
    """
    names = list(outputs) or [output.name for output in session.get_outputs()]
    try:
        arrays = session.run(names, feed)
    except ORT_ERRORS as error:
        raise unusable_batch(feed, error) from error
    return dict(zip(names, arrays, strict=True))


def unusable_batch(feed: Feed, error: Exception) -> CalibrationDataError:
    """Return the error to raise when onnxruntime could not run a batch."""
    found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
    if any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return CalibrationDataError(
            f"onnxruntime runs out of memory on a batch of {found}: {reason(error)}; choose a smaller batch size, or"
            " check the shapes that the model computes"
        )
    return CalibrationDataError(
        f"onnxruntime cannot run the model on a batch of {found}: {reason(error)}; "
        "give inputs with the names, types and shapes (and, for indices, the values) that the model expects"
    )


def reason(error: Exception) -> str:
    """Return onnxruntime's message on one line, without its code numbers, cut where it grows too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : (\w+) : ", r"\1: ", text)[:_LONGEST_REASON]


@functools.cache
def cuda_available() -> bool:
    """Return whether a model really runs on CUDA here.

    The list of available providers names CUDA wherever its package is installed, also without a GPU.
    """
    if _PROVIDER_NAMES["cuda"] not in onnxruntime.get_available_providers():
        return False
    try:
        session = _create(onnx.parser.parse_model(_PROBE).SerializeToString(), "cuda", {})
        if not _runs_on(session, "cuda"):
            return False
        return bool(session.run(["y"], {"x": np.ones(1, np.float32)})[0][0] == 2.0)
    except ORT_ERRORS:  # no driver, no device, no memory left on it: all mean that CUDA cannot be used
        return False


def _open(file: Path, model: Path, provider: Provider, entries: Mapping[str, str]) -> onnxruntime.InferenceSession:
    """Open `file`, which is `model` or a temporary variant of it; `model` is named in errors."""
    if provider == "cuda" and not cuda_available():
        raise RuntimeUnavailableError(_no_cuda())
    try:
        session = _create(str(file), provider, entries)
    except ORT_ERRORS as error:
        raise ModelError(
            f"{model}: onnxruntime {onnxruntime.__version__} refuses it on {provider}: "
            f"{reason(error).replace(str(file), str(model))}; give a model that this version runs"
        ) from error
    if not _runs_on(session, provider):
        raise RuntimeUnavailableError(
            f"{model}: asked for {_PROVIDER_NAMES[provider]}, onnxruntime opened it on {session.get_providers()}; "
            "mend the installation or choose another provider"
        )
    return session


def _create(source: str | bytes, provider: Provider, entries: Mapping[str, str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = _FATAL
    # Spinning threads take the CPUs from numpy, which works in turns with the session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    providers: list[Any] = [(_PROVIDER_NAMES[provider], _PROVIDER_OPTIONS[provider])]
    with _quiet(provider):
        # With its fallback on, onnxruntime prints to stdout and opens the model on the CPU.
        return onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)


def _runs_on(session: onnxruntime.InferenceSession, provider: Provider) -> bool:
    return bool(session.get_providers()[0] == _PROVIDER_NAMES[provider])


@contextlib.contextmanager
def _quiet(provider: Provider) -> Iterator[None]:
    """Silence the process-wide logger while CUDA's libraries are loaded: it writes to stderr by itself."""
    if provider == "cpu":
        yield
        return
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        _load_cuda_libraries()
        yield
    finally:
        onnxruntime.set_default_logger_severity(_DEFAULT_SEVERITY)


@functools.cache
def _load_cuda_libraries() -> None:
    """Load CUDA from the nvidia wheels, where they are installed; onnxruntime does not find them by itself."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints every library it does not find
        onnxruntime.preload_dlls(directory="")


def _no_cuda() -> str:
    listed = _PROVIDER_NAMES["cuda"] in onnxruntime.get_available_providers()
    if not listed:
        return (
            f"provider cuda was asked for, the installed onnxruntime offers {onnxruntime.get_available_providers()}; "
            "run `python -m pip uninstall -y onnxruntime` and `python -m pip install onnxruntime-gpu`, or choose cpu"
        )
    return (
        "provider cuda was asked for and is installed, but no model runs on it: the GPU, its driver, or the libraries "
        "of CUDA and cuDNN are missing; check `nvidia-smi`, "
        'run `python -m pip install "onnxruntime-gpu[cuda,cudnn]"`, or choose cpu'
    )
