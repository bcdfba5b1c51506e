"""The supervising parent with real commands: what is told, and what is left, where they crash, end early or stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from supervise_examples import ended, opened, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def start_rankfold(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return opened([sys.executable, "-P", "-m", "rankfold", *arguments], folder)


def save_model(folder: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) <float[8,8] w> {y = MatMul(x, w)}'
    )
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, folder / "model.onnx")


def save_script(folder: Path, after_many: str) -> None:
    """Write a data script that does something after it gave 100 samples, while they are calibrated on."""
    (folder / "data.py").write_text(
        "import os, signal, time, pathlib\nimport numpy as np\n"
        "def load_data():\n"
        "    for number in range(100):\n"
        "        yield {'x': np.full((1, 8), number, np.float32)}\n"
        f"    {after_many}\n"
    )


@pytest.mark.parametrize(
    ("what", "report", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", ".", "was killed by SIGSEGV during 'calibrating'"),
        ("os._exit(0)", "report", "ended with code 0 during 'calibrating' and without a result"),
    ],
)
def test_a_real_command_that_dies_is_no_success_and_leaves_nothing(
    tmp_path: Path, what: str, report: str, told: str
) -> None:
    save_model(tmp_path)
    save_script(tmp_path, what)
    words = ("compress", "model.onnx", "--data", "data.py", "--keep", "0.5", "-o", "out.onnx", "--quiet")
    code, message = ended(start_rankfold(tmp_path, *words, "--report", report))
    assert code == 3
    assert message.startswith(f"rankfold: the command {told}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.py", "model.onnx", "tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_model_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,8] x) => (float[n,8] y)
    <float[8,8] w, int64[2] many = {1000000, 1000000}>
    { h = MatMul(x, w) a = ConstantOfShape(many) b = Sin(a) c = ReduceSum(b) y = Add(h, c) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((50, 8), np.float32))
    words = ("compress", "model.onnx", "--data", "data.npz", "--keep", "0.5", "-o", "out.onnx", "--quiet")
    code, message = ended(start_rankfold(tmp_path, *words))
    assert code == 3
    assert message.startswith("rankfold: onnxruntime runs out of memory on a batch of x float32[1, 8]: ")
    assert message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "model.onnx", "tmp"]


def test_an_interrupted_command_says_so_once_and_leaves_no_output(tmp_path: Path) -> None:
    save_model(tmp_path)
    save_script(tmp_path, "pathlib.Path('ready').touch(); time.sleep(600)")
    words = ("compress", "model.onnx", "--data", "data.py", "--keep", "0.5", "-o", "out.onnx", "--quiet")
    process = start_rankfold(tmp_path, *words, "--report", "report")
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "rankfold: interrupted; nothing half-written was left\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.py", "model.onnx", "ready", "tmp"]


def test_a_file_named_like_a_module_is_not_imported(tmp_path: Path) -> None:
    save_model(tmp_path)
    for name in ("onnx.py", "numpy.py", "rich.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the working directory')")
    assert ended(start_rankfold(tmp_path, "analyze", "model.onnx", "--quiet")) == (0, "")
