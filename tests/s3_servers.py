"""S3 on loopback for tests: moto's, Debian's radosgw, and a proxy that makes calls fail."""

from __future__ import annotations

import http.client
import io
import logging
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.retries.standard import ExponentialBackoff  # type: ignore[import-untyped]

from tests.radosgw import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

REPOSITORY = Path(__file__).resolve().parents[1]
BUCKET = "engines"
REGION = "us-east-1"
DELAY_S, WAIT_S = 0.05, 0.01
PAGE = 100
"""Keys of a page of moto's, where S3 gives 1000: a test of two pages writes a tenth of the objects."""
MOTO_SETTINGS = {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE), "MOTO_DISABLE_GLOBAL_CORS": "true"}
# A session reads a megabyte of JSON for its first client, 0.1 s. Tests make hundreds of sessions: all read it once.
botocore.session.create_loader = cache(botocore.session.create_loader)


def aws_settings(endpoint: str) -> dict[str, str]:
    """The environment that leads any AWS tool to a server."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(endpoint: str) -> None:
    """Make the bucket of the tests."""
    client = boto3.Session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
    )
    client.create_bucket(Bucket=BUCKET)


class OneAtATime:
    """A WSGI application whose requests run one after another.

    moto looks for an object and then writes it, with nothing in between to hold others off; S3's conditions are atomic.
    """

    def __init__(self, application: Any) -> None:
        self._application, self._lock = application, threading.Lock()

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # The body first: a client that stops in the middle of one must hold nobody up.
        length = int(environment.get("CONTENT_LENGTH") or 0)
        body = environment["wsgi.input"].read(length)
        if len(body) < length:  # a killed client's: S3 takes no half of a body
            start_response("400 Bad Request", [("Content-Length", "0")])
            return [b""]
        environment["wsgi.input"] = io.BytesIO(body)
        with self._lock:
            return list(self._application(environment, start_response))


@contextmanager
def serve_moto() -> Iterator[str]:
    """Serve moto's S3 on loopback in a process of its own, so that a test may fork; yields the endpoint."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | MOTO_SETTINGS
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def main() -> None:
    """Be moto: print the port, and serve until whoever started this ends."""
    from moto.moto_server.werkzeug_app import create_backend_app  # noqa: PLC0415 - dear, and for this process alone
    from werkzeug.serving import make_server  # noqa: PLC0415 - as above

    application = OneAtATime(create_backend_app("s3"))  # S3 alone: to find a call's service takes moto 1 ms
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)  # noqa: T201 - read by serve_moto
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


@dataclass
class Faults:
    """What a proxy does to calls, and what it did.

    Attributes:
        share: of the calls, 0 to 1, that fail.
        kinds: names of `FaultyProxy`'s methods `fault_…`; one is drawn for each failing call.
        only: called with method and path; a call for which it is false never fails.
        limit: how many calls fail at most.
        meanwhile: called between a call and the loss of its answer.
        seen: how often each kind happened, and `forwarded`, the calls in all that reached the server.
    """

    share: float
    kinds: tuple[str, ...] = ("500", "503", "delay", "drop_before", "drop_after", "cut")
    only: Callable[[str, str], bool] = lambda _method, _path: True
    limit: float = float("inf")
    meanwhile: Callable[[], object] = lambda: None
    seen: dict[str, int] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - a test's
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, method: str, path: str) -> str | None:
        """The kind of fault of the next call, or None."""
        with self.lock:
            failed = sum(count for kind, count in self.seen.items() if kind != "forwarded")
            if failed >= self.limit or not self.only(method, path) or self.random.random() >= self.share:
                return None
            return self.random.choice(self.kinds)

    def count(self, kind: str) -> None:
        """Note that something happened."""
        with self.lock:
            self.seen[kind] = self.seen.get(kind, 0) + 1


class FaultyProxy(BaseHTTPRequestHandler):
    """Hands calls to a server, or fails them."""

    protocol_version = "HTTP/1.1"
    upstream: ClassVar[str]
    faults: ClassVar[Faults]

    def log_message(self, *_arguments: object) -> None:
        """Be quiet."""

    def handle(self) -> None:
        """Serve a connection, which clients may drop."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def _call(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.faults.draw(self.command, self.path)
        if kind is None:
            self._answer(*self._forward(body))
        else:
            self.faults.count(kind)
            getattr(self, f"fault_{kind}")(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _call  # noqa: N815 - names that http.server looks for

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "connection"}:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            self.faults.count("forwarded")
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: float = 1.0) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        known = [value for name, value in headers if name.lower() == "content-length"]
        self.send_header("Content-Length", known[0] if self.command == "HEAD" and known else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: int(len(body) * sent)])

    def _fail(self, status: int, code: str) -> None:
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], content)

    def fault_500(self, _body: bytes) -> None:
        """An internal error; nothing was done."""
        self._fail(500, "InternalError")

    def fault_503(self, _body: bytes) -> None:
        """Throttled; nothing was done."""
        self._fail(503, "SlowDown")

    def fault_500_after(self, body: bytes) -> None:
        """An internal error, though all was done."""
        self._forward(body)
        self._fail(500, "InternalError")

    def fault_conflict(self, _body: bytes) -> None:
        """Another write at the same moment; nothing was done."""
        self._fail(409, "ConditionalRequestConflict")

    def fault_redirect(self, _body: bytes) -> None:
        """Another server is named, as for a bucket of another region."""
        self._answer(307, [("Location", f"http://127.0.0.1:1{self.path}")], b"")

    def fault_no_if_match(self, body: bytes) -> None:
        """Carried out as by a server that does not know this condition."""
        del self.headers["If-Match"]
        self._answer(*self._forward(body))

    def fault_no_if_none_match(self, body: bytes) -> None:
        """The same of the other one."""
        del self.headers["If-None-Match"]
        self._answer(*self._forward(body))

    def fault_delay(self, body: bytes) -> None:
        """Late, and all is well."""
        time.sleep(DELAY_S)
        self._answer(*self._forward(body))

    def fault_flip(self, body: bytes) -> None:
        """One bit of the body changes on its way."""
        self._answer(*self._forward(bytes([body[0] ^ 1]) + body[1:]))

    def fault_stall(self, body: bytes) -> None:
        """Done, and answered when the client has given up."""
        answer = self._forward(body)
        time.sleep(2)
        self._answer(*answer)

    def fault_drop_before(self, _body: bytes) -> None:
        """The connection breaks before the server hears of it."""
        self.close_connection = True

    def fault_drop_after(self, body: bytes) -> None:
        """The connection breaks after the server has done it."""
        self._forward(body)
        self.faults.meanwhile()
        self.close_connection = True

    def fault_cut(self, body: bytes) -> None:
        """The connection breaks in the middle of the answer."""
        status, headers, content = self._forward(body)
        self._answer(status, headers, content, sent=0.5)
        self.close_connection = True


class QuietServer(ThreadingHTTPServer):
    """Many connections at once; what a dying client breaks is no news."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_arguments: object) -> None:
        """Be quiet."""


@contextmanager
def serve_faulty(endpoint: str, faults: Faults) -> Iterator[str]:
    """Serve a proxy of `endpoint` on loopback, for clients that hardly wait between tries; yields its own endpoint."""
    handler = type("Handler", (FaultyProxy,), {"upstream": urlsplit(endpoint).netloc, "faults": faults})
    server = QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with patch.object(ExponentialBackoff, "delay_amount", lambda *_: WAIT_S):
            yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    main()
