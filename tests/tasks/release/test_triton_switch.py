"""What a switch makes of a server's words; test_triton_server.py has a real server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tasks.errors import RefusedError
from tasks.release.triton_switch import TritonSwitch
from tasks.serving.triton_api import TritonError
from tasks.serving.triton_repository import TritonRepository

if TYPE_CHECKING:
    from pathlib import Path

API = SimpleNamespace(url="http://127.0.0.1:8000", version=lambda: "2.51.0")
PLACED = SimpleNamespace(
    manifest=SimpleNamespace(engine_id="tiny-t4-fp16@111111111111", backend=SimpleNamespace(version="10.13.0"))
)


@pytest.mark.parametrize(
    "reason",
    [
        (
            "load failed for model 'tiny': version 1 is at UNAVAILABLE state: Internal: unable to load plan file to"
            " auto complete config: /models/tiny/1/model.plan;"
        ),
        "failed to load 'tiny' version 1: Internal: unable to create TensorRT engine",
        (
            "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. Note:"
            " Current Version: 240, Serialized Engine Version: 239"
        ),
        (
            "The engine plan file is not compatible with this version of TensorRT, expecting library version 8.2.4 got"
            " 8.2.3, please rebuild."
        ),
    ],
)
def test_a_plan_that_the_server_cannot_load_is_refused_with_both_versions(reason: str, tmp_path: Path) -> None:
    switch = TritonSwitch(TritonRepository(tmp_path, "tiny"), api=cast("Any", API))
    found = switch._about_tensorrt(cast("Any", PLACED), TritonError("no", reason))  # noqa: SLF001 - what it says
    assert isinstance(found, RefusedError)
    assert "built with TensorRT 10.13.0, and Triton 2.51.0 at http://127.0.0.1:8000 cannot load it" in str(found)


def test_any_other_refusal_stays_what_it_is(tmp_path: Path) -> None:
    switch = TritonSwitch(TritonRepository(tmp_path, "tiny"), api=cast("Any", API))
    error = TritonError("no", "failed to load 'tiny': the model expects 2 inputs but the configuration has 1")
    assert switch._about_tensorrt(cast("Any", PLACED), error) is error  # noqa: SLF001 - as above
