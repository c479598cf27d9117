"""The flow that a retraining job calls: a model of a branch, with new weights in place of its own.

Nothing is committed: the new version is the digest of the model with those weights, so the same weights sent twice are
one conversion. What it was made of is kept as a record in the state folder and as an artifact of the run.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import TypeAdapter, ValidationError

from flows.conversion.conversion_plan import ConversionPlan, plan_conversion
from flows.conversion.conversion_report import EngineResult
from flows.pushes.conversion_process import CONVERT, run_child
from flows.pushes.journal import Journal, State
from flows.pushes.planning import known_engines
from flows.pushes.repositories import repository_path
from flows.pushes.verdict_table import ModelResult, verdict_table
from flows.session import Session, current_session
from tasks.errors import InputError, RefusedError, StageError, printable
from tasks.git.commit import Commit
from tasks.git.repository import Repository
from tasks.git.tree import join
from tasks.model.documents import read_leniently
from tasks.model.model_directory import SPEC_FILE, WEIGHTS_SUFFIX, read_model_directory
from tasks.objects.files import check_digest
from tasks.objects.location import S3, open_objects
from tasks.store.digests import digest_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.git.extract import LfsSource
    from tasks.model.model_directory import ModelDirectory

STAGE = "feedback"
LONGEST_REASON = 900
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ENGINES = TypeAdapter(tuple[EngineResult, ...])


@flow(name="feedback", flow_run_name="{directory}", persist_result=False)
def convert_weights(
    repository: str,
    directory: str,
    weights: str,
    ref: str = "main",
    reason: str = "",
    digest: str | None = None,
    lfs: bool = False,
) -> dict[str, Any]:
    """Convert a model of the commit at the head of `ref` with other weights; return its version, weights and engines.

    Args:
        repository: an absolute path on the worker, or an address that ENGINEGATE_REPOSITORIES allows.
        directory: the model directory in the repository; `.` is its top.
        weights: a .safetensors file on the worker, or `s3://bucket/key.safetensors`.
        ref: a branch, a tag or a commit.
        reason: why, for people.
        digest: `sha256:…` of the weights; needed in S3, so that what the job wrote is what is converted.
        lfs: take files of git LFS from the repository's own store.

    Raises:
        InputError: a parameter is at fault, the weights are no safetensors, or the model names no weights.
        RefusedError: the weights have another digest.
        StageError: the conversion ended without verdicts.
    """
    session = current_session()
    _check(directory, weights, reason, digest)
    with session.store.scratch() as scratch, closing(Repository(repository_path(session, repository))) as opened:
        commit = opened.resolve(ref)
        found = _take_weights(weights, digest, scratch)
        place = "" if directory == "." else directory
        exported = _export_with(opened, commit, place, found, scratch / "export", "store" if lfs else "refuse")
        plan = plan_conversion(exported, floor=session.policy_floor)
        return _convert(session, plan, commit, digest_file(found)[0], reason, scratch)


def _check(directory: str, weights: str, reason: str, digest: str | None) -> None:
    plain = posixpath.normpath(directory) == directory
    if not plain or directory.startswith(("/", "-")) or ".." in directory.split("/"):
        raise InputError(f"directory: {directory!r} is no model directory of a repository; give it relative to its top")
    if not weights.endswith(WEIGHTS_SUFFIX):
        raise InputError(
            f"weights: {weights!r} is not {WEIGHTS_SUFFIX}; a pickle can run code when it is read, so save the state"
            " dict with safetensors.torch.save_file"
        )
    if len(reason) > LONGEST_REASON:
        raise InputError(f"reason: has {len(reason):,} characters, and may have {LONGEST_REASON}; shorten it")
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise InputError(f"digest: {digest!r} is none; write sha256: and 64 hexadecimal digits")
    if weights.startswith(S3) and digest is None:
        raise InputError("digest: weights in S3 need it; give sha256:… of the file that the job wrote")


def _take_weights(weights: str, digest: str | None, scratch: Path) -> Path:
    """A private copy of the weights, checked; what is at their place may change meanwhile."""
    copy = scratch / f"weights{WEIGHTS_SUFFIX}"
    if weights.startswith(S3):
        prefix, _, key = weights.rpartition("/")
        open_objects(prefix).download(key, copy, digest or "", lambda _done, _all: None)
    else:
        source = Path(weights)
        if not source.is_absolute() or not source.is_file():
            raise InputError(
                f"weights: {weights!r} is no file on this worker; give an absolute path or an s3:// address"
            )
        shutil.copyfile(source, copy)
        if digest is not None:
            check_digest(weights, digest_file(copy)[0], digest)
    _require_safetensors(copy, weights)
    return copy


def _require_safetensors(path: Path, named: str) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - extra `export`

    try:
        with safe_open(path, framework="numpy") as content:
            content.keys()
    except SafetensorError as error:
        raise InputError(
            f"weights: {named}: is no safetensors file ({error}); a pickle can run code when it is read, so save the"
            " state dict with safetensors.torch.save_file"
        ) from None


def _export_with(
    repository: Repository, commit: str, directory: str, weights: Path, folder: Path, lfs: LfsSource
) -> ModelDirectory:
    """Export a model directory with other weights; its own are left out, since they may be in a git LFS far away."""
    tree = repository.tree(commit)
    opened = Commit(repository, tree)
    own = _weights_path(opened, directory)
    needed = {path for each in opened.needed_paths(directory) for path in tree.under(each)}
    repository.export(commit, sorted(needed - {own}), folder, lfs=lfs)
    place = folder / own
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # one that the commit reaches through a link
    shutil.copyfile(weights, place)
    return read_model_directory(folder / directory)


def _weights_path(commit: Commit, directory: str) -> str:
    """The path of the model's own weights in the repository."""
    _, text = commit.document(join(directory, SPEC_FILE), f"{directory or '.'}/{SPEC_FILE}")
    content = read_leniently(text)
    named = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(named, str) or not named.endswith(WEIGHTS_SUFFIX):
        raise InputError(f"{SPEC_FILE}: weights: names no {WEIGHTS_SUFFIX} file, so there is none to replace")
    path = posixpath.normpath(posixpath.join(directory, named))
    if named.startswith("/") or not f"{path}/".startswith(join(directory, "")) or path.startswith("../"):
        raise InputError(f"{SPEC_FILE}: weights: {named!r} leaves the model directory; keep the file in it")
    return path


def _convert(
    session: Session, plan: ConversionPlan, commit: str, digest: str, reason: str, scratch: Path
) -> dict[str, Any]:
    model = plan.directory.spec.name
    made_of = {"model": model, "commit": commit, "weights": digest, "reason": printable(reason)}
    with Journal(session.state).hold(model):
        engines = _held(session, plan) or _run(session, plan, commit, scratch)
    _leave(session, plan.version, made_of, engines)
    return {**made_of, "version": plan.version, "engines": [engine.model_dump() for engine in engines]}


def _held(session: Session, plan: ConversionPlan) -> tuple[EngineResult, ...]:
    """The engines of this very version, if all of them were made before."""
    record = session.state.read_record(STAGE, _key(plan))
    known = known_engines(session)
    if record is None or not all(known(cell) for cell in plan.cells):
        return ()
    try:
        return _ENGINES.validate_python(record.get("engines"))
    except ValidationError:
        return ()


def _run(session: Session, plan: ConversionPlan, commit: str, scratch: Path) -> tuple[EngineResult, ...]:
    model = plan.directory.spec.name
    ended = run_child(
        [*CONVERT, str(plan.directory.root), "--source-commit", commit, "--json"],
        scratch,
        lambda line: session.reporter.marked(f"{model} | {printable(line)}"),
        lambda: False,
    )
    report = ended.made(plan.version)
    if report is None:
        kinds = {kind.exit_code.value: kind for kind in (StageError, InputError, RefusedError)}
        raise kinds.get(ended.code, StageError)(f"{model}: {ended.failure(plan.version)}")
    return report.results


def _leave(session: Session, version: str, made_of: dict[str, str], engines: Sequence[EngineResult]) -> None:
    found = [engine.model_dump() for engine in engines]
    key = f"{made_of['model']}-{version}"
    session.state.write_record(STAGE, key, {**made_of, "version": version, "engines": found})
    result = ModelResult(
        model=made_of["model"], directory="", version=version, state=State.DONE, engines=tuple(engines),
        reason=made_of["reason"],
    )  # fmt: skip
    told = f"Weights `{made_of['weights']}`\n\n{verdict_table(made_of['commit'], [result])}"
    create_markdown_artifact(told, key=f"feedback-{key}")


def _key(plan: ConversionPlan) -> str:
    return f"{plan.directory.spec.name}-{plan.version}"
