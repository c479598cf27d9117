"""Calls git so that nothing a repository says makes it run a program, reach a network or write.

A repository's own configuration may name programs (filters, hooks, fsmonitor, ssh, helpers of remotes). The commands
called here need none of them; the settings below hold even if git would want one, as for an object that a partial
clone lacks.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIMIT_S = 60.0
# Half a million paths, or more.
MOST_BYTES = 64 << 20
LONGEST_COMPLAINT = 4096
OPTIONS = (
    "--no-pager", "--literal-pathspecs", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
    "-c", "protocol.allow=never", "-c", "core.alternateRefsCommand=false",
    "-c", "core.sshCommand=false", "-c", "credential.helper=", "-c", "core.askPass=", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
)  # fmt: skip
HARDENED = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_SYSTEM": os.devnull, "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "false", "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1", "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",  # git 2.44 and later; the next line stops what fetches in the older ones
    "GIT_ALLOW_PROTOCOL": "none",  # over protocol.* of the repository, which is over protocol.allow above
    "LC_ALL": "C",  # git's complaints are looked into
}  # fmt: skip
# It keeps git from looking for a repository above a folder, so it can only narrow what is found.
KEPT = "GIT_CEILING_DIRECTORIES"


@dataclass(frozen=True)
class Answer:
    """What git said: its exit status, its standard output, and its complaint in one line."""

    code: int
    output: bytes
    complaint: str

    @property
    def text(self) -> str | None:
        """The output without the white space around it; None where git failed."""
        return os.fsdecode(self.output).strip() if self.code == 0 else None


def git_environment(ceiling: Path | None = None) -> dict[str, str]:
    """The environment of git: none of the caller's GIT_* variables, which could name another repository.

    With `ceiling`, no repository is looked for in that folder or above it.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name == KEPT}
    narrowed = {} if ceiling is None else {KEPT: str(ceiling)}
    return inherited | HARDENED | narrowed


def git_command(folder: Path, *arguments: str, trusted: Sequence[str] = ()) -> list[str]:
    """The argument list of a hardened call in `folder`; `trusted` are values of safe.directory."""
    safe = [part for value in trusted for part in ("-c", f"safe.directory={value}")]
    return ["git", "-C", str(folder), *OPTIONS, *safe, *arguments]


def call_git(
    folder: Path,
    *arguments: str,
    ceiling: Path | None = None,
    trusted: Sequence[str] = (),
    limit_s: float = LIMIT_S,
) -> Answer:
    """Run git in `folder` for at most `limit_s` seconds, and take in at most `MOST_BYTES` of what it says.

    Raises:
        InputError: there is no git here, or it says more: trees that hold each other many times over can be huge.
        StageError: it took too long.
    """
    command = git_command(folder, *arguments, trusted=trusted)
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=git_environment(ceiling),
            )
        except FileNotFoundError:
            raise InputError("git is not installed here, or not on PATH; install it") from None
        output, is_late = _listen(process, limit_s)
        complaints.seek(0)
        complaint = " ".join(complaints.read(LONGEST_COMPLAINT).decode(errors="replace").split())
    if is_late:
        raise StageError(
            f"git {arguments[0]} took longer than {limit_s:g} s in {folder}; try again, or repack the repository with"
            " `git gc`"
        )
    if len(output) > MOST_BYTES:
        raise InputError(
            f"{folder}: git {arguments[0]} has more to say than {MOST_BYTES >> 20} MiB; a commit with so many files is"
            " none of models: split the repository"
        )
    return Answer(process.returncode, output, complaint)


def _listen(process: subprocess.Popen[bytes], limit_s: float) -> tuple[bytes, bool]:
    """What a process says, but no more than one byte above `MOST_BYTES`; and whether it was ended for being late."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        with process:
            output = process.stdout.read(MOST_BYTES + 1) if process.stdout else b""
            if len(output) > MOST_BYTES:
                process.kill()
    finally:
        timer.cancel()
    return output, late.is_set()


def trusted_directories() -> tuple[str, ...]:
    """The values of safe.directory in this user's and this machine's own configuration, which are theirs to set."""
    values = []
    for scope in ("--system", "--global"):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(
            ["git", "config", scope, "--null", "--get-all", "safe.directory"],  # noqa: S607 - whichever git is here
            capture_output=True, stdin=subprocess.DEVNULL, check=False, env=inherited, cwd="/", timeout=LIMIT_S,
        )  # fmt: skip
        values += os.fsdecode(done.stdout).split("\0") if done.returncode == 0 else []
    return tuple(value for value in values if value)
