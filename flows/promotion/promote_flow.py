"""The flow that promotes with a person in the loop: it shows what would come and waits for an answer in Prefect's page.

It pauses and does not suspend. A paused run waits in its process, so that what is carried out is the very proposal that
was shown, it needs no deployment, and a process that dies has moved nothing. A suspended run would begin again from its
parameters, and what was shown would have to be kept and believed. The price is a place of its worker for as long as
nobody answers: start the worker of pool `cpu` with a `--limit` that leaves room, and keep `wait_s` short.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field

from flows.promotion.promotion_report import comparison_rows, looser_lines
from flows.session import Session, current_session
from tasks.errors import InputError, RefusedError, printable
from tasks.objects.location import S3
from tasks.registry.moves import ChannelAddress, ChannelName, Move
from tasks.release.promote import Proposal, carry_out, propose_promotion, require_permission

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


POLL_S = 3
HOUR_S = 3600
# The reasons of the run and of the answer fit into one of the history, which takes 2,000 characters.
_LONGEST = 900
_CONTROL = r"\x00-\x1f\x7f"
Line = Annotated[str, Field(max_length=_LONGEST, pattern=rf"^[^{_CONTROL}]*$")]
FilledLine = Annotated[str, Field(max_length=_LONGEST, pattern=rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$")]


class Approval(RunInput):
    """What a person answers in Prefect's page.

    `approver` is typed there and not checked: Prefect's open-source server asks nobody who they are.
    """

    approve: Annotated[bool, Field(title="Approve", description="Yes moves the channel, no ends the run.")]
    approver: Annotated[FilledLine, Field(title="Your name", description="Kept in the history, signed.")]
    reason: Annotated[Line, Field(title="Reason", description="Kept in the history.")] = ""


@flow(name="promote", flow_run_name="{model} {target} {to}", persist_result=False)
def promote_engine(
    model: str,
    target: str,
    to: Literal["candidate", "staging", "canary", "production"],
    engine: str | None = None,
    reason: Line = "",
    override: FilledLine | None = None,
    wait_s: Annotated[int, Field(ge=1, le=24 * HOUR_S)] = HOUR_S,
) -> Move | State[Any]:
    """Move a channel to an engine once a person has approved it in Prefect's page; return the move.

    The comparison is an artifact of the run, and stands above the form behind `Resume`. The history names the approver
    as typed, `ann through Prefect`: whoever can open Prefect's page can type any name, so what the move rests on is who
    can reach that page, and the key that signs where this runs. Parameters and answers lie in Prefect's database: they
    hold no secret, and none belongs into a reason.

    Args:
        model: the model's name.
        target: where the engine runs.
        to: the channel to move.
        engine: its engine id; None for what the step before points at.
        reason: why, kept in the history before that of the approver.
        override: why rules are broken that forbid the move; signed into the history for ever.
        wait_s: how long to wait for an answer, in seconds.

    Returns:
        The move; the last one where the channel points there already. A `Cancelled` state where the answer was no.

    Raises:
        InputError: a name is none, there is no such engine, or an override where no rule is broken.
        RefusedError: it breaks a rule and there is no override, nobody answered in time, somebody moved the channel
            meanwhile (it says who), or something is damaged or not signed by a trusted key.
    """
    session = current_session()
    require_lasting_registry(session)
    address = ChannelAddress(model, target, ChannelName(to))
    proposal = propose_promotion(session.registry, session.rejected, address, engine)
    if proposal.is_done and proposal.channel.current is not None:
        session.reporter.say(f"{proposal.address} points there already; nothing to do")
        return proposal.channel.current
    require_permission(proposal, override)
    approval = _ask(proposal, reason, override, wait_s)
    approver = approval.approver.strip()
    if not approval.approve:
        said = f" ({approval.reason.strip()})" if approval.reason.strip() else ""
        return Cancelled(message=f"{approver} did not approve{said}; nothing was moved")
    move = carry_out(
        session.registry,
        session.stage_context(),
        proposal,
        reason="; ".join(filter(None, (reason.strip(), approval.reason.strip()))),
        override=override,
        who=f"{approver} through Prefect",
    )
    session.reporter.say(f"✓ {proposal.address} points at {move.engine_id} (move {move.number}, {move.who})")
    return move


def require_lasting_registry(session: Session) -> None:
    """Check that a worker, which runs a flow in a temporary folder, knows where the registry lies.

    Raises:
        InputError: it does not.
    """
    context, settings = FlowRunContext.get(), session.settings
    by_worker = context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
    named = Path(settings.registry) if settings.registry else settings.home
    if by_worker and not named.is_absolute() and not settings.registry_address.startswith(S3):
        raise InputError(
            "ENGINEGATE_REGISTRY: a worker needs it, as s3://bucket/prefix or an absolute path; set it where the worker"
            " is started"
        )


def _ask(proposal: Proposal, reason: str, override: str | None, wait_s: int) -> Approval:
    """Show the proposal in Prefect's page and wait for the answer there.

    Raises:
        RefusedError: nobody answered in time.
    """
    shown = describe_proposal(proposal, reason, override)
    address = proposal.address
    key = f"promote-{address.model}-{address.target.replace('.', '-')}-{address.channel.value}"
    create_markdown_artifact(shown, key=key, description=f"What would come to {address}")
    form = Approval.with_initial_data(description=shown)
    try:
        return pause_flow_run(wait_for_input=form, timeout=wait_s, poll_interval=min(POLL_S, wait_s))
    except FlowPauseTimeout:
        raise RefusedError(
            f"nobody answered within {wait_s:,} s; {proposal.address} was not moved: start the run again"
        ) from None


def describe_proposal(proposal: Proposal, reason: str, override: str | None) -> str:
    """What would come beside what is there, and what speaks against it, in Markdown."""
    current = proposal.channel.current
    now = "nothing" if current is None else f"`{current.engine_id}`"  # a move holds no other id and no other time
    moved = "" if current is None else f", moved there {current.when} by {escaped_text(current.who)}"
    lines = [
        f"## Promote {proposal.address}",
        f"Now: {now}{moved}{_quoted(current.reason if current else '')}",
        f"Would come: `{proposal.proposed.manifest.engine_id}`{_quoted(reason)}",
        *(f"**{escaped_text(line)}**" for line in looser_lines(proposal)),
        *(f"**✕ {escaped_text(objection)}**" for objection in proposal.objections),
    ]
    if proposal.current_fault is not None:
        lines.append(f"**✕ {escaped_text(proposal.current_fault)}**")
    if current is not None and current.override is not None:
        lines.append(f"**✕ it is there by override: {escaped_text(current.override)}**")
    if override is not None:
        lines.append(f"**✕ OVERRIDE, kept in the history for ever: {escaped_text(override)}**")
    return "\n\n".join([*lines, _table(["", "now", "would come"], comparison_rows(proposal))])


def _table(headings: list[str], rows: list[list[str]]) -> str:
    rule = ["---"] * len(headings)
    return "\n".join(
        f"| {' | '.join(row)} |" for row in (headings, rule, *([escaped_text(cell) for cell in r] for r in rows))
    )


def _quoted(text: str) -> str:
    return f" ({escaped_text(text)})" if text else ""


def escaped_text(text: str) -> str:
    """Text of people's in Markdown: it can make no link, no tag, no emphasis and no column of a table."""
    escaped = html.escape(printable(text), quote=False)
    # `:` and `@` and a dot between letters are what a bare address is known by.
    return "".join(f"\\{each}" if each in "\\`*_{}[]|#!~:@." else each for each in escaped)
