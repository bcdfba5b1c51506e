"""Processes that end with the one that started them: nobody else would tidy up after them.

Standard library only: what supervises a command imports this and must stay small.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "RANKFOLD_PARENT"
"""Environment variable: the number of the process that started this one."""
EXIT_ORPHAN = 70
"""EX_SOFTWARE of sysexits.h."""
_PR_SET_PDEATHSIG = 1


def own_process() -> dict[str, str]:
    """Return the environment of a process that shall end with this one."""
    return {**os.environ, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is killed."""
    parent = os.environ.get(PARENT)
    if sys.platform != "linux" or parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before it could be asked for
        os._exit(EXIT_ORPHAN)
