"""The `rankfold` command: runs the whole command in one child process, so that a native crash becomes a message.

The parent imports the standard library and `run_notes` only. It passes signals on to the child, passes the child's
exit code back, and removes what a child that died left behind.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rankfold.tools.run_notes import RUN_FOLDER, noted_stage, remove_unfinished

EXIT_UNUSABLE_INPUT = 3
_SIGNALLED = 128
"""A shell's convention: 128 + the number of the signal that ended the command."""
_COMMAND = (sys.executable, "-P", "-m", "rankfold.tools.child")
"""-P: a file of the working directory named like a module, such as `onnx.py`, must not be imported instead of it."""


def main(arguments: Sequence[str] | None = None, *, command: Sequence[str] = _COMMAND) -> int:
    """Run `rankfold` with these arguments (default: the process's own) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="rankfold-", ignore_cleanup_errors=True) as folder:
        run_folder = Path(folder)
        with _passing_signals() as (children, received):
            child = subprocess.Popen([*command, *given], env=_environment(run_folder))
            children.append(child)
            for number in received:  # came while the child was being started
                child.send_signal(number)
            code = child.wait()
        remove_unfinished(run_folder, child.pid)
        stage = noted_stage(run_folder)
    if code >= 0:
        return code
    if received:
        print(
            f"rankfold: stopped by {signal.Signals(received[0]).name}; nothing half-written was left", file=sys.stderr
        )
        return _SIGNALLED + received[0]
    print(crash_message(given, signal_number=-code, stage=stage), file=sys.stderr)
    return EXIT_UNUSABLE_INPUT


def crash_message(arguments: Sequence[str], *, signal_number: int, stage: str) -> str:
    """Return one message about a command that a signal killed: what ran, what it means, what to try."""
    name = signal.Signals(signal_number).name if signal_number in set(signal.Signals) else f"signal {signal_number}"
    during = f" during {stage!r}" if stage else ""
    return (
        f"rankfold: the command was killed by {name}{during}: {_meaning(signal_number)}\n"
        f"  command: {shlex.join(['rankfold', *arguments])}\n"
        "  No half-written output was left."
    )


def _meaning(signal_number: int) -> str:
    if signal_number == getattr(signal, "SIGKILL", None):
        return (
            "most likely the system ran out of memory. Try a smaller --batch-size, fewer samples, or a machine (or"
            " container limit) with more memory."
        )
    if signal_number in (signal.SIGTERM, signal.SIGINT):
        return "something outside rankfold stopped it. Run it again."
    return (
        "a native crash inside onnxruntime or another compiled library, not an error that rankfold could catch. Check"
        " that the model runs in plain onnxruntime, export it again or try another onnxruntime version; with"
        " --provider cuda, try --provider cpu."
    )


# glibc keeps freed memory for later and raises its thresholds as it goes: sessions that are closed would go on
# counting. With fixed thresholds large blocks go back at once; other allocators ignore these names.
_RETURN_MEMORY = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


def _environment(run_folder: Path) -> dict[str, str]:
    """Return the child's environment: its temporary files go where the parent removes them."""
    folder = str(run_folder)
    return {**_RETURN_MEMORY, **os.environ, RUN_FOLDER: folder, "TMPDIR": folder, "TEMP": folder, "TMP": folder}


@contextmanager
def _passing_signals() -> Iterator[tuple[list[subprocess.Popen[bytes]], list[int]]]:
    """Pass SIGINT and SIGTERM on to the child and kill it at the second one; yield (children, signals received).

    The caller appends the child once it runs. At a terminal Ctrl-C reaches the child by itself too; it heeds the
    first SIGINT only.
    """
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            if len(received) > 1:
                child.kill()
            else:
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
