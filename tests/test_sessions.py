"""Opening sessions, and which onnxruntime is there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from rankfold.errors import CalibrationDataError, ModelError, RuntimeUnavailableError
from rankfold.runtime_calib import sessions
from rankfold.runtime_calib.distributions import check_distributions
from rankfold.runtime_calib.sessions import cuda_available, open_session, run_outputs

WEIGHT = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 2] y) { h = MatMul(x, W)
 y = Relu(h) }"""


def save_model(folder: Path, *, external: bool = False) -> Path:
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "W"))
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "m.onnx", save_as_external_data=external, location="m.bin", size_threshold=0)
    return folder / "m.onnx"


def extra_output(name: str) -> bytes:
    addition = onnx.ModelProto()
    addition.graph.output.append(onnx.ValueInfoProto(name=name))
    return bytes(addition.SerializeToString())


@pytest.mark.parametrize("external", [False, True])
def test_addition_is_merged_into_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, external: bool) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    model = save_model(tmp_path / "model", external=external)
    before = model.read_bytes()
    session = open_session(model, addition=extra_output("h"))
    found = run_outputs(session, {"x": np.eye(3, dtype=np.float32)})
    np.testing.assert_array_equal(found["h"], WEIGHT)  # a product with 1 and 0 is exact
    np.testing.assert_array_equal(found["y"], np.maximum(WEIGHT, 0))
    assert list(found) == ["y", "h"]
    assert model.read_bytes() == before
    assert list(temporary.iterdir()) == []


def test_external_weights_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", external=True)
    monkeypatch.chdir(tmp_path / "model")
    assert len(run_outputs(open_session(Path("m.onnx")), {"x": np.ones((4, 3), np.float32)})["y"]) == 4
    monkeypatch.chdir(tmp_path)
    open_session(Path("model/m.onnx"), addition=extra_output("h"))


def test_asked_outputs_come_in_the_asked_order(tmp_path: Path) -> None:
    session = open_session(save_model(tmp_path), addition=extra_output("h"))
    assert list(run_outputs(session, {"x": np.ones((1, 3), np.float32)}, outputs=("h",))) == ["h"]


@pytest.mark.parametrize("addition", [b"", b"\x08\x08"])
def test_refused_model_is_named(tmp_path: Path, addition: bytes) -> None:
    model = tmp_path / "broken.onnx"
    model.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ModelError, match=r"broken\.onnx: onnxruntime .* refuses it on cpu: INVALID_PROTOBUF") as error:
        open_session(model, addition=addition)
    assert "rankfold-" not in str(error.value)  # the temporary file is nobody's business


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx: onnxruntime .* refuses it on cpu: NO_SUCHFILE"):
        open_session(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match=r"absent\.onnx: cannot be copied"):
        open_session(tmp_path / "absent.onnx", addition=b"\x08\x08")


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"x": np.ones((2, 5), np.float32)}, r"batch of x float32\[2, 5\]: INVALID_ARGUMENT: .*Got: 5 Expected: 3"),
        ({"x": np.ones((2, 3))}, r"batch of x float64\[2, 3\]: INVALID_ARGUMENT: .*double"),
        ({"z": np.ones((2, 3), np.float32)}, r"batch of z float32\[2, 3\]: Required inputs \(\['x'\]\)"),
    ],
)
def test_unusable_batch(tmp_path: Path, feed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(CalibrationDataError, match=message):
        run_outputs(open_session(save_model(tmp_path)), feed)


def test_missing_cuda_is_an_error_and_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # CUDA is offered but no session runs on it, as where the package is installed and no GPU is.
    real = sessions._create
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions, "_create", lambda source, _, folder: real(source, "cpu", folder))
    cuda_available.cache_clear()
    try:
        assert not cuda_available()
        with pytest.raises(RuntimeUnavailableError, match=r"no model runs on it.*nvidia-smi.*or choose cpu"):
            open_session(save_model(tmp_path), provider="cuda")
    finally:
        cuda_available.cache_clear()
    assert capfd.readouterr() == ("", "")


def test_cuda_is_not_there_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    cuda_available.cache_clear()
    try:
        with pytest.raises(RuntimeUnavailableError, match=r"offers \['CPUExecutionProvider'\].*onnxruntime-gpu"):
            open_session(save_model(tmp_path), provider="cuda")
    finally:
        cuda_available.cache_clear()


def test_cuda_is_tried_really_and_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    cuda_available.cache_clear()
    has_device = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
    assert not cuda_available() or has_device  # without a device it can only be False; with one, drivers may lack
    assert capfd.readouterr() == ("", "")


def test_session_falls_back_to_no_other_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sessions._create
    monkeypatch.setattr(sessions, "cuda_available", lambda: True)
    monkeypatch.setattr(sessions, "_create", lambda source, _, folder: real(source, "cpu", folder))
    with pytest.raises(RuntimeUnavailableError, match=r"asked for CUDAExecutionProvider, .*\['CPUExecutionProvider'\]"):
        open_session(save_model(tmp_path), provider="cuda")


def _installed(*names: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    return version


def test_two_distributions_are_refused_with_the_mending_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", _installed("onnxruntime-gpu", "onnxruntime"))
    with pytest.raises(RuntimeUnavailableError) as error:
        check_distributions()
    assert "python -m pip uninstall -y onnxruntime onnxruntime-gpu" in str(error.value)
    assert str(error.value).endswith("`python -m pip install onnxruntime-gpu`")


def test_no_distribution_is_refused_and_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", _installed())
    check_distributions()  # a build under another name: the module is there
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match="not installed; run `python -m pip install onnxruntime`"):
        check_distributions()
    monkeypatch.setattr(metadata, "version", _installed("onnxruntime"))
    check_distributions()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
@pytest.mark.parametrize("text", ["h = MatMul(x, W)", "t = Transpose(W) h = MatMul(x, t)"], ids=["plain", "transposed"])
def test_a_lean_session_makes_no_copies_of_the_weights(text: str, tmp_path: Path) -> None:
    graph = f"g (float[N,2048] x) => (float[N,2048] h) {{ {text} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}')
    weight = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "W"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    taken = {lean: taken_in_a_new_process(tmp_path / "m.onnx", lean=lean) for lean in (True, False)}
    assert taken[True] < weight.nbytes / 2
    assert taken[False] > weight.nbytes / 2
    feed = {"x": weight[:3]}
    found = [run_outputs(open_session(tmp_path / "m.onnx", lean=lean), feed)["h"] for lean in (True, False)]
    # Sums of 2048 products of size one, in another order.
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=2048 * 6e-8 * 16)


TAKING = """
import sys
from pathlib import Path
from rankfold.runtime_calib.sessions import open_session

def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

before = anonymous_bytes()
session = open_session(Path(sys.argv[1]), lean=sys.argv[2] == "True")
print(anonymous_bytes() - before)
"""


def taken_in_a_new_process(model: Path, *, lean: bool) -> int:
    """Return how much anonymous memory opening a session takes; here, freed memory might be used again."""
    command = [sys.executable, "-c", TAKING, str(model), str(lean)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
