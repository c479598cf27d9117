"""Shows in MLflow's registered models which engines the channels of the registry point at.

A mirror for people who look there: the registry is the truth, and nothing reads this back. A model has a version for
each engine that a channel points at, known by the digest of its manifest, and an alias for each channel of each target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import StageError
from tasks.tracking.connection import explained_errors, open_client, sqlite_path, without_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

_MODEL = (
    "Engines of this model, mirrored from Enginegate's registry, which alone counts. An alias `<target>-<channel>`"
    " follows each channel; a dot of a target is an underscore."
)
_THERE, _NOT_THERE = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True, kw_only=True)
class RegisteredEngine:
    """What MLflow is told of a registered engine.

    `manifest` is its key in the registry and `manifest_digest` (`sha256:…`) that of its document; `registry` is where
    that is, None for a folder, whose path is this host's own affair. `verdict` is `pass`, `fail` or `inconclusive`,
    `deciding` the rule behind it in a few words, `signature` its standing, `override` why a rule was broken, if one
    was, and `run_id` the engine's run in MLflow, where it has one. `p50_ms` is the median latency in milliseconds at
    `batch`, and `size_bytes` the size of the plan.
    """

    engine_id: str
    target: str
    manifest: str
    manifest_digest: str
    registry: str | None
    verdict: str
    deciding: str
    signature: str
    override: str | None
    run_id: str | None
    p50_ms: float
    batch: int
    size_bytes: int

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its version; what is not known has none."""
        tags = {
            "engine_id": self.engine_id,
            "manifest": self.manifest,
            "manifest_digest": self.manifest_digest,
            "registry": self.registry,
            "verdict": self.verdict,
            "signature": self.signature,
            "override": self.override,
        }
        return {f"enginegate.{name}": value for name, value in tags.items() if value is not None}


def alias_of(target: str, channel: str) -> str:
    """The alias that mirrors a channel, `cpu-staging`.

    MLflow takes letters, digits, `_` and `-`; no target has a `_`, so that none is taken for another.

    >>> alias_of("a100-mig-1g.5gb", "production")
    'a100-mig-1g_5gb-production'
    """
    return f"{target.replace('.', '_')}-{channel}"


def describe_version(engine: RegisteredEngine, model: str) -> str:
    """What MLflow's page says of a version, in Markdown."""
    place = engine.manifest if engine.registry is None else f"{engine.registry.rstrip('/')}/{engine.manifest}"
    judged = f"verdict **{engine.verdict}** (`{_code(engine.deciding)}`)"
    measured = f"p50 {engine.p50_ms:.3g} ms at batch {engine.batch}, {engine.size_bytes / 1e6:.1f} MB"
    who = f"`enginegate history {model} --target {engine.target}`"
    overridden = [] if engine.override is None else [f"**A rule was overridden:** `{_code(engine.override)}`"]
    lines = [
        f"{engine.engine_id}: {judged}, {measured}, {engine.signature}.",
        *overridden,
        f"A mirror of Enginegate's registry, which alone counts: manifest `{place}`, `{engine.manifest_digest}`.",
        f"`enginegate verify {engine.engine_id}` checks it; {who} tells who moved it, when and why.",
    ]
    return "\n\n".join(lines)


def _code(text: str) -> str:
    """Text of people's, fit for a span of code: on one line, and without an end of that span."""
    return " ".join(text.replace("`", "'").split())


def mirror_engines(tracking_uri: str, model: str, pointed: Mapping[str, RegisteredEngine]) -> None:
    """Let the registered model `model` have a version for each engine, and each alias point at its engine's.

    Told the same twice, it changes nothing. Versions and aliases of others are left alone, and no alias is removed: a
    channel never loses its last move. Several at once agree, because of two versions of one engine each takes the
    first, and takes its own away if that came later. One who is killed in between leaves a version that nothing points
    at; it is never made use of.

    Args:
        tracking_uri: MLflow's address.
        model: the name of the registered model.
        pointed: the engine behind each alias; see `alias_of`.

    Raises:
        StageError: there is no local MLflow yet, or MLflow cannot be reached or refuses.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        shown = without_credentials(tracking_uri)
        raise StageError(f"there is none at {shown} (set MLFLOW_TRACKING_URI to yours, if you have one)")
    if not pointed:
        return
    with explained_errors(tracking_uri, f"showing the channels of {model}"):
        client = open_client(tracking_uri)
        aliases = _open_model(client, model)
        for alias, engine in pointed.items():
            version = _open_version(client, model, engine)
            if aliases.get(alias) != version:
                _set_alias(client, model, alias, version)


def _set_alias(client: Any, model: str, alias: str, version: str) -> None:
    """Point an alias at a version; MLflow looks and then inserts, so of two mirrors at once one is told of an error."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as below

    try:
        client.set_registered_model_alias(model, alias, version)
    except MlflowException:
        client.set_registered_model_alias(model, alias, version)  # it is there now, and is moved


def _open_model(client: Any, model: str) -> dict[str, str]:
    """The versions that the aliases of a registered model point at; it is made if need be."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded with the client

    try:
        found = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != _NOT_THERE:
            raise
        _create_model(client, model)
        found = client.get_registered_model(model)
    return {alias: str(version) for alias, version in found.aliases.items()}


def _create_model(client: Any, model: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

    try:
        client.create_registered_model(model, description=_MODEL)
    except MlflowException as error:
        if error.error_code != _THERE:  # somebody made it in between
            raise


def _open_version(client: Any, model: str, engine: RegisteredEngine) -> str:
    """The version of an engine, with its tags and description as they should be; it is made if need be."""
    versions = _find_versions(client, model, engine)
    if not versions:
        made = _create_version(client, model, engine)
        versions = _find_versions(client, model, engine) or [made]
        if _number(made) != _number(versions[0]):
            client.delete_model_version(model, _number(made))
    first, number = versions[0], _number(versions[0])
    for name, value in engine.tags.items():
        if first.tags.get(name) != value:
            client.set_model_version_tag(model, number, name, value)
    description = describe_version(engine, model)
    if first.description != description:
        client.update_model_version(model, number, description)
    return number


def _find_versions(client: Any, model: str, engine: RegisteredEngine) -> list[Any]:
    wanted = f"name = '{model}' and tags.`enginegate.manifest_digest` = '{engine.manifest_digest}'"
    return sorted(client.search_model_versions(wanted), key=lambda version: int(version.version))


def _create_version(client: Any, model: str, engine: RegisteredEngine) -> Any:
    run = engine.run_id if engine.run_id is not None and _has_run(client, engine.run_id) else None
    return client.create_model_version(
        model,
        _source(engine, run),
        run_id=run,
        tags=engine.tags,
        description=describe_version(engine, model),
        await_creation_for=0,
    )


def _source(engine: RegisteredEngine, run: str | None) -> str:
    """What the version's files are: those of the engine's run, which whoever can read MLflow can fetch.

    Without a run, it only names the manifest. A server refuses paths of a host, and none may be told.
    """
    if run is not None:
        return f"runs:/{run}"
    root = "enginegate:" if engine.registry is None else engine.registry.rstrip("/")
    return f"{root}/{engine.manifest}"


def _has_run(client: Any, run: str) -> bool:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

    try:
        client.get_run(run)
    except MlflowException as error:
        if error.error_code == _NOT_THERE:
            return False
        raise
    return True


def _number(version: Any) -> str:
    return str(version.version)  # a number in a local store, a text from a server
