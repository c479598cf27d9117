"""What the interpreter that has torch, this one or another, would run the module with; nothing is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError

if TYPE_CHECKING:
    from pathlib import Path

# What the child that runs the module imports, beside what these bring themselves.
PACKAGES = ("torch", "safetensors", "numpy", "pydantic", "pyyaml")
QUESTION = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": ".".join(platform.python_version_tuple()[:2])}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
TIME_LIMIT_S = 60


def torch_versions(python: Path | None) -> dict[str, str] | None:
    """Versions by package of `python`, by default this interpreter; None where it has no torch.

    Raises:
        InputError: `python` was named, and cannot run the module.
        StageError: this interpreter does not answer.
    """
    program = str(python or sys.executable)
    try:
        found = _ask(program, own=python is None)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        if python is None:
            raise StageError(
                f"this Python, {program}, does not tell its packages ({error}); install Enginegate anew, or name one"
                " that has torch in ENGINEGATE_TORCH_PYTHON"
            ) from None
        raise InputError(
            f"ENGINEGATE_TORCH_PYTHON: {program} is no Python that answers ({error}); correct it"
        ) from None
    lacks = [name for name in PACKAGES if name not in found]
    if python is not None and lacks:
        raise InputError(
            f"ENGINEGATE_TORCH_PYTHON: {python} has no {', '.join(lacks)}; install that there, or unset it"
        )
    return None if "torch" in lacks else found


def _ask(program: str, *, own: bool) -> dict[str, str]:
    """Ask as a child would be run: without this interpreter's packages, and without the current folder's code."""
    environment = {name: value for name, value in os.environ.items() if own or name != "PYTHONPATH"}
    answer = subprocess.run(
        [program, "-", *PACKAGES],
        input=QUESTION,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIME_LIMIT_S,
        env=environment,
        cwd="/",
    )
    found: dict[str, str] = json.loads(answer.stdout)
    return found
