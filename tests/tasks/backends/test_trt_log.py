from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tasks.backends.trt_log import MOST_ERRORS, TrtLog, load_plugins
from tasks.errors import StageError
from tests.tasks.backends.fake_tensorrt import FakeTensorrt
from tests.tasks.backends.tensorrt_api.recording import RELEASES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=RELEASES)
def fake(request: pytest.FixtureRequest) -> FakeTensorrt:
    return FakeTensorrt(request.param)


def say(fake: FakeTensorrt, log: TrtLog, severity: str, text: str) -> None:
    log.logger.log(getattr(fake.module.Logger, severity), text)


def test_warnings_and_errors_are_printed_and_chatter_is_not(
    fake: FakeTensorrt, capsys: pytest.CaptureFixture[str]
) -> None:
    log = TrtLog(fake.module)
    for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        say(fake, log, severity, f"{severity} text")
    assert capsys.readouterr().out.splitlines() == [
        "TensorRT: INTERNAL_ERROR text",
        "TensorRT: ERROR text",
        "TensorRT: WARNING text",
    ]


def test_errors_are_kept_until_they_are_taken(fake: FakeTensorrt) -> None:
    log = TrtLog(fake.module)
    say(fake, log, "WARNING", "harmless")
    assert not log.has_errors
    say(fake, log, "ERROR", "first")
    say(fake, log, "INTERNAL_ERROR", "second")
    assert log.has_errors
    assert log.errors() == "first; second"
    assert not log.has_errors
    assert log.errors() == "it gave no reason"


def test_of_many_errors_the_last_are_told(fake: FakeTensorrt) -> None:
    log = TrtLog(fake.module)
    for number in range(100):
        say(fake, log, "ERROR", f"error {number}")
    assert log.errors().split("; ") == [f"error {number}" for number in range(100 - MOST_ERRORS, 100)]


def test_forgotten_errors_are_not_told(fake: FakeTensorrt) -> None:
    log = TrtLog(fake.module)
    say(fake, log, "ERROR", "of before")
    log.clear()
    assert log.errors() == "it gave no reason"


def test_two_logs_keep_errors_of_their_own(fake: FakeTensorrt) -> None:
    one, other = TrtLog(fake.module), TrtLog(fake.module)
    say(fake, one, "ERROR", "of the first")
    assert not other.has_errors


@pytest.fixture
def libraries(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "libone.so", tmp_path / "libtwo.so"]
    for path in made:
        path.write_text(path.name)
    return made


def loaded(fake: FakeTensorrt) -> list[str]:
    return [found["plugin_path"] for found in fake.arguments("IPluginRegistry.load_library")]


def test_every_plugin_library_is_loaded_by_its_path(fake: FakeTensorrt, libraries: list[Path]) -> None:
    load_plugins(fake.module, TrtLog(fake.module), libraries)
    assert loaded(fake) == [str(path) for path in libraries]


def test_a_library_that_this_process_has_is_not_loaded_from_another_engine_s_folder_as_well(
    fake: FakeTensorrt, libraries: list[Path], tmp_path: Path
) -> None:
    again = tmp_path / "other-engine-libone.so"
    again.write_bytes(libraries[0].read_bytes())
    for paths in (libraries[:1], [again, libraries[1]]):
        load_plugins(fake.module, TrtLog(fake.module), paths)
    assert loaded(fake) == [str(path) for path in libraries]


def test_a_library_that_cannot_be_loaded_is_named_with_the_reason(fake: FakeTensorrt, libraries: list[Path]) -> None:
    log = TrtLog(fake.module)

    def refuse(_registry: Any, plugin_path: str) -> None:
        say(fake, log, "ERROR", f"{plugin_path}: undefined symbol")

    fake.on("IPluginRegistry.load_library", refuse)
    with pytest.raises(StageError, match=r"build.plugins: libone.so cannot be loaded: .*/libone.so: undefined symbol"):
        load_plugins(fake.module, log, libraries[:1])

    def fail(_registry: Any, plugin_path: str) -> None:
        raise RuntimeError(f"cannot open {plugin_path}")

    fake.on("IPluginRegistry.load_library", fail)
    with pytest.raises(StageError, match=r"build.plugins: libone.so cannot be loaded: cannot open .*/libone.so"):
        load_plugins(fake.module, log, libraries[:1])
