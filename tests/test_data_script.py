"""Data scripts: they run as a script does, and their errors are told by file and line."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.feeds import open_source
from rankfold.values import InputSpec

X = InputSpec("x", "float32", ("batch", 3))


def count(folder: Path, text: str) -> int:
    (folder / "loader.py").write_text(text)
    return sum(1 for _ in open_source(folder / "loader.py", (X,)).units)


HEAD = "import numpy as np\nX = np.ones((2, 3), np.float32)\n"


READER = """
class Reader:
    left = 2
    def get_next(self):
        self.left -= 1
        return {'x': X} if self.left >= 0 else None
load_data = Reader
"""


@pytest.mark.parametrize(
    "body",
    [
        "def load_data():\n    return [{'x': X}, {'x': X}]",
        "def load_data():\n    yield {'x': X}\n    yield {'x': X}",
        "def load_data():\n    return {'x': np.ones((4, 3), np.float32)}",
        READER,
    ],
)
def test_what_load_data_may_give(tmp_path, body):
    assert count(tmp_path, HEAD + body) == 4


def test_neighbours_are_importable_while_it_runs_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "rankfold_test_neighbour.py").write_text("ROWS = 5")
    before = list(sys.path)
    text = HEAD + (
        "from dataclasses import dataclass\n@dataclass\nclass Sizes:\n    rows: 'int'\n"
        "def load_data():\n    from rankfold_test_neighbour import ROWS\n"
        "    yield {'x': np.ones((Sizes(ROWS).rows, 3), np.float32)}"
    )
    try:
        assert count(tmp_path, text) == 5
    finally:
        sys.modules.pop("rankfold_test_neighbour", None)
    assert sys.path == before
    assert not (tmp_path / "__pycache__" / "loader.cpython-311.pyc").exists()


def test_the_working_folder_is_the_scripts_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    text = HEAD + (
        "import os\ndef load_data():\n    os.chdir('there')\n    for _ in range(2):\n"
        "        assert os.path.basename(os.getcwd()) == 'there'\n        yield {'x': X}"
    )
    (tmp_path / "loader.py").write_text(text)
    folders = [Path.cwd() for _ in open_source(Path("loader.py"), (X,)).units]
    assert folders == [tmp_path] * 4
    assert Path.cwd() == tmp_path


def test_a_working_folder_that_the_script_removes_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = HEAD + (
        "import os, tempfile\ndef load_data():\n    with tempfile.TemporaryDirectory() as folder:\n"
        "        os.chdir(folder)\n    return {'x': X}"
    )
    assert count(tmp_path, text) == 2
    assert Path.cwd() == tmp_path


def test_main_block_does_not_run(tmp_path):
    assert (
        count(tmp_path, HEAD + "if __name__ == '__main__':\n    raise KeyError\ndef load_data():\n    yield {'x': X}")
        == 2
    )


@pytest.mark.parametrize(
    ("body", "message", "cause"),
    [
        ("1 / 0", "line 3: the script raised ZeroDivisionError: division by zero", ZeroDivisionError),
        ("def load_data():\n    yield {'x': X}\n    np.load('/none.npy')", "line 5: .*FileNotFoundError", OSError),
        ("def load_data():\n    raise KeyError('a')", "line 4: the script raised KeyError: 'a'", KeyError),
        ("def load_data(:\n", "line 3: the script raised SyntaxError", SyntaxError),
        ("raise SystemExit('usage')", "line 3: the script raised SystemExit: usage", SystemExit),
        ("def load_data(path): ...", "the script raised TypeError", TypeError),
    ],
)
def test_errors_name_script_and_line_and_keep_the_cause(tmp_path, body, message, cause):
    with pytest.raises(CalibrationDataError, match=r"loader\.py.*" + message) as caught:
        count(tmp_path, HEAD + body)
    assert isinstance(caught.value.__cause__, cause)


def test_no_load_data(tmp_path):
    with pytest.raises(CalibrationDataError, match=r"has no function load_data\(\)"):
        count(tmp_path, HEAD)


def test_load_data_that_gives_nothing(tmp_path):
    with pytest.raises(CalibrationDataError, match="data is a NoneType; expected"):
        count(tmp_path, HEAD + "def load_data(): pass")
    with pytest.raises(CalibrationDataError, match=r"loader\.py: no feeds"):
        count(tmp_path, HEAD + "def load_data(): return []")


def test_errors_of_the_reader_of_the_units_are_not_the_scripts(tmp_path):
    def consume() -> None:
        for _ in open_source(tmp_path / "loader.py", (X,)).units:
            raise KeyError

    (tmp_path / "loader.py").write_text(HEAD + "def load_data():\n    yield {'x': X}")
    with pytest.raises(KeyError):
        consume()
    assert str(tmp_path) not in sys.path


def test_interrupt_passes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        count(tmp_path, HEAD + "def load_data():\n    raise KeyboardInterrupt")


def test_arrays_keep_their_values(tmp_path):
    (tmp_path / "loader.py").write_text(HEAD + "def load_data():\n    yield {'x': X * 2}")
    (first, _) = (unit.feed["x"] for unit in open_source(tmp_path / "loader.py", (X,)).units)
    np.testing.assert_array_equal(first, np.full((1, 3), 2.0))
