"""Which distribution of onnxruntime is installed; importable also where none is."""

from __future__ import annotations

from importlib import metadata, util

from rankfold.errors import RuntimeUnavailableError

# All of them install into the same folder `onnxruntime` and overwrite each other's files.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
    "ort-nightly",
    "ort-nightly-gpu",
)


def installed_distributions() -> tuple[str, ...]:
    """Return the names of the installed distributions of onnxruntime."""
    return tuple(name for name in _DISTRIBUTIONS if _installed(name))


def check_distributions() -> None:
    """Check that exactly one onnxruntime is installed.

    Raises:
        RuntimeUnavailableError: None or several are; the message holds the commands that mend it.
    """
    found = installed_distributions()
    if len(found) > 1:
        kept = "onnxruntime-gpu" if "onnxruntime-gpu" in found else found[0]
        raise RuntimeUnavailableError(
            f"{' and '.join(found)} are installed together and overwrite each other's files; keep one: "
            f"run `python -m pip uninstall -y {' '.join(found)}` and then `python -m pip install {kept}`"
        )
    if not found and util.find_spec("onnxruntime") is None:  # a build of one's own may have another name
        raise RuntimeUnavailableError(
            "onnxruntime is not installed; run `python -m pip install onnxruntime`, "
            'or `python -m pip install "onnxruntime-gpu[cuda,cudnn]"` for an NVIDIA GPU'
        )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
