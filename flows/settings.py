"""Where things are kept, from ENGINEGATE_* variables; without any, all of it lies in `./.enginegate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import InputError

PREFIX = "ENGINEGATE_"
# How often a runner gives a sign of life.
SIGN_EVERY_S = 3.0


class Settings(BaseSettings):
    """What ENGINEGATE_HOME, _STORE, _REGISTRY, _TIME_LIMIT_S, … say; and MLflow's own variable.

    `time_limit_s` is the longest time of a child process, `benchmark_s` the time for which an engine, and as long
    again its reference, is called at one batch size. `torch_python` is an interpreter that has torch, safetensors,
    numpy, scipy, pydantic and pyyaml, for runners where TensorRT's has no torch. `runner_wait_s` is how long an engine
    waits while no worker is on its pool, and `runner_silence_s` how long a runner may give no sign of life before
    another takes its place. `registry` is a folder or `s3://bucket/prefix`; `signing_key` signs what is written there,
    `trust` holds the keys whose signatures count, and `actor` is who moves channels, if not the login name.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    home: Path = Path(".enginegate")
    store: Path | None = None
    registry: str | None = None
    signing_key: Path | None = None
    trust: Path | None = None
    actor: str | None = None
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1800.0
    torch_python: Path | None = None
    benchmark_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
    runner_wait_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 900.0
    runner_silence_s: Annotated[float, Field(ge=SIGN_EVERY_S * 2, allow_inf_nan=False)] = 120.0

    @property
    def store_path(self) -> Path:
        """Folder of the artifact store."""
        return (self.store or self.home / "store").resolve()

    @property
    def registry_address(self) -> str:
        """Where the registry is: a folder, or `s3://bucket/prefix`."""
        address = self.registry or str(self.home / "registry")
        # A scheme that is none is refused by whoever opens it, with what may stand there.
        return address if "://" in address else str(Path(address).expanduser().resolve())

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
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    for name in sorted(set(os.environ) - known):
        if name.startswith(PREFIX):
            raise InputError(f"{name}: is no setting; choose from {', '.join(sorted(known))}, or unset it")
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"ENGINEGATE_{str(d['loc'][0]).upper()}: {d['msg']} (given: {d['input']!r})" for d in error.errors()]
        raise InputError("\n".join(lines)) from None
