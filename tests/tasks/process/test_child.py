from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from tasks.errors import EnginegateError, InputError, RefusedError, StageError
from tasks.process import child
from tasks.process.child import Child, ChildFailedError, call_in_child
from tests.tasks.child_entries import Answer, Ask

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTRIES = "tests.tasks.child_entries"
REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_S = 30
LIMIT_S = 60.0


def call(entry: str, folder: Path, text: str = "", *, time_limit_s: float = LIMIT_S) -> str:
    return call_in_child(f"{ENTRIES}:{entry}", Ask(text=text), Answer, folder, time_limit_s=time_limit_s).text


def failure(entry: str, folder: Path, text: str = "", *, time_limit_s: float = LIMIT_S) -> str:
    with pytest.raises(ChildFailedError) as caught:
        call(entry, folder, text, time_limit_s=time_limit_s)
    return str(caught.value)


def test_a_message_names_no_folder_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StageError) as caught:
        call("fail_to_load", tmp_path)
    assert str(caught.value) == "cannot load plain/model.onnx"


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # dead, and not yet collected by its parent
    except psutil.NoSuchProcess:
        return True


def all_go(pids: Iterable[int]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    left = set(pids)
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if not is_gone(pid)}
        time.sleep(0.02)
    return not left


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.read_text()


def test_a_child_answers_what_it_was_asked(tmp_path: Path) -> None:
    text = "line\nline\t✓ \u2028 \x00" * 3
    assert call("echo", tmp_path, text) == text


def test_an_answer_may_be_large(tmp_path: Path) -> None:
    text = "x" * 3_000_000
    assert call("echo", tmp_path, text) == text


def test_what_is_printed_goes_to_the_log_and_corrupts_no_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("print_everywhere", tmp_path, "true") == "true"
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "child.log").read_text().count("forged") == 5


def test_one_child_serves_several_requests_and_keeps_what_it_loaded(tmp_path: Path) -> None:
    with Child(f"{ENTRIES}:remember_calls", tmp_path) as opened:
        answers = [opened.ask(Ask(), Answer, time_limit_s=LIMIT_S).text for _ in range(3)]
    assert answers == ["1", "2", "3"]


def test_progress_arrives_whole_and_in_order(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    with Child(f"{ENTRIES}:count", tmp_path) as opened:
        opened.ask(
            Ask(text="500"), Answer, time_limit_s=LIMIT_S, on_progress=lambda done, total: steps.append((done, total))
        )
    assert steps == [(number, 500) for number in range(1, 501)]


def test_expected_errors_keep_their_class_and_message_and_the_child_lives_on(tmp_path: Path) -> None:
    kinds: dict[str, type[EnginegateError]] = {
        "InputError": InputError,
        "StageError": StageError,
        "RefusedError": RefusedError,
    }
    with Child(f"{ENTRIES}:fail_with", tmp_path) as opened:
        for name, kind in kinds.items():
            with pytest.raises(EnginegateError) as caught:
                opened.ask(Ask(text=name), Answer, time_limit_s=LIMIT_S)
            assert (type(caught.value), str(caught.value)) == (kind, f"a {name} from the child")


def test_an_unexpected_error_names_itself_and_ends_with_the_log(tmp_path: Path) -> None:
    text = failure("raise_unexpected", tmp_path)
    assert f"{ENTRIES}:raise_unexpected raised LookupError: no such layer: \ud800 ✓" in text
    assert "\n    | the last thing it said" in text
    assert "\n    | Traceback" in text


@pytest.mark.parametrize(
    ("entry", "text", "words"),
    [
        ("leave", "0", "exited with code 0 before it answered"),
        ("leave", "7", "exited with code 7 before it answered"),
        ("exit_politely", "", "exited with code 3 before it answered"),
        ("segfault", "", "was killed by SIGSEGV before it answered"),
        ("no_such_function", "", "raised AttributeError"),
    ],
)
def test_a_child_that_ends_itself_is_a_failed_stage(tmp_path: Path, entry: str, text: str, words: str) -> None:
    assert f"{ENTRIES}:{entry} {words}" in failure(entry, tmp_path, text)


def test_a_crash_shows_what_was_said_last_and_where_it_happened(tmp_path: Path) -> None:
    text = failure("segfault", tmp_path)
    assert "\n    | the last thing it said" in text
    assert "Segmentation fault" in text
    assert "child_entries.py" in text


def test_asking_a_dead_child_says_how_it_died(tmp_path: Path) -> None:
    with Child(f"{ENTRIES}:leave", tmp_path) as opened:
        for _ in range(2):
            with pytest.raises(ChildFailedError, match="exited with code 7"):
                opened.ask(Ask(text="7"), Answer, time_limit_s=LIMIT_S)


def test_a_child_that_never_returns_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    # The limit must let the child start on a busy machine: it is lowered only once the child says that it runs.
    pids = tmp_path / "pids"
    seen: list[list[int]] = []

    class Impatient(Child):
        def _messages(self, deadline: float, time_limit_s: float):  # type: ignore[no-untyped-def] # noqa: ANN202
            for message in super()._messages(deadline, time_limit_s):
                yield message
                seen.append([int(pid) for pid in wait_for(pids).split()])
                yield from super()._messages(time.monotonic() + 0.1, 0.1)

    with Impatient(f"{ENTRIES}:never_return", tmp_path) as opened:
        with pytest.raises(ChildFailedError, match=r"did not end within 0.1 s and was stopped; raise .* --time-limit"):
            opened.ask(Ask(text=str(pids)), Answer, time_limit_s=LIMIT_S)
        assert len(seen[0]) == 2
        assert all_go(seen[0])


def test_a_small_limit_ends_a_child_whatever_it_does(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    assert "did not end within 0.2 s" in failure("never_return", tmp_path, str(tmp_path / "pids"), time_limit_s=0.2)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_child_that_closes_its_pipe_and_lives_on_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "EXIT_LIMIT_S", 0.2)
    before = set(psutil.Process().children(recursive=True))
    assert "closed its pipe before it answered" in failure("close_the_pipe", tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = textwrap.dedent(f"""
        from pathlib import Path
        from tasks.process.child import call_in_child
        from tests.tasks.child_entries import Answer, Ask
        folder = Path({str(tmp_path)!r})
        call_in_child("{ENTRIES}:never_return", Ask(text=str(folder / "pids")), Answer, folder, time_limit_s=600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY)
    started, grandchild = (int(pid) for pid in wait_for(pids).split())
    try:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert all_go([started])
    finally:
        psutil.Process(grandchild).kill()


def test_a_child_outlives_the_thread_that_started_it_as_long_as_it_is_asked(tmp_path: Path) -> None:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(call("echo", tmp_path, "from a thread")))
    thread.start()
    thread.join(PATIENCE_S)
    assert answers == ["from a thread"]


def test_the_environment_holds_no_credentials_and_a_home_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "GITHUB_TOKEN", "ENGINEGATE_HOME")
    for name in secrets:
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = dict(line.partition("=")[::2] for line in call("show_environment", tmp_path).splitlines())
    assert "secret-value" not in json.dumps(environment)
    assert not set(secrets) & set(environment)
    assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path)
    assert "OMP_NUM_THREADS" not in environment, "no stage has the number of threads in its key"


def environment_of(folder: Path, python: Path | None = None) -> dict[str, str]:
    with Child(f"{ENTRIES}:show_environment", folder, python=python) as opened:
        text = opened.ask(Ask(), Answer, time_limit_s=LIMIT_S).text
    return dict(line.partition("=")[::2] for line in text.splitlines())


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """An interpreter that is not this one, as far as its path tells."""
    path = tmp_path / "other-python"
    path.write_text(f'#!/bin/sh\nWHO=other exec "{sys.executable}" "$@"\n')
    path.chmod(0o700)
    return path


def test_a_child_can_run_in_another_interpreter(tmp_path: Path, other_python: Path) -> None:
    assert environment_of(tmp_path, other_python)["WHO"] == "other"
    assert "WHO" not in environment_of(tmp_path)


def test_an_interpreter_that_is_none_ends_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\necho I am no Python >&2\nexit 5\n")
    path.chmod(0o700)
    with (
        Child(f"{ENTRIES}:echo", tmp_path, python=path) as opened,
        pytest.raises(ChildFailedError, match=r"exited with code 5 before it answered\n    \| I am no Python"),
    ):
        opened.ask(Ask(), Answer, time_limit_s=LIMIT_S)


def test_the_same_interpreter_finds_the_packages_that_this_one_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'packages'}:/opt/more")
    assert environment_of(tmp_path)["PYTHONPATH"] == f"{tmp_path / 'packages'}:/opt/more"
    monkeypatch.delenv("PYTHONPATH")
    assert not environment_of(tmp_path)["PYTHONPATH"]


def test_another_interpreter_finds_none_of_this_ones_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_python: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    assert not environment_of(tmp_path, other_python)["PYTHONPATH"]


def late_after_progress(entry: str, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = "") -> str:
    """What the child fails with whose time is over at its first progress, by a clock that leaps."""
    leaps = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + leaps[0], sleep=time.sleep)
    monkeypatch.setattr(child, "time", clock)

    def leap(_done: int, _total: int) -> None:
        leaps[0] = LIMIT_S

    with (
        Child(f"{ENTRIES}:{entry}", folder) as opened,
        pytest.raises(ChildFailedError) as caught,
    ):
        opened.ask(Ask(text=text), Answer, time_limit_s=LIMIT_S, on_progress=leap)
    return str(caught.value)


@pytest.mark.parametrize(("entry", "text"), [("flood", ""), ("count", "500")])
def test_a_child_that_never_stops_sending_is_late_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, text: str
) -> None:
    assert "did not end within 60 s and was stopped" in late_after_progress(entry, tmp_path, monkeypatch, text)


def test_a_child_that_does_not_read_its_request_is_late_too(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nsleep 10\ntouch ended\n")
    path.chmod(0o700)
    with (
        Child(f"{ENTRIES}:echo", tmp_path, python=path) as opened,
        pytest.raises(ChildFailedError, match=r"did not end within 0.2 s"),
    ):
        opened.ask(Ask(text="x" * 1_000_000), Answer, time_limit_s=0.2)
    assert not (tmp_path / "ended").exists()


def test_a_reply_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LONGEST_REPLY_BYTES", 4 << 20)
    before = set(psutil.Process().children(recursive=True))
    assert "flood sent a reply of more than 4 MiB and was stopped" in failure("flood", tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.parametrize(
    "line",
    [
        *("no JSON", "[" * 100_000, "[]", "{}", '{"progress": 1}', '{"progress": ["a", 1]}'),
        *('{"error": [], "message": ""}', '{"error": "InputError"}', '{"error": "InputError", "message": 1}'),
    ],
)
def test_what_is_no_reply_is_a_failed_stage(tmp_path: Path, line: str) -> None:
    assert "send_line sent what is no reply and was stopped" in failure("send_line", tmp_path, line)


def test_a_result_of_another_kind_is_a_failed_stage(tmp_path: Path) -> None:
    assert "sent what is no Answer and was stopped" in failure("send_line", tmp_path, '{"result": {"text": 1}}')


def test_long_texts_of_a_child_are_cut_and_say_so(tmp_path: Path) -> None:
    text = failure("raise_at_length", tmp_path)
    assert f"raised {'C' * 1000}… (cut after 1000 characters): {'A' * 4000}… (cut after 4000 characters)" in text
    assert f"\n    | {'B' * 1000}… (cut after 1000 characters)\n    | ends\n" in text
    assert len(text) < 20_000
    with pytest.raises(InputError) as caught:
        call("raise_at_length", tmp_path, "InputError")
    assert str(caught.value) == f"{'A' * 4000}… (cut after 4000 characters)"


def test_of_a_log_as_large_as_it_likes_the_end_alone_is_read(tmp_path: Path) -> None:
    text = failure("stretch_the_log", tmp_path)
    assert "exited with code 3 before it answered" in text
    assert text.endswith("\n    | the last thing it said")
    assert len(text) < 2_000


def test_the_log_is_read_where_it_was_opened(tmp_path: Path) -> None:
    text = failure("remove_the_log", tmp_path)
    assert text.endswith("exited with code 3 before it answered\n    | the last thing it said")


def test_what_left_its_group_dies_with_the_child_that_started_it(tmp_path: Path) -> None:
    daemon = int(call("start_daemon", tmp_path, str(tmp_path)))
    try:
        assert all_go([daemon])
    finally:
        if not is_gone(daemon):
            psutil.Process(daemon).kill()


def test_only_what_a_child_started_dies_with_it(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Child(f"{ENTRIES}:remember_calls", tmp_path / "other") as other:
        assert other.ask(Ask(), Answer, time_limit_s=LIMIT_S).text == "1"
        bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)  # noqa: S607 - whichever sleep there is
        try:
            call("start_daemon", tmp_path, str(tmp_path))
            assert other.ask(Ask(), Answer, time_limit_s=LIMIT_S).text == "2"
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()


READ_THE_PARENTS = f"""
import subprocess, sys, tempfile
from pathlib import Path
from tasks.process.child import call_in_child
from tests.tasks.child_entries import Answer, Ask
look = "import os; print('open-secret' in open(f'/proc/{{os.getppid()}}/environ').read())"
print(subprocess.run([sys.executable, "-c", look], capture_output=True, text=True).stdout.strip())
with tempfile.TemporaryDirectory() as folder:
    entry = "{ENTRIES}:read_the_parents_environment"
    print(call_in_child(entry, Ask(), Answer, Path(folder), time_limit_s={LIMIT_S}).text)
"""


def test_a_child_cannot_read_its_parents_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ_THE_PARENTS]
    if os.geteuid() == 0:  # root as in a container: it may not read what any process holds
        if (setpriv := shutil.which("setpriv")) is None:
            pytest.skip("root reads everything, and there is no setpriv to make it less")
        less = "-sys_ptrace,-perfmon,-sys_admin"
        command = [setpriv, f"--bounding-set={less}", f"--inh-caps={less}", *command]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "open-secret"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.stdout.startswith("False") or "setpriv:" in done.stderr:
        pytest.skip("no process can read its parent's environment here, or root cannot be made less")
    assert done.stdout.split() == ["True", "PermissionError"], done.stderr


HUNGRY = "tests.tasks.hungry_entries"
LIMIT_BYTES = 10**9


def limited(entry: str, folder: Path, text: str = "") -> str:
    return call_in_child(
        f"{HUNGRY}:{entry}", Ask(text=text), Answer, folder, time_limit_s=LIMIT_S, memory_limit_bytes=LIMIT_BYTES
    ).text


def test_a_child_that_takes_more_memory_than_it_may_fails_and_names_the_setting(tmp_path: Path) -> None:
    assert limited("take", tmp_path, "100") == "100"
    with pytest.raises(
        ChildFailedError, match=r"raised MemoryError.*it may take 1 GB: raise ENGINEGATE_MEMORY_LIMIT_GB"
    ):
        limited("take", tmp_path, "1500")
    with pytest.raises(InputError, match=r"mend the module; it may take 1 GB: raise ENGINEGATE_MEMORY_LIMIT_GB"):
        limited("take_and_blame_the_user", tmp_path, "1500")
    with pytest.raises(ChildFailedError, match=r"SIGABRT before it answered; it may take 1 GB: raise ENGINEGATE_MEMO"):
        limited("die_of_bad_alloc", tmp_path)


def test_the_limit_holds_before_the_module_of_the_entry_is_imported(tmp_path: Path) -> None:
    assert limited("limit_at_import", tmp_path) == str(LIMIT_BYTES)


def test_a_child_without_a_limit_has_the_one_of_this_process_and_no_remedy(tmp_path: Path) -> None:
    own = resource.getrlimit(resource.RLIMIT_DATA)[0]
    assert call_in_child(f"{HUNGRY}:limit_at_import", Ask(), Answer, tmp_path, time_limit_s=LIMIT_S).text == str(own)
    assert "ENGINEGATE_MEMORY_LIMIT_GB" not in failure("raise_unexpected", tmp_path)


def test_no_credential_of_the_project_reaches_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
        *("PREFECT_API_KEY", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "GITHUB_TOKEN", "GH_TOKEN"),
        *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN", "ENGINEGATE_SIGNING_KEY"),
        *("ENGINEGATE_REGISTRY", "ENGINEGATE_REPOSITORIES", "GIT_ASKPASS", "SSH_AUTH_SOCK"),
    )
    for name in names:
        monkeypatch.setenv(name, "secret-value")
    assert not set(names) & set(environment_of(tmp_path))
    assert "secret-value" not in environment_of(tmp_path).values()
