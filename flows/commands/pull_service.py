"""The parts of `enginegate pull` that are of a Triton server, and the hook after a switch."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from tasks.errors import InputError, printable
from tasks.release.triton_switch import TritonSwitch
from tasks.serving.triton_api import TritonApi
from tasks.serving.triton_repository import TritonRepository

if TYPE_CHECKING:
    from pathlib import Path

    from flows.commands.command import Document
    from flows.session import Session
    from tasks.release.pull import Pulled

LAST_CHARACTERS = 500


def triton_switch(session: Session, folder: Path, model: str, server: str | None) -> TritonSwitch:
    """What serves `model` from the repository `folder`, by the server at that address where there is one."""
    api = None if server is None else TritonApi(server)
    return TritonSwitch(TritonRepository(folder, model), api, say=session.reporter.marked)


def served_lines(service: TritonSwitch | None) -> list[str]:
    """What a pull did at the server, a line each that starts with its mark."""
    if service is None:
        return []
    route = service.repository.read_route()
    lines = [f"✓ server: {error.sentence}" for error in service.report.errors] if service.report is not None else []
    if route is not None:
        how = "leads now to" if service.switched else "led there before:"
        lines.append(f"✓ {service.repository.router} {how} {', '.join(plan.model for plan in route.plans)}")
    return [printable(line) for line in lines]


def served_document(service: TritonSwitch | None) -> Document:
    """The keys that a pull's JSON document has more with --layout triton."""
    if service is None:
        return {}
    route, report = service.repository.read_route(), service.report
    return {
        "repository": str(service.repository.root),
        "server": None if service.api is None else service.api.url,
        "models": [] if route is None else [plan.model for plan in route.plans],
        "switched": service.switched,
        "server_check": None if report is None else report.model_dump(mode="json"),
    }


def read_hook(command: str | None) -> tuple[str, ...]:
    """The words of a command, as a shell would split it; no shell runs it.

    Raises:
        InputError: a quote is left open.
    """
    try:
        return tuple(shlex.split(command or ""))
    except ValueError as error:
        raise InputError(f"--after-switch {command!r}: {error}; close the quote") from None


def call_hook(hook: tuple[str, ...], pulled: Pulled, limit_s: float) -> str | None:
    """Run a hook, which finds the model, the engine and the move in its environment; what went wrong, or None."""
    offer = pulled.offer
    environment = os.environ | {
        "ENGINEGATE_MODEL": offer.address.model,
        "ENGINEGATE_ENGINE_ID": offer.signed.manifest.engine_id,
        "ENGINEGATE_MOVE": str(offer.move.move.number),
        "ENGINEGATE_FOLDER": str(pulled.path),
    }
    name = f"--after-switch {shlex.join(hook)}"
    try:
        ended = subprocess.run(
            hook, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return printable(f"{name} went on for longer than {limit_s:g} s and was ended; the switch stands")
    except OSError as error:
        return printable(f"{name} cannot be run: {error.strerror or error}; the switch stands")
    if ended.returncode:
        last = (ended.stderr or ended.stdout)[-LAST_CHARACTERS:].decode(errors="replace").strip()
        return printable(f"{name} ended with {ended.returncode}: {last}; the switch stands")
    return None
