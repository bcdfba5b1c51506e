"""What any test may ask for: a folder of its own to run commands in, and gradients.

Gradients are taken in a process of its own that loads torch, seconds each time: by those tests that ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rankfold import sensing


@pytest.fixture(scope="session", autouse=True)
def _by_the_data_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensing, "torch_is_there", lambda: False)
        yield


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the working directory, outside of any supervised run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANKFOLD_RUN_FOLDER", raising=False)
    return tmp_path


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bases go by the loss."""
    monkeypatch.setattr(sensing, "torch_is_there", lambda: True)
