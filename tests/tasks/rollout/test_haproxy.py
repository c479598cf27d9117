"""HAProxy, a real one where it is installed, splits as a rollout says."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from tasks.errors import InputError, StageError
from tasks.rollout.haproxy import HaproxyBackend, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY = shutil.which("haproxy") or "/usr/sbin/haproxy"
needs_haproxy = pytest.mark.skipif(
    not Path(BINARY).exists(), reason="haproxy is not installed; apt-get install haproxy"
)
CONFIG = """
global
    stats socket {folder}/admin.sock mode 600 level {level}
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend front
    bind 127.0.0.1:{port}
    default_backend scorer
backend scorer
    balance {balance}
    http-send-name-header x-enginegate-arm
    server production 127.0.0.1:{production} weight 100
    server canary 127.0.0.1:{canary} weight 0
"""


@pytest.mark.parametrize(
    ("percent", "weights"),
    [(0, (256, 0)), (100, (0, 256)), (5, (244, 12)), (25, (192, 64)), (1, (254, 2)), (0.5, (255, 1)), (0.2, (256, 0))],
)
def test_the_canary_never_gets_more_than_its_share(percent: float, weights: tuple[int, int]) -> None:
    found = weights_of(percent)
    assert all(0 <= weight <= 256 for weight in found)
    assert found == weights


class Server(ThreadingHTTPServer):
    """Answers with its own name and the arm that it was asked as."""

    def __init__(self, name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer: the second of two waits 40 ms for the first one's receipt

            def do_GET(self) -> None:
                content = f"{name} {' '.join(self.headers.get_all('x-enginegate-arm', []))}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Haproxy:
    """A HAProxy before two servers."""

    def __init__(self, folder: Path, level: str = "admin", balance: str = "roundrobin") -> None:
        self.folder, self.servers = folder, [Server("production"), Server("canary")]
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        production, canary = (server.server_port for server in self.servers)
        text = CONFIG.format(
            folder=folder, port=self.port, level=level, balance=balance, production=production, canary=canary
        )
        (folder / "haproxy.cfg").write_text(text)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [BINARY, "-db", "-f", str(self.folder / "haproxy.cfg")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.stop()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def backend(self, **changes: Any) -> HaproxyBackend:
        names = {"backend": "scorer", "production": "production", "canary": "canary"}
        return HaproxyBackend(self.folder / "admin.sock", **{**names, **changes})

    def ask(self, times: int) -> Counter[str]:
        """Whose answers come, as `server arm`, of users of a name each."""
        return Counter(self._answers(times))

    def users_of_canary(self, users: int) -> set[int]:
        """Which of so many users the canary answers."""
        return {user for user, answer in enumerate(self._answers(users)) if answer == "canary canary"}

    def _answers(self, users: int) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        found = []
        for number in range(users):
            # Each names the canary's side, as one who would choose it.
            connection.request("GET", "/", headers={"x-user": f"user-{number}", "x-enginegate-arm": "canary"})
            found.append(connection.getresponse().read().decode())
        connection.close()
        return found


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    started = Haproxy(tmp_path)
    yield started
    started.close()


@needs_haproxy
def test_shares_are_those_of_the_rollout_and_0_and_100_are_exact(haproxy: Haproxy) -> None:
    backend = haproxy.backend()
    for percent in (5.0, 25.0, 100.0, 0.0):
        backend.split(percent)
        found = haproxy.ask(2000)
        assert set(found) <= {"production production", "canary canary"}
        low, high = stats.binom.interval(0.999, 2000, percent / 100) if 0 < percent < 100 else (20 * percent,) * 2
        assert low <= found["canary canary"] <= high


@needs_haproxy
def test_what_is_so_already_is_not_set_again_and_a_restart_is_made_good(haproxy: Haproxy) -> None:
    backend = haproxy.backend()
    assert [backend.split(25.0), backend.split(25.0)] == [True, False]
    haproxy.stop()
    with pytest.raises(StageError, match="does not answer"):
        backend.split(25.0)
    haproxy.start()
    assert backend.read() == (100, 0)
    assert backend.split(25.0)
    assert backend.read() == (192, 64)


@needs_haproxy
def test_no_user_leaves_the_canary_while_its_share_grows_with_a_consistent_hash(tmp_path: Path) -> None:
    haproxy = Haproxy(tmp_path, balance="hdr(x-user)\n    hash-type consistent")
    try:
        before: set[int] = set()
        for percent in (1.0, 5.0, 25.0, 50.0, 100.0):
            haproxy.backend().split(percent)
            users = haproxy.users_of_canary(2000)
            assert before <= users
            assert abs(len(users) / 20 - percent) < 3
            before = users
    finally:
        haproxy.close()


@needs_haproxy
def test_what_is_wrong_is_said_with_the_option(haproxy: Haproxy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no server scorer/elsewhere .*correct --backend"):
        haproxy.backend(canary="elsewhere").split(5.0)
    with pytest.raises(InputError, match="has no server nowhere/production"):
        haproxy.backend(backend="nowhere").split(5.0)
    with pytest.raises(InputError, match=r"--socket .*No such file"):
        HaproxyBackend(tmp_path / "none.sock", "scorer", "production", "canary").read()
    assert haproxy.backend().read() == (100, 0)


@needs_haproxy
def test_a_socket_without_the_right_to_set_is_told(tmp_path: Path) -> None:
    haproxy = Haproxy(tmp_path, level="operator")
    try:
        with pytest.raises(InputError, match="level admin"):
            haproxy.backend().split(5.0)
    finally:
        haproxy.close()


@pytest.mark.parametrize("changes", [{"backend": "a; disable server"}, {"canary": "production"}, {"production": "a b"}])
def test_names_that_haproxy_cannot_have_are_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    names = {"backend": "scorer", "production": "production", "canary": "canary"}
    with pytest.raises(InputError, match=r"--(backend|canary|production) "):
        HaproxyBackend(tmp_path / "admin.sock", **{**names, **changes})
