"""The supervising parent with children that are made up: some end well, some crash, some are stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervise_examples import PATIENCE_S, ended, opened, wait_for

from rankfold.tools.supervise import end_message

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

NOTES = "from pathlib import Path; import os, signal, sys, time; from rankfold.tools.run_notes import *; "
LEAVE = "from rankfold.passes.partial_files import *; from rankfold.passes import partial_files as p; "


def start(folder: Path, script: str, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """Start the parent with a child that runs `script` instead of the command line."""
    parent = before + (
        "import sys; from rankfold.tools.supervise import main;"
        f"sys.exit(main(sys.argv[1:], command=[sys.executable, '-c', {NOTES + script!r}]))"
    )
    return opened([sys.executable, "-c", parent, *arguments], folder)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 70, 130])
def test_the_childs_exit_code_is_passed_on(tmp_path: Path, code: int) -> None:
    assert ended(start(tmp_path, f"note_end({code}); sys.exit({code})")) == (code, "")


def test_the_arguments_are_passed_on(tmp_path: Path) -> None:
    process = start(tmp_path, "print(sys.argv[1:]); note_end(0)", "a b", "--c")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert output == "['a b', '--c']\n"


def test_a_native_crash_is_one_message(tmp_path: Path) -> None:
    script = "note_stage('calibrating'); os.kill(os.getpid(), signal.SIGSEGV)"
    code, message = ended(start(tmp_path, script, "compress", "my model.onnx"))
    assert code == 3
    assert message.startswith("rankfold: the command was killed by SIGSEGV during 'calibrating': a native crash inside")
    assert "command: rankfold compress 'my model.onnx'" in message
    assert "Traceback" not in message


def test_a_kill_is_told_as_out_of_memory(tmp_path: Path) -> None:
    code, message = ended(start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", "analyze", "m.onnx"))
    assert code == 3
    assert message.startswith("rankfold: the command was killed by SIGKILL: most likely the system ran out of memory")
    assert "--batch-size" in message


def test_an_unknown_signal_is_told_by_its_number() -> None:
    assert "killed by signal 99" in end_message(["analyze"], code=-99, stage="")


def test_what_a_dead_child_left_unfinished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    stays = ["model.onnx", ".model.onnx.1.partial", ".hidden", ".model.onnx.1.abc.partial"]
    for name in stays:
        (outputs / name).mkdir()
    script = (
        LEAVE + "folder = Path('outputs'); note_output_folder(folder); held = p._locked_folder(folder / 'model.onnx');"
        "(held[0] / 'model.onnx').touch(); other = p._locked_folder(folder / 'held_out.npz');"
        "assert len(list(folder.iterdir())) == 6; import tempfile; tempfile.mkdtemp();"
        "os.kill(os.getpid(), signal.SIGABRT)"
    )
    code, message = ended(start(tmp_path, script))
    assert (code, "SIGABRT" in message) == (3, True)
    assert sorted(path.name for path in outputs.iterdir()) == sorted(stays)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_termination_is_passed_on_and_tidied_up(tmp_path: Path) -> None:
    script = (
        LEAVE + "note_output_folder(Path('.')); held = p._locked_folder(Path('out.onnx').absolute());"
        "Path('ready').touch(); time.sleep(600)"
    )
    process = start(tmp_path, script)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (128 + signal.SIGTERM, "rankfold: stopped by SIGTERM; nothing half-written was left\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready", "tmp"]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_other_ends_are_passed_on_too(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    process = start(tmp_path, "Path('ready').touch(); time.sleep(600)")
    wait_for(tmp_path / "ready")
    process.send_signal(number)
    assert ended(process) == (128 + number, f"rankfold: stopped by {name}; nothing half-written was left\n")


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    parent = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    script = "Path('ready').touch();\nwhile not Path('go').exists(): time.sleep(0.01)\nnote_end(0)"
    process = start(tmp_path, script, before=parent)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert ended(process) == (0, "")


@pytest.mark.parametrize("code", [0, 1, 2, 3, 70])
def test_an_end_without_a_result_is_no_success(code: int, tmp_path: Path) -> None:
    found, message = ended(start(tmp_path, f"note_stage('calibrating'); os._exit({code})", "compress", "m.onnx"))
    assert found == 3
    assert message.startswith(f"rankfold: the command ended with code {code} during 'calibrating' and without a result")
    assert "such as os._exit() in a data script" in message
    assert "command: rankfold compress m.onnx" in message


def test_a_crash_after_the_end_takes_nothing_back(tmp_path: Path) -> None:
    assert ended(start(tmp_path, "note_end(1); os.kill(os.getpid(), signal.SIGSEGV)")) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="asked of Linux")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "from rankfold.tools import child, cli\n"
        "def endless(words):\n    Path('ready').write_text(str(os.getpid()))\n    time.sleep(600)\n"
        "cli.main = endless\nsys.exit(child.main())"
    )
    process = start(tmp_path, script)
    wait_for(tmp_path / "ready")
    time.sleep(0.1)
    child = int((tmp_path / "ready").read_text())
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (left,) = (tmp_path / "tmp").iterdir()
    assert ended(start(tmp_path, "note_end(0)")) == (0, "")
    assert not left.exists()  # the next run tidies up


def test_no_room_for_temporary_files_is_told(tmp_path: Path) -> None:
    script = (
        "import sys, tempfile; from pathlib import Path; tempfile.tempdir = str(Path('nowhere').absolute());"
        "from rankfold.tools.supervise import main; sys.exit(main(['analyze']))"
    )
    code, message = ended(opened([sys.executable, "-c", script], tmp_path))
    assert code == 3
    assert message.startswith("rankfold: the command cannot be started: ")
    assert message.count("\n") == 1


def test_a_second_signal_kills_a_child_that_does_not_heed_the_first(tmp_path: Path) -> None:
    script = "signal.signal(signal.SIGINT, lambda *_: Path('heard').touch()); Path('ready').touch(); time.sleep(600)"
    process = start(tmp_path, script)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "heard")
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "rankfold: stopped by SIGINT; nothing half-written was left\n")


def test_the_parent_stays_small() -> None:
    script = (
        "import sys; import rankfold.tools.supervise;"
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'cyclopts', 'rich', 'rankfold.values'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"


def test_a_bug_is_no_exceeded_limit(tmp_path: Path) -> None:
    script = "from rankfold.tools import child, cli; cli.main = lambda words: 1 / 0; sys.exit(child.main())"
    code, message = ended(start(tmp_path, script))
    assert code == 70
    assert "ZeroDivisionError" in message
    assert "this is a bug in rankfold" in message
