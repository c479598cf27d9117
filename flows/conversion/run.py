"""Runs a conversion from the command line: input first, then the flow, then what came of it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.console import short_commit
from flows.conversion.conversion_plan import ConversionPlan, refuse_changes
from flows.conversion.conversion_report import ConversionReport
from flows.conversion.preflight import Preflight
from flows.prefect_api import prefect_api
from flows.session import Session, use_session
from tasks.errors import VERDICT_CODES, ExitCode, InputError, worst_of
from tasks.rebuild_records import LONGEST_AGAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path


_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def run_conversion(
    session: Session,
    directory: Path,
    *,
    targets: Sequence[str] = (),
    precisions: Sequence[str] = (),
    only: str | None = None,
    accept_calibration: str | None = None,
    again: str | None = None,
    time_limit_s: float | None = None,
    source_commit: str | None = None,
) -> tuple[ConversionReport, ExitCode]:
    """Convert the model in `directory`; return what came of it, and the exit code.

    `again` is the reason for making the chosen engines again, whatever is cached of them. `source_commit` is the full
    id of the commit that the directory was exported from; without it, git is asked.

    Raises:
        EnginegateError: with the exit code of its class.
    """
    _refuse_long_reason(again)
    if time_limit_s is not None:
        settings = session.settings.model_copy(update={"time_limit_s": time_limit_s})
        session = Session(settings, session.reporter)
    look = Preflight.begin(session, directory, targets=targets, precisions=precisions, only=only)
    if look.stops:  # then nothing is started, and what else there is to correct is told with it
        look.examine()
        look.refuse()
    plan = look.plan
    if source_commit is not None:
        plan = replace(plan, source_commit=_checked_commit(source_commit))
    for line in plan.lines:
        session.reporter.say(line)
    with prefect_api(session.server_log, session.reporter.say) as wait_until_it_answers:
        from flows.conversion.conversion_flow import convert_model, prepare  # noqa: PLC0415 - Prefect reads its settings when imported

        # Prefect's server and MLflow start while the input is read and exported, which only shows whether it is any
        # good; and an address that is wrong shows before the long work, not after it.
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(session.tracker.connect)
            prepare(session, plan, look)
            connecting.result()
        refuse_changes(plan, str(directory))  # before the long work
        wait_until_it_answers()
        with use_session(session), _tagged(plan):
            outcomes = convert_model(
                str(directory),
                list(targets) or None,
                list(precisions) or None,
                only,
                accept_calibration,
                source_commit,
                again,
            )
    session.reporter.engines(outcomes)
    code = worst_of(VERDICT_CODES[outcome.outcome.value] for outcome in outcomes)
    return ConversionReport.of(plan, session.reporter.steps, outcomes), code


def _checked_commit(commit: str) -> str:
    if not _COMMIT.fullmatch(commit):
        raise InputError(f"--source-commit {commit!r}: is no full id of a commit; give its 40 or 64 hexadecimal digits")
    return commit


def _refuse_long_reason(again: str | None) -> None:
    if again is not None and len(again) > LONGEST_AGAIN:
        raise InputError(f"--again: has {len(again):,} characters, and may have {LONGEST_AGAIN:,}; shorten it")


def _tagged(plan: ConversionPlan) -> AbstractContextManager[object]:
    """Prefect's tags of the conversion and of all that it starts, so that its page finds them by model and commit."""
    from prefect import tags  # noqa: PLC0415 - Prefect reads its settings when imported

    commit = () if plan.source_commit is None else (f"commit:{short_commit(plan.source_commit)}",)
    return tags(f"model:{plan.directory.spec.name}", *commit)
