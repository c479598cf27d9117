"""`enginegate pull`: an engine from the registry to the host that serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flows.commands.command import CHANNEL, Document, FilledPath, command_of
from flows.commands.pull_job import PullJob
from flows.commands.pull_service import read_hook, served_document, served_lines, triton_switch
from flows.commands.pull_watch import Watcher
from flows.commands.pull_words import describe, document_of, outcome_lines
from tasks.errors import InputError
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.release.pull import Milestone
from tasks.release.serving_folder import ServingFolder
from tasks.serving.triton_repository import require_no_repository

if TYPE_CHECKING:
    from pathlib import Path

    from flows.session import Session

EVERY_S = 30.0
_MONTH_S = 30 * 24 * 3600
_SECONDS = click.FloatRange(min=0, min_open=True, max=_MONTH_S)


@click.command()
@click.argument("model")
@click.option("--target", required=True, metavar="TARGET", help="What this host serves on: cpu, t4, a100, ….")
@click.option("--channel", type=CHANNEL, default="production", show_default=True)
@click.option("--to", "folder", type=FilledPath(), required=True, metavar="DIR", help="Serve what lies in DIR/current.")
@click.option(
    "--check", is_flag=True, help="Run the engine on its smoke inputs first, and keep it only if it is right."
)
@click.option(
    "--at-least",
    metavar="MOVE",
    help="Refuse a history without this move, 7 or 7:3f2a91bc4d5e: for hosts that remember nothing themselves.",
)
@click.option("--watch", is_flag=True, help="Follow the channel until SIGTERM or SIGINT, and exit with 0 then.")
@click.option(
    "--every",
    type=click.FloatRange(min=1, max=_MONTH_S),
    default=EVERY_S,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
@click.option(
    "--time-limit", type=_SECONDS, metavar="SECONDS", help="Longest time of --check, and of waiting (default 1800)."
)
@click.option(
    "--layout",
    type=click.Choice(["plain", "triton"]),
    default="plain",
    show_default=True,
    help="triton: DIR is a Triton model repository, where models of several pulls may lie.",
)
@click.option(
    "--server", metavar="URL", help="The Triton server on DIR, as http://127.0.0.1:8000: try there, and switch it."
)
@click.option(
    "--host-name", "host", metavar="NAME", help="What evidence of a rollout is filed under: this host's name."
)
@click.option(
    "--arm-from",
    metavar="NAME",
    help="The header or parameter by which a splitter before the server says `canary`; left out, the router splits.",
)
@click.option(
    "--samples-to",
    metavar="ADDRESS",
    help="With --watch: upload sampled traffic there, s3://bucket/prefix or a folder.",
)
@click.option("--after-switch", "hook", metavar="COMMAND", help="Run this after each switch to another engine.")
@command_of
def pull(
    session: Session,
    model: str,
    target: str,
    channel: str,
    folder: Path,
    *,
    check: bool,
    at_least: str | None,
    watch: bool,
    every: float,
    time_limit: float | None,
    layout: str,
    server: str | None,
    host: str | None,
    arm_from: str | None,
    samples_to: str | None,
    hook: str | None,
) -> tuple[Document, int]:
    """Pull the engine that a channel of MODEL points at to this host, and make it DIR/current.

    Signatures, history, verdict, this host's compatibility and every file's digest are checked first. Whatever is
    wrong, the engine that is current stays. The one before it is kept as DIR/previous.

    With --watch --json, each change and each new error is one line of JSON, whose `event` is `pulled`, `error`, or
    `recovered` where the channel is in order again and did not move.

    With --layout triton, DIR/MODEL is served under the model's name, and with --watch and --server the rollouts of
    MODEL are followed too; see docs/serving.md.
    """
    if server is not None and layout != "triton":
        raise InputError("--server is of --layout triton; add that, or leave it out")
    if samples_to is not None and not watch:
        raise InputError("--samples-to is of --watch, which uploads at each look; add that, or leave it out")
    if arm_from is not None and (not watch or layout != "triton"):
        raise InputError("--arm-from is of --watch --layout triton, whose router counts both sides; add those")
    if layout == "plain":
        require_no_repository(folder)
    address = ChannelAddress(model, target, ChannelName(channel))
    limit_s = time_limit or session.settings.time_limit_s
    milestone = None if at_least is None else Milestone.parse(at_least)
    service = None if layout == "plain" else triton_switch(session, folder, model, server)
    place = ServingFolder(folder) if service is None else service.folder
    job = PullJob(session, place, address, limit_s, check, milestone, service, read_hook(hook))
    if watch:
        as_json = click.get_current_context().params["as_json"]
        Watcher(job, every, as_json=as_json, host=host, samples_to=samples_to, arm_from=arm_from).run()
    pulled = session.reporter.step(f"pull {model} {channel}", job.run, describe, tells_why=False)
    for line in (*outcome_lines(pulled), *served_lines(service)):
        session.reporter.marked(line)
    job.run_hook(pulled)
    return {**document_of(pulled, job.basis), **served_document(service)}, 0
