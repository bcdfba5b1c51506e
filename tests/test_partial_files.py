"""Temporary names, locks and what is removed: by processes that live, that died, and that write at the same time."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rankfold.errors import OutputError
from rankfold.passes.partial_files import partial_folder, place, sweep
from rankfold.passes.write_model import check_writable, staged, whole_file, whole_file_reported

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks")

IMPORTS = "import os, signal, sys, time; from pathlib import Path; from rankfold.passes.partial_files import *; "


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def data_name(content: bytes, stem: str = "out") -> str:
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.data"


def result(folder: Path, content: bytes, name: str = "out.onnx") -> None:
    """Write what stands for a model and its data file."""
    data = data_name(content, name.split(".", maxsplit=1)[0])
    (folder / data).write_bytes(content)
    (folder / name).write_text(f"model with {data}")


def place_result(path: Path, content: bytes) -> None:
    with partial_folder(path) as folder:
        result(folder, content, path.name)
        place(folder, path)


def killed(folder: Path, script: str) -> None:
    """Run a script that kills itself."""
    command = [sys.executable, "-c", IMPORTS + script + "; os.kill(os.getpid(), signal.SIGKILL)"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == -signal.SIGKILL


def test_the_folder_is_there_and_gone(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "out.onnx") as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(f".out.onnx.{os.getpid()}.")
        assert folder.suffix == ".partial"
        (folder / "part").touch()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next_of_that_name(tmp_path: Path) -> None:
    killed(tmp_path, "f = partial_folder(Path('out.onnx')); (f.__enter__() / 'half').touch()")
    killed(tmp_path, "f = partial_folder(Path('other.onnx')); f.__enter__()")
    assert len(names(tmp_path)) == 2
    with partial_folder(tmp_path / "out.onnx"):
        assert len(names(tmp_path)) == 2
    (left,) = names(tmp_path)
    assert left.startswith(".other.onnx.")
    with whole_file(tmp_path / "other.onnx") as file:
        file.write(b"new")
    assert names(tmp_path) == ["other.onnx"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    script = IMPORTS + "f = partial_folder(Path('out.onnx')); f.__enter__(); print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        living.stdout.readline()
        (held,) = names(tmp_path)
        sweep(tmp_path)
        with partial_folder(tmp_path / "out.onnx"):
            pass
        assert names(tmp_path) == [held]
        living.kill()
    sweep(tmp_path, pid=living.pid + 1)
    assert names(tmp_path) == [held]
    sweep(tmp_path, pid=living.pid)
    assert names(tmp_path) == []


def test_only_partial_folders_are_swept(tmp_path: Path) -> None:
    stays = [".out.onnx.1.partial", ".out.onnx.x.abc.partial", "out.onnx.1.abc.partial", ".out.onnx.1.abc.part"]
    for name in stays:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.onnx.1.abc.partial").write_text("a file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.onnx.1.xyz.partial").symlink_to("elsewhere")
    before = names(tmp_path)
    sweep(tmp_path)
    assert names(tmp_path) == before


def test_long_names_and_odd_ones(tmp_path: Path) -> None:
    for name in ("n" * 250, "é" * 120, "a*[b].onnx", " "):
        killed(tmp_path, f"f = partial_folder(Path({name!r})); f.__enter__()")
        with whole_file(tmp_path / name) as file:
            file.write(b"x")
        assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_replaced_data_is_removed_once_the_new_model_stands(tmp_path: Path) -> None:
    result(tmp_path, b"old")
    place_result(tmp_path / "out.onnx", b"new")
    assert names(tmp_path) == sorted([data_name(b"new"), "out.onnx"])
    place_result(tmp_path / "out.onnx", b"new")  # the same bytes again
    assert names(tmp_path) == sorted([data_name(b"new"), "out.onnx"])


def test_data_that_another_file_names_stays(tmp_path: Path) -> None:
    result(tmp_path, b"old")
    (tmp_path / "best.onnx").write_bytes((tmp_path / "out.onnx").read_bytes())
    place_result(tmp_path / "out.onnx", b"new")
    assert data_name(b"old") in names(tmp_path)


def test_data_that_is_not_ours_stays(tmp_path: Path) -> None:
    foreign = "out.0123456789ab.data"  # named like ours, with other content
    (tmp_path / foreign).write_bytes(b"precious")
    (tmp_path / "weights.data").write_bytes(b"precious")
    (tmp_path / "out.onnx").write_text(f"{foreign} weights.data")
    (tmp_path / data_name(b"unnamed")).write_bytes(b"unnamed")  # ours, but the replaced model did not name it
    place_result(tmp_path / "out.onnx", b"new")
    assert {foreign, "weights.data", data_name(b"unnamed")} < set(names(tmp_path))


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_data_of_a_run_killed_while_placing_is_removed_later(moment: str, tmp_path: Path) -> None:
    result(tmp_path, b"old")
    script = f"""
import hashlib, os, signal
from pathlib import Path
import rankfold.passes.partial_files as module
from rankfold.passes.partial_files import partial_folder, place
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
real = os.replace
def replaced(source, target):
    if {moment!r} == "before" or ({moment!r} == "between" and str(target).endswith(".onnx")):
        die()
    real(source, target)
os.replace = replaced
module._remove_unneeded = die
with partial_folder(Path("out.onnx")) as folder:
    (folder / {data_name(b"new")!r}).write_bytes(b"new")
    (folder / "out.onnx").write_text("model with " + {data_name(b"new")!r})
    place(folder, Path("out.onnx"))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    standing = b"new" if moment == "after" else b"old"
    assert (tmp_path / "out.onnx").read_text() == f"model with {data_name(standing)}"
    assert (tmp_path / data_name(standing)).read_bytes() == standing
    sweep(tmp_path)
    assert names(tmp_path) == sorted([data_name(standing), "out.onnx"])


def test_a_note_removes_nothing_outside_and_nothing_foreign(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    outside = tmp_path / data_name(b"outside")
    outside.write_bytes(b"outside")
    (folder / "precious.txt").write_bytes(b"precious")
    left = folder / ".out.onnx.1.abc.partial"
    left.mkdir()
    (left / ".unneeded").write_text(f"../{outside.name}\nprecious.txt\n..\n\nmissing.0123456789ab.data")
    sweep(folder)
    assert names(folder) == ["precious.txt"]
    assert outside.exists()


def test_of_two_processes_one_wins_whole(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_partial_files import place_result
for number in range(60):
    place_result(Path("out.onnx"), (sys.argv[1] * (1 + number % 3)).encode())
"""
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen([*command, word], cwd=tmp_path) for word in ("one", "two")]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (data,) = set(names(tmp_path)) - {"out.onnx"}
    assert (tmp_path / "out.onnx").read_text() == f"model with {data}"
    assert data == data_name((tmp_path / data).read_bytes())


def test_a_failure_while_placing_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result(tmp_path, b"old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "out.onnx":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"), staged(tmp_path / "out.onnx") as path:
        result(path.parent, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_failure_in_a_staged_place_names_the_place_that_is_meant(tmp_path: Path) -> None:
    wanted = re.escape(f"{tmp_path / 'out.onnx'}: cannot be written")
    with staged(tmp_path / "out.onnx") as path:
        path.mkdir()
        with pytest.raises(OutputError, match=wanted), whole_file_reported(path) as file:
            file.write(b"x")
        path.rmdir()
        path.touch()


def test_what_is_no_plain_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OutputError, match="it is no plain file"):
        check_writable(tmp_path / "pipe.onnx")
    assert names(tmp_path) == ["pipe.onnx"]


def test_the_same_name_may_be_prepared_twice_at_once(tmp_path: Path) -> None:
    with whole_file(tmp_path / "o") as first, whole_file(tmp_path / "o") as second:
        first.write(b"1")
        second.write(b"2")
    assert (tmp_path / "o").read_bytes() == b"1"
    assert names(tmp_path) == ["o"]
