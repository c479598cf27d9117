from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]
ASK = "import sys; from pathlib import Path; from tasks.model.model_directory import read_model_directory as read\n"
ASK += "print(*read(Path(sys.argv[1])).source_paths(), file=open(sys.argv[2], 'w'))"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_log_that_a_command_writes_is_no_part_of_the_model_and_another_is(
    write_model: Callable[..., Path], tmp_path: Path, stream: str
) -> None:
    folder = write_model()
    (folder / "older.log").write_text("of another run")
    with (folder / "convert.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-c", ASK, str(folder), str(tmp_path / "said")],
            cwd=REPOSITORY, check=True, env=os.environ, stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: log},
        )  # fmt: skip
    assert (tmp_path / "said").read_text().split() == ["model.py", "older.log"]
