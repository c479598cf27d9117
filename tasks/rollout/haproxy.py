"""HAProxy as the splitter of a rollout: the weights of two servers of a backend, set through its runtime socket.

The socket speaks one line of text and closes: https://docs.haproxy.org/2.6/management.html#9.3. A setting that succeeds
answers with an empty line. Weights live in HAProxy's memory alone, so they are set anew at each look where they differ.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import InputError, StageError, printable

if TYPE_CHECKING:
    from pathlib import Path

MOST_WEIGHT = 256
ANSWER_S = 5.0
_MOST_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_WEIGHT = re.compile(r"(\d+) \(initial \d+\)")


def weights_of(percent: float) -> tuple[int, int]:
    """The weights of production and of the canary: of 256 together, the canary never has more than `percent`.

    0 and 100 are exact; the least share that is not 0 is 0.4 %, and what lies below it is 0.
    """
    canary = int(MOST_WEIGHT * percent / 100)
    return MOST_WEIGHT - canary, canary


@dataclass(frozen=True)
class HaproxyBackend:
    """Two servers of a backend of the HAProxy whose runtime socket lies at `path`.

    Raises:
        InputError: a name is none of HAProxy's, or both servers are one.
    """

    path: Path
    backend: str
    production: str
    canary: str

    def __post_init__(self) -> None:
        for option, name in (("backend", self.backend), ("production", self.production), ("canary", self.canary)):
            if not _NAME.fullmatch(name):
                raise InputError(f"--{option} {name!r}: HAProxy has no such names; give it as its configuration does")
        if self.production == self.canary:
            raise InputError(f"--canary {self.canary}: is the server of production too; give each one of its own")

    def read(self) -> tuple[int, int]:
        """The weights of production and of the canary.

        Raises:
            InputError: there is no such backend or server, or nobody may use the socket.
            StageError: HAProxy does not answer.
        """
        return self._weight(self.production), self._weight(self.canary)

    def split(self, percent: float) -> bool:
        """Give the canary its share; False where HAProxy had these weights already.

        The side that grows is set first, so that one of both takes requests at every moment.

        Raises:
            InputError, StageError: see `read`; or HAProxy did not take a weight.
        """
        wanted = dict(zip((self.production, self.canary), weights_of(percent), strict=True))
        before = dict(zip((self.production, self.canary), self.read(), strict=True))
        changes = sorted(
            (name for name in wanted if wanted[name] != before[name]), key=lambda name: wanted[name] < before[name]
        )
        for name in changes:
            self._ask(f"set server {self.backend}/{name} weight {wanted[name]}")
        if changes and self.read() != tuple(wanted.values()):
            raise StageError(
                f"HAProxy at {self.path} did not keep the weights of {self.backend}; see that `dynamic` weights are"
                " allowed by its `balance` algorithm (static-rr takes none)"
            )
        return bool(changes)

    def _weight(self, server: str) -> int:
        answer = self._ask(f"get weight {self.backend}/{server}")
        found = _WEIGHT.search(answer)
        if found is None:
            raise InputError(
                f"HAProxy at {self.path} has no server {self.backend}/{server} ({printable(answer.strip())[:200]});"
                " correct --backend and the servers' names"
            )
        return int(found[1])

    def _ask(self, command: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(ANSWER_S)
                connection.connect(str(self.path))
                connection.sendall(f"{command}\n".encode())
                answer = b""
                while len(answer) < _MOST_BYTES and (part := connection.recv(1 << 16)):
                    answer += part
        except (FileNotFoundError, PermissionError) as error:
            raise InputError(
                f"--socket {self.path}: {error.strerror}; give the path of HAProxy's `stats socket … level admin`, and"
                " run as a user who may write to it"
            ) from None
        except OSError as error:
            raise StageError(f"HAProxy at {self.path} does not answer ({error}); see that it runs") from None
        text = answer.decode(errors="replace")
        if "Permission denied" in text:
            raise InputError(f"HAProxy at {self.path} lets nobody set weights; add `level admin` to its `stats socket`")
        return text
