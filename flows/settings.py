"""Where things are kept, from ENGINEGATE_* variables; without any, all of it lies in `./.enginegate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import InputError
from tasks.objects.location import SCHEME

PREFIX = "ENGINEGATE_"
NEVER_BLANK = (f"{PREFIX}TRUST", f"{PREFIX}SIGNING_KEY", f"{PREFIX}POLICY_FLOOR")
# How often a runner gives a heartbeat.
HEARTBEAT_EVERY_S = 3.0
MOST_REBUILDS = 20
# Python with torch does not start in less.
LEAST_MEMORY_GB = 0.5


class Settings(BaseSettings):
    """What ENGINEGATE_HOME, _STORE, _REGISTRY, _TIME_LIMIT_S, … say; and MLflow's own variable.

    `time_limit_s` is the longest time of a child process, `benchmark_s` the time for which an engine, and as long
    again its reference, is called at one batch size. `torch_python` is an interpreter that has torch, safetensors,
    numpy, pydantic and pyyaml, for runners where TensorRT's has no torch. `runner_wait_s` is how long an engine
    waits while no worker is on its pool, and `runner_silence_s` how long a runner may give no heartbeat before
    another takes its place. `registry` is a folder or `s3://bucket/prefix`, and `registry_name` what its channels
    call it, a bucket's address if left out; `signing_key` signs what is written there, `trust` holds the keys whose
    signatures count, `policy_floor` what no model's policy may fall short of, and `actor` is who moves channels, if
    not the login name. `supersede` says what a newer commit of a model does to a conversion that runs: let it
    `finish`, or `cancel` it. `memory_limit_gb` is the most memory, in 10^9 bytes, that a process of the model's own
    code may take; the machine's, if left out. `rebuilds` is how often an engine that was miscompiled is built again, at
    most. `repositories` are the beginnings, with commas between, of the addresses
    that may be fetched. `triton` is the folder of a Triton server, that of `make triton` if left out. `rollout_webhook`
    is the URL that is told how rollouts end.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    home: Path = Path(".enginegate")
    store: Path | None = None
    state: Path | None = None
    registry: str | None = None
    registry_name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    signing_key: Path | None = None
    trust: Path | None = None
    policy_floor: Path | None = None
    actor: str | None = None
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1800.0
    torch_python: Path | None = None
    benchmark_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    runner_wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900.0
    runner_silence_s: Annotated[float, Field(ge=HEARTBEAT_EVERY_S * 2, allow_inf_nan=False)] = 120.0

    supersede: Literal["finish", "cancel"] = "finish"
    memory_limit_gb: Annotated[float, Field(ge=LEAST_MEMORY_GB, allow_inf_nan=False)] | None = None
    rebuilds: Annotated[int, Field(ge=0, le=MOST_REBUILDS)] = 3
    repositories: str | None = None
    triton: Path | None = None
    rollout_webhook: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = None

    @property
    def memory_limit_bytes(self) -> int | None:
        """`memory_limit_gb` in bytes."""
        return None if self.memory_limit_gb is None else int(self.memory_limit_gb * 1e9)

    @property
    def store_path(self) -> Path:
        """Folder of the artifact store."""
        return (self.store or self.home / "store").resolve()

    @property
    def state_path(self) -> Path:
        """Folder of what must not be deleted: the journal, the watcher's heads, engines kept for an override."""
        return (self.state or self.home / "state").resolve()

    @property
    def registry_address(self) -> str:
        """Where the registry is: a folder, or `s3://bucket/prefix`."""
        address = self.registry or str(self.home / "registry")
        # A scheme that is none is refused by whoever opens it, with what may stand there.
        return address if SCHEME.match(address) else str(Path(address).expanduser().resolve())

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI, or SQLite in the home folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home.resolve() / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Folder of MLflow's artifacts when its store is SQLite."""
        return self.home.resolve() / "mlartifacts"


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        InputError: a variable holds nothing usable.
    """
    for name in NEVER_BLANK:  # what an unset variable of a shell gives must not switch verification off
        if name in os.environ and not os.environ[name].strip():
            raise InputError(f"{name}: is blank; name a file, or unset it")
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    for name in sorted(set(os.environ) - known):
        if name.startswith(PREFIX):
            raise InputError(f"{name}: is no setting; choose from {', '.join(sorted(known))}, or unset it")
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"ENGINEGATE_{str(d['loc'][0]).upper()}: {d['msg']} (given: {d['input']!r})" for d in error.errors()]
        raise InputError("\n".join(lines)) from None
