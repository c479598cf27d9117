"""The command line. Heavy imports wait inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import functools
import json
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.session import Session
    from tasks.records import EngineManifest

Document = dict[str, Any]
Command = TypeVar("Command", bound="Callable[..., Any]")

EXIT_CODES = {"pass": 0, "fail": 3, "inconclusive": 4}
MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
UNEXPECTED, REFUSED = 1, 5
MONTH_S = 30 * 24 * 3600
PRECISIONS = ("fp32", "fp16", "int8")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="enginegate")
def main() -> None:
    """Turn PyTorch models into inference engines, and let only those that match their reference into the registry.

    Exit codes: 0 done or pass, 2 bad input or usage, 3 verdict fail, 4 verdict inconclusive, 5 refused (signature,
    digest, compatibility, conflict), 1 anything unexpected.
    """


def _command(work: Callable[..., tuple[Document, int]]) -> Callable[..., None]:
    """Make a command of a function that takes a session and returns its JSON document and exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
    @functools.wraps(work)
    def command(as_json: bool, **arguments: Any) -> None:
        from flows.console import Reporter  # noqa: PLC0415
        from flows.session import Session  # noqa: PLC0415
        from flows.settings import read_settings  # noqa: PLC0415
        from tasks.errors import EnginegateError  # noqa: PLC0415

        reporter = Reporter(to_stderr=as_json)
        try:
            document, code = work(Session(read_settings(), reporter), **arguments)
        except EnginegateError as error:
            reporter.error(str(error))
            document, code = {"error": str(error), "exit_code": error.exit_code}, error.exit_code
        except OSError as error:  # a full disk, a folder that cannot be written
            message = (
                f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}; mend that and run again"
            )
            reporter.error(message)
            document, code = {"error": message, "exit_code": UNEXPECTED}, UNEXPECTED
        except Exception as error:  # noqa: BLE001 - with --json, even what nobody expected is one document
            traceback.print_exc()
            reporter.error(f"unexpected: {type(error).__name__}: {error}; please report it with the lines above")
            document, code = {"error": f"{type(error).__name__}: {error}", "exit_code": UNEXPECTED}, UNEXPECTED
        if as_json:
            click.echo(json.dumps(document, indent=2))
        raise SystemExit(code)

    return command


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
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True, max=MONTH_S),
    metavar="SECONDS",
    help="Longest time of a stage's child process (default 1800).",
)
@_command
def convert(
    session: Session,
    directory: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    only: str | None,
    time_limit: float | None,
) -> tuple[Document, int]:
    """Convert the model in DIRECTORY: export, convert, build, compare, benchmark, track, register."""
    from flows.run import run_conversion  # noqa: PLC0415

    return run_conversion(
        session, directory, targets=targets, precisions=precisions, only=only, time_limit_s=time_limit
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
@_command
def gate(session: Session, reference: Path, candidate: Path, policy: Path) -> tuple[Document, int]:
    """Judge the outputs in CANDIDATE against those in REFERENCE: .npz files, or folders of shards.

    REFERENCE may also hold label, slice.NAME and the masks that outputs name.
    """
    from tasks.gate import judge_files  # noqa: PLC0415

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
    return {"verdict": asdict(verdict), "comparison": asdict(judged.comparison)}, EXIT_CODES[verdict.outcome.value]


@main.command()
@_command
def engines(session: Session) -> tuple[Document, int]:
    """List the registered engines."""
    from tasks.errors import RefusedError  # noqa: PLC0415

    manifests, damaged = [], []
    for cell in session.registry.list_cells():
        try:
            manifests.append(session.registry.read_manifest(cell))
        except RefusedError as error:
            damaged.append(str(error))
    if manifests:
        headings = ["engine", "verdict", "p50 ms", "speed-up", "size MB", "digest", "registered"]
        session.reporter.table(headings, [_engine_row(manifest) for manifest in manifests])
    elif not damaged:
        session.reporter.say("no engines are registered; `enginegate convert DIRECTORY` makes some")
    for message in damaged:
        session.reporter.error(message)
    document = {"engines": [manifest.model_dump(mode="json") for manifest in manifests], "damaged": damaged}
    return document, REFUSED if damaged else 0


def _engine_row(manifest: EngineManifest) -> list[str]:
    benchmark = manifest.benchmark
    speedup = benchmark.headline_speedup
    return [
        manifest.engine_id,
        manifest.verdict.outcome.value,
        f"{benchmark.headline.p50_ms:.2f}",
        "-" if speedup is None else f"{speedup:.2f}x",
        f"{manifest.plan.size_bytes / 1e6:.1f}",
        manifest.plan.digest[:19],
        manifest.created_at,
    ]


@main.command()
@click.argument("engine_ids", nargs=-1, required=True, metavar="ENGINE_ID...")
@_command
def verify(session: Session, engine_ids: tuple[str, ...]) -> tuple[Document, int]:
    """Re-read registered engines and check every digest, and that the verdict follows from the evidence."""
    from tasks.records import Cell  # noqa: PLC0415

    faults = {engine_id: session.registry.verify(Cell.parse(engine_id)) for engine_id in engine_ids}
    for engine_id, found in faults.items():
        session.reporter.say(
            f"{'✕' if found else '✓'} {engine_id}: {'refused' if found else 'all digests and the verdict hold'}"
        )
        for fault in found:
            session.reporter.say(f"    {fault}")
    return {"engines": faults}, REFUSED if any(faults.values()) else 0


@main.command()
@click.option("--target", default="cpu", show_default=True, metavar="TARGET", help="What this host should make.")
@_command
def doctor(session: Session, target: str) -> tuple[Document, int]:
    """Say what this host can do, and what it lacks; with a GPU's --target, whether it is a runner of that target."""
    from flows.doctor import as_json, examine_runner, healthy  # noqa: PLC0415

    checks = examine_runner(session.settings, target)
    rows = [["✓" if check.ok else "✕" if check.needed else "-", check.name, check.detail] for check in checks]
    session.reporter.table(["", "", ""], rows)
    return as_json(checks), 0 if healthy(checks) else UNEXPECTED


if __name__ == "__main__":
    main()
