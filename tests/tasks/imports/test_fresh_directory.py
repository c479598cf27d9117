from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.imports.fresh_directory import fresh_directory

REPOSITORY = Path(__file__).resolve().parents[3]
KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.imports.fresh_directory import fresh_directory
with fresh_directory(Path(sys.argv[1])) as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), int(sys.argv[2]))
    import time; time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_the_process_nothing_half_written_has_the_name_and_the_next_import_tidies_up(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "made"), str(int(number))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False, stderr=subprocess.DEVNULL, timeout=50,
    )  # fmt: skip
    assert done.returncode != 0
    assert not (tmp_path / "made").exists()
    assert (number is not signal.SIGINT) == any(tmp_path.iterdir())
    with fresh_directory(tmp_path / "made") as folder:
        (folder / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "whole"]


def test_what_comes_to_be_called_so_meanwhile_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with pytest.raises(InputError, match="made: is there already"), fresh_directory(tmp_path / "made"):
        shutil.copytree(tmp_path, tmp_path / "made", ignore=shutil.ignore_patterns(".*", "made"))
    assert [path.name for path in tmp_path.glob("made/*")] == ["other"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), fresh_directory(tmp_path / "made"):
        raise OSError("full")
    assert not list(tmp_path.iterdir())
