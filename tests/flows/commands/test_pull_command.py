"""`enginegate pull` as people, programs and supervisors see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flows.commands.cli import main
from flows.commands.pull_job import PullJob
from flows.commands.pull_watch import Watcher
from flows.console import Reporter
from flows.session import Session
from flows.settings import Settings
from tasks.objects.folder import LocalObjects
from tasks.records import Override
from tasks.registry.evidence import policy_digest
from tasks.registry.signing import Signing
from tasks.release.serving_folder import ServingFolder
from tests.tasks.serving_host import FIRST, PRODUCTION, SECOND, SQUARED, THIRD, Shop, version_before, version_served
from tests.tasks.tiny import cell, compare_scores
from validation.policy import Policy, Rule
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
LIMIT_S = 60
PULL = ("pull", "tiny", "--target", "cpu", "--to", "host")
HEAVY = ("torch", "prefect", "mlflow", "matplotlib", "pandas", "sqlalchemy", "onnx")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A registry to which the settings lead; the host's folder is `host`, here."""
    monkeypatch.setenv("ENGINEGATE_REGISTRY", str(tmp_path / "registry"))
    return Shop(tmp_path, LocalObjects(tmp_path / "registry"))


def pull(*more: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code and people's text of one pull, and the document of another."""
    shown, told = CliRunner().invoke(main, [*PULL, *more]), CliRunner().invoke(main, [*PULL, *more, "--json"])
    assert shown.exit_code == told.exit_code
    return shown.exit_code, shown.output, json.loads(told.stdout)


def test_people_are_told_who_moved_the_channel_who_signed_and_where_it_lies(shop: Shop, tmp_path: Path) -> None:
    manifest = shop.offer()
    code, text, document = pull()
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("channel production of tiny for cpu: move 1, promote by ann (name as given), 20")
    assert lines[0].endswith(": it is faster")
    assert lines[1:3] == ["! move: unsigned", "! manifest: unsigned"]
    assert lines[3].startswith("✓ verdict pass: ")
    assert lines[4:6] == [
        f"- policy {manifest.policy_digest[:19]}, the default",
        "- confidence 0.95, on 400 samples (300 needed)",
    ]
    assert lines[6].startswith("✓ pull tiny production")
    assert "tiny-cpu-fp32@111111111111, 0.0 MB fetched and checked" in lines[6]
    assert lines[7] == f"✓ {tmp_path / 'host' / 'current'} leads now to {Path(document['folder']).name}"
    assert (document["engine_id"], document["verdict"]) == (manifest.engine_id, "pass")
    assert (document["move"]["number"], document["move"]["signature"]) == (1, "unsigned")
    assert (document["moved"], document["fetched"], document["check"]) == (False, False, None)
    assert (tmp_path / "host" / "current").resolve() == Path(document["folder"])


def write_keys(folder: Path) -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return str(private), str(public)


def test_signatures_are_shown_by_what_they_are_worth_here(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path)
    shop.signing = Signing.from_files(Path(private), None)
    shop.offer()
    _, text, _ = pull()
    assert text.splitlines()[1:3] == ["! move: signed, not verified", "! manifest: signed, not verified"]
    monkeypatch.setenv("ENGINEGATE_TRUST", public)
    _, text, document = pull()
    assert [line[:18] for line in text.splitlines()[1:3]] == ["✓ move: signed by ", "✓ manifest: signed"]
    assert document["signature"].startswith("signed by ")


def test_an_unsigned_channel_is_refused_where_there_is_a_trust_root(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.offer()
    monkeypatch.setenv("ENGINEGATE_TRUST", write_keys(tmp_path)[1])
    code, text, document = pull()
    assert (code, document["exit_code"]) == (5, 5)
    assert "is signed by nobody" in text
    assert not (tmp_path / "host").exists()


def test_an_override_is_shown_in_red(shop: Shop) -> None:
    override = Override(reason="a demo", who="bob", when="2026-11-20T12:00:00+00:00")
    shop.promote(shop.publish(noise=0.3, override=override).cell, override="the board\nwants it \x1b[2J")
    code, text, document = pull()
    assert code == 0
    assert "✕ verdict fail: " in text
    assert "✕ registered by override of bob: a demo" in text
    assert r"✕ by override of ann: the board\nwants it \x1b[2J" in text
    assert document["override"]["reason"] == "a demo"
    assert document["move"]["override"].startswith("the board")
    environment = os.environ | {"FORCE_COLOR": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "flows.commands.cli", *PULL]
    coloured = subprocess.run(command, env=environment, stdout=PIPE, text=True, check=True).stdout
    assert "\x1b[31m✕ by override of ann: " in coloured


def test_an_engine_whose_policy_is_looser_than_that_of_the_one_before_says_so(shop: Shop) -> None:
    shop.offer()
    policy = Policy(rules=(Rule(output="score", metric="mae", max=1e9),), min_samples=1)
    verdict = decide(policy, compare_scores(0.0001), precision="fp32")
    loose = {"policy": policy, "policy_digest": policy_digest(policy), "policy_origin": "own", "verdict": verdict}
    shop.offer(SECOND, **loose)
    code, text, document = pull()
    assert code == 0
    assert f"- policy {policy_digest(policy)[:19]}, the model's own\n" in text
    assert "? looser than before: score mae max 1e+09, 0.0125 there\n" in text
    assert document["basis"]["looser"][:2] == ["min_samples 1, 300 there", "score mae max 1e+09, 0.0125 there"]
    shop.manifest_file(FIRST).unlink()
    assert pull()[2]["basis"]["beside"] is None, "an engine that is gone is no reason to serve none"


def test_the_check_shows_what_was_measured_and_a_wrong_engine_keeps_its_exit_code(shop: Shop, tmp_path: Path) -> None:
    shop.offer(plan=shop.onnx_plan())
    code, text, document = pull("--check")
    assert code == 0
    assert "✓ check: score: largest error " in text
    assert "✓ check: 4 samples; first call " in text
    assert document["check"]["samples"] == 4
    assert document["check"]["errors"][0]["output"] == "score"
    shop.offer(SECOND, plan=shop.onnx_plan(SQUARED))
    code, text, document = pull("--check")
    assert code == 5
    assert "does not do here what it did when it was compared: score: largest error" in text
    assert version_served(tmp_path / "host") == FIRST


def test_what_was_mended_and_removed_is_told(shop: Shop) -> None:
    for version in (FIRST, SECOND):
        shop.offer(version)
        CliRunner().invoke(main, PULL)
    (Path("host") / "current" / "plan" / "engine.onnx").write_bytes(b"damage")
    shown = CliRunner().invoke(main, PULL)
    assert "! plan/engine.onnx: was damaged or did not belong there, and was mended" in shown.output
    assert "led there before: tiny-cpu-fp32@222222222222-" in shown.output
    shop.offer(THIRD)
    shown = CliRunner().invoke(main, PULL)
    assert "- tiny-cpu-fp32@111111111111-" in shown.output
    assert "an old engine, was removed" in shown.output


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ((), 2, "points at no engine yet"),
        (("--channel", "prod"), 2, "is not one of 'candidate', 'staging', 'canary', 'production'"),
        (("--every", "0.5"), 2, "is not in the range"),
        (("--time-limit", "0"), 2, "is not in the range"),
        (("--to", ""), 2, "is empty; name a file or a folder"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(shop: Shop, more: tuple[str, ...], code: int, words: str) -> None:
    assert shop.registry
    result = CliRunner().invoke(main, [*PULL, *more])
    assert result.exit_code == code
    assert words in result.output


def test_a_whole_pull_with_check_imports_nothing_that_a_serving_host_has_not(shop: Shop) -> None:
    shop.offer(plan=shop.onnx_plan())
    program = (
        "import sys\n"
        "from flows.commands.cli import main\n"
        "try:\n"
        f"    main({[*PULL, '--check', '--json']!r})\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    assert json.loads(ended.stdout)["check"]["samples"] == 4
    assert ended.stderr.splitlines()[-1] == "[]"


def test_an_error_is_told_once(shop: Shop) -> None:
    shop.offer()
    shop.channel_file.write_bytes(b"{")
    code, text, document = pull()
    assert code == 5
    assert text.count("channel production of tiny for cpu is damaged") == 1
    assert text.count(document["error"]) == 1


def test_a_pull_that_waits_for_another_one_says_so(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.release.serving_folder.SILENT_S", 0.01, raising=False)
    shop.offer()
    with ServingFolder(Path("host")).held(1):
        result = CliRunner().invoke(main, [*PULL, "--time-limit", "1"])
    assert f"another pull is at work in {Path('host').absolute()}; waiting for it, 1 s at most" in result.output
    assert result.exit_code == 1


# --watch


@pytest.fixture
def watcher(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """One that looks when it is told to."""
    assert shop.registry
    monkeypatch.setattr("flows.commands.pull_watch.SLOWEST_S", 240.0)
    return Watcher(
        PullJob(Session(Settings(), Reporter()), shop.folder, PRODUCTION, 30.0, check=False), 30.0, as_json=True
    )


def looked(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What one look told programs."""
    watcher.look()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def events(watcher: Watcher, capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [document["event"] for document in looked(watcher, capsys)]


def test_a_look_pulls_what_moved_and_says_nothing_otherwise(
    shop: Shop, watcher: Watcher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop.offer()
    (document,) = looked(watcher, capsys)
    assert (document["event"], document["engine_id"]) == ("pulled", cell(version=FIRST).engine_id)
    watcher.look()
    assert capsys.readouterr().out == ""
    shop.offer(SECOND)
    (document,) = looked(watcher, capsys)
    assert document["moved"]
    assert (version_served(tmp_path / "host"), version_before(tmp_path / "host")) == (SECOND, FIRST)


def test_an_error_is_told_once_and_the_end_of_it_too(
    shop: Shop, watcher: Watcher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop.offer()
    watcher.look()
    capsys.readouterr()
    whole = shop.channel_file.read_bytes()
    shop.channel_file.write_bytes(b"{")
    (document,) = looked(watcher, capsys)
    assert (document["event"], document["exit_code"]) == ("error", 5)
    assert "is damaged" in document["error"]
    assert looked(watcher, capsys) == []
    shop.channel_file.write_bytes(whole)
    assert events(watcher, capsys) == ["recovered"]
    assert looked(watcher, capsys) == []
    assert version_served(tmp_path / "host") == FIRST


def test_a_host_that_came_before_the_first_promotion_waits_for_it(
    shop: Shop, watcher: Watcher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert events(watcher, capsys) == ["error"]
    assert [events(watcher, capsys) for _ in range(5)] == [[]] * 5
    shop.offer()
    assert events(watcher, capsys) == ["pulled"]


def test_a_move_that_is_refused_is_tried_ever_more_rarely_and_another_one_at_once(
    shop: Shop, watcher: Watcher, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = shop.offer()
    blob = shop.blob(manifest.plan.files[0].digest)
    whole = blob.read_bytes()
    blob.unlink()
    tried: list[int] = []
    run = PullJob.run
    for number in range(40):

        def counted(job: PullJob, at: int = number) -> Any:
            tried.append(at)
            return run(job)

        monkeypatch.setattr(PullJob, "run", counted)
        watcher.look()
    assert tried == [0, 1, 3, 7, 15, 24, 33], "and every 8 looks of 30 s at last: 240 s"
    capsys.readouterr()
    shop.offer(SECOND)
    assert events(watcher, capsys) == ["pulled"]
    blob.write_bytes(whole)
    shop.promote(cell(version=FIRST))
    assert events(watcher, capsys) == ["pulled"]


def test_a_disk_that_fails_is_told_and_the_watch_goes_on(
    shop: Shop, watcher: Watcher, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop.offer()
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / ".scratch").touch()
    (document,) = looked(watcher, capsys)
    assert (document["event"], document["exit_code"]) == ("error", 1)
    assert ".scratch" in document["error"]
    (tmp_path / "host" / ".scratch").unlink()
    assert events(watcher, capsys) == ["pulled"]


@pytest.fixture
def watching(shop: Shop) -> Iterator[subprocess.Popen[str]]:
    """A watch of an engine in a process of its own."""
    shop.offer()
    command = [sys.executable, "-m", "flows.commands.cli", *PULL, "--watch", "--every", "1", "--json"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watch_follows_the_channel_and_ends_with_0_on_a_signal(
    shop: Shop, watching: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["engine_id"] == cell(version=FIRST).engine_id
    shop.offer(SECOND)
    assert json.loads(watching.stdout.readline())["engine_id"] == cell(version=SECOND).engine_id
    watching.send_signal(number)
    assert watching.stdout.read() == ""
    assert watching.wait(LIMIT_S) == 0
    assert (version_served(tmp_path / "host"), version_before(tmp_path / "host")) == (SECOND, FIRST)


def test_a_watch_ends_at_once_where_waiting_mends_nothing(shop: Shop) -> None:
    shop.offer()
    assert CliRunner().invoke(main, PULL).exit_code == 0
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        result = CliRunner().invoke(main, [*PULL, "--channel", "staging", "--watch", "--json"])
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["event"] == "error"
    assert "follows channel production of tiny" in json.loads(line)["error"]


def test_a_watch_with_settings_at_fault_ends_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEGATE_TRUST", "/nowhere.pem")
    job = PullJob(Session(Settings(), Reporter()), ServingFolder(shop.root), PRODUCTION, 30.0, check=False)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with pytest.raises(SystemExit) as caught:
            Watcher(job, 1.0, as_json=False).run()
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert caught.value.code == 2


SLOW_END = """
import os, signal, sys
from flows.commands import pull_watch
from flows.commands.cli import main

class Slow:
    def __del__(self):
        signal.pause()  # until a signal comes, as one may on a host that has too much to do

slow = Slow()
pull_watch.GRACE_S = 1
look = pull_watch.Watcher.look

def stop_after(watcher):
    look(watcher)
    os.kill(os.getpid(), signal.SIGTERM)

pull_watch.Watcher.look = stop_after
main(sys.argv[1:])
"""


def test_a_watch_whose_end_takes_longer_than_its_grace_ends_with_0_all_the_same(shop: Shop) -> None:
    shop.offer()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", SLOW_END, *PULL, "--watch", "--json"]
    ended = subprocess.run(command, env=environment, stdout=PIPE, text=True, check=False, timeout=LIMIT_S)
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["event"] == "pulled"
