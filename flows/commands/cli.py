"""The command line. Heavy imports wait inside the commands, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.calibration_commands import calibration
from flows.commands.command import MARKS, Document, command_of
from flows.commands.commit_commands import convert_commit, runs
from flows.commands.engine_commands import engines, verify
from flows.commands.plan_command import plan
from flows.commands.promotion_commands import history, promote, rollback
from flows.commands.pull_command import pull
from flows.commands.submit_command import submit
from tasks.errors import VERDICT_CODES, ExitCode

if TYPE_CHECKING:
    from flows.conversion.report import ConversionReport
    from flows.session import Session

MONTH_S = 30 * 24 * 3600
PRECISIONS = ("fp32", "fp16", "int8")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enginegate")
def main() -> None:
    """Turn PyTorch models into inference engines, and let only those that match their reference into the registry.

    Exit codes: 0 done or pass, 2 bad input or usage, 3 verdict fail, 4 verdict inconclusive, 5 refused (signature,
    digest, compatibility, conflict), 1 anything unexpected.
    """


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Only this target; may be repeated.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(PRECISIONS),
    help="Only this precision; may be repeated.",
)
@click.option("--only", metavar="ENGINE_ID", help="Only this engine.")
@click.option(
    "--accept-calibration",
    metavar="REASON",
    help="Quantize although the check of the calibration set found something; the reason is recorded.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True, max=MONTH_S),
    metavar="SECONDS",
    help="Longest time of a stage's child process (default 1800).",
)
@click.option(
    "--source-commit",
    metavar="SHA",
    help="The commit that DIRECTORY was exported from; left out, git is asked.",
)
@command_of
def convert(
    session: Session,
    directory: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    only: str | None,
    accept_calibration: str | None,
    time_limit: float | None,
    source_commit: str | None,
) -> tuple[ConversionReport, int]:
    """Convert the model in DIRECTORY: export, convert, build, compare, benchmark, track, register."""
    from flows.conversion.run import run_conversion  # noqa: PLC0415

    return run_conversion(
        session,
        directory,
        targets=targets,
        precisions=precisions,
        only=only,
        accept_calibration=accept_calibration,
        time_limit_s=time_limit,
        source_commit=source_commit,
    )


@main.command()
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The rules, and the outputs they judge.",
)
@command_of
def gate(session: Session, reference: Path, candidate: Path, policy: Path) -> tuple[Document, int]:
    """Judge the outputs in CANDIDATE against those in REFERENCE: .npz files, or folders of shards.

    REFERENCE may also hold label, slice.NAME and the masks that outputs name.
    """
    from tasks.stages.gate import judge_files  # noqa: PLC0415

    judged = judge_files(reference, candidate, policy)
    verdict = judged.verdict
    session.reporter.say(f"{judged.comparison.samples:,} samples")
    for outcome, sentence in verdict.sentences:
        session.reporter.say(f"{MARKS[outcome.value]} {sentence}")
    for defect in verdict.defects:
        session.reporter.say(f"✕ {defect}")
    for rule in judged.policy.performance:
        session.reporter.say(f"- {rule.metric} is judged by `enginegate convert`, which measures it, not here.")
    session.reporter.say(f"{MARKS[verdict.outcome.value]} verdict: {verdict.outcome.value}")
    return {"verdict": asdict(verdict), "comparison": asdict(judged.comparison)}, VERDICT_CODES[verdict.outcome.value]


@main.command()
@click.option("--target", default="cpu", show_default=True, metavar="TARGET", help="What this host should make.")
@command_of
def doctor(session: Session, target: str) -> tuple[Document, int]:
    """Say what this host can do, and what it lacks; with a GPU's --target, whether it is a runner of that target."""
    from flows.commands.doctor import as_json, examine_runner, healthy  # noqa: PLC0415

    checks = examine_runner(session.settings, target)
    rows = [["✓" if check.ok else "✕" if check.needed else "-", check.name, check.detail] for check in checks]
    session.reporter.table(["", "", ""], rows)
    return as_json(checks), 0 if healthy(checks) else ExitCode.UNEXPECTED


main.add_command(plan)
main.add_command(convert_commit)
main.add_command(runs)
main.add_command(calibration)
main.add_command(engines)
main.add_command(verify)
main.add_command(pull)
main.add_command(promote)
main.add_command(rollback)
main.add_command(history)
main.add_command(submit)


if __name__ == "__main__":
    main()
