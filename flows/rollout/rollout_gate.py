"""Answers controllers of other systems over HTTP whether a rollout passed. It reads the registry, and changes nothing.

| request | 200 where |
|---|---|
| `GET /MODEL/TARGET` | there is a rollout: `outcome` is pass, fail, inconclusive or running |
| `POST /MODEL/TARGET` | it finished |
| `POST /MODEL/TARGET/increase` | it runs and is past `shadow`, or finished |
| `POST /MODEL/TARGET/rollback` | it was rolled back or aborted |

With `?engine=ENGINE_ID` only a rollout of that engine counts; while the last one is another's, the outcome is
`running`: an older success is none of what is deployed today. Else 409, 404 where there is none, and 503 where the
registry cannot be read or trusted, whatever was asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from flows.rollout.rollout_report import outcome_of
from tasks.errors import EnginegateError, InputError
from tasks.registry.rollouts import RolloutAddress
from tasks.registry.steps import RolloutStatus
from tasks.rollout.outside import finished_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.registry.registry import Registry
    from tasks.registry.rollouts import RolloutHistory

SILENCE_S = 20.0
_MOST_BODY = 1 << 20
_ENDED_BADLY = {RolloutStatus.ROLLED_BACK, RolloutStatus.ABORTED}


@dataclass(frozen=True)
class RolloutGate:
    """Reads the registry for each question, so that no answer is older than it."""

    open_registry: Callable[[], Registry]

    def answer(self, method: str, path: str) -> tuple[HTTPStatus, dict[str, Any]]:
        """The status and the document for a request."""
        address = urlsplit(path)
        parts, asked = address.path.strip("/").split("/"), parse_qs(address.query).get("engine")
        question = parts[2] if len(parts) == 3 else ""  # noqa: PLR2004 - MODEL/TARGET/QUESTION
        if not 2 <= len(parts) <= 3 or (question and (method == "GET" or question not in _QUESTIONS)):  # noqa: PLR2004
            return _fault(HTTPStatus.NOT_FOUND, "ask for /MODEL/TARGET")
        try:
            history = self.open_registry().rollouts.read(RolloutAddress(parts[0], parts[1]))
        except InputError as error:
            return _fault(HTTPStatus.NOT_FOUND, str(error))
        except (EnginegateError, OSError) as error:
            return _fault(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        state = None if history.current is None else history.current.rollout
        if state is None:
            return _fault(HTTPStatus.NOT_FOUND, f"rollout {history.address}: nothing was ever rolled out")
        is_other = asked is not None and asked != [state.canary.engine_id]
        agreed = method == "GET" or (not is_other and _QUESTIONS[question](history))
        found = {**_document(history), **({"outcome": "running", "status": "not begun"} if is_other else {})}
        return (HTTPStatus.OK if agreed else HTTPStatus.CONFLICT), found


def _status(history: RolloutHistory) -> RolloutStatus | None:
    state = None if history.current is None else history.current.rollout
    return None if state is None else state.status


def _may_increase(history: RolloutHistory) -> bool:
    status, state = _status(history), history.open_rollout
    return finished_alone(status) or (status is RolloutStatus.RUNNING and state is not None and state.weight > 0)


_QUESTIONS: dict[str, Callable[[RolloutHistory], bool]] = {
    "": lambda history: finished_alone(_status(history)),
    "increase": _may_increase,
    "rollback": lambda history: _status(history) in _ENDED_BADLY,
}


def _document(history: RolloutHistory) -> dict[str, Any]:
    current = history.current
    assert current is not None and current.rollout is not None  # noqa: S101, PT018 - asked by the caller
    state = current.rollout
    return {
        "model": history.address.model,
        "target": history.address.target,
        "outcome": outcome_of(state)[0],
        "status": state.status.value,
        "step": state.step_name,
        "weight": state.weight,
        "number": current.number,
        "canary": state.canary.engine_id,
    }


def _fault(status: HTTPStatus, text: str) -> tuple[HTTPStatus, dict[str, Any]]:
    return status, {"outcome": "error", "error": text}


def gate_server(gate: RolloutGate, host: str, port: int) -> ThreadingHTTPServer:
    """A server on `host` and `port` (0: any that is free), which is not started yet.

    Raises:
        InputError: the port cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE_S
        server_version, sys_version = "enginegate", ""

        def _respond(self) -> None:
            length = self.headers.get("Content-Length") or "0"
            self.rfile.read(min(int(length), _MOST_BODY) if length.isdecimal() else 0)
            status, document = gate.answer(self.command, self.path)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _respond  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: object) -> None:
            """Nothing: controllers ask twice a minute."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(
            f"--listen {host}:{port}: cannot be had ({error.strerror}); give another address or port"
        ) from None
