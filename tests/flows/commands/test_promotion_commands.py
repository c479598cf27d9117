from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flows.commands.cli import main
from tasks.process.context import StageContext
from tasks.registry.evidence import policy_digest
from tasks.registry.moves import ChannelName
from tasks.store.local import LocalStore
from tests.tasks.registry.keys import write_key
from tests.tasks.shelf import BAD, FAST, PASSING, SLOW, Shelf, stock
from tests.tasks.tiny import compare_scores, tiny_spec
from validation.policy import Policy, Rule
from validation.verdict import decide

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).resolve().parents[3]
CHANNELS = tuple(name.value for name in ChannelName)
HERE = ("tiny", "--target", "cpu")
LIMIT_S = 60
# The terminal becomes that of the process, so that Ctrl-C reaches it; and no MLflow is told.
ON_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import flows.session
flows.session.LISTENERS = ()
from flows.commands.cli import main
main()
"""
RED, RESET = "\x1b[31m", "\x1b[0m"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines; made once."""
    return stock(tmp_path_factory.mktemp("template"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The models and targets of which the one listener was told."""
    calls: list[tuple[str, str]] = []
    listener = SimpleNamespace(name="a listener", hear=lambda move: calls.append((move.model, move.target)))
    monkeypatch.setattr("flows.session.LISTENERS", (lambda _settings, _registry: listener,))
    return calls


@pytest.fixture
def shelf(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, str]]) -> Shelf:
    """The engines, and the environment that leads there."""
    assert told == []
    shutil.copytree(template, tmp_path / "home")
    monkeypatch.setenv("ENGINEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEGATE_ACTOR", "ann")
    return Shelf(tmp_path / "home" / "registry", StageContext(LocalStore(tmp_path / "home" / "store")))


def run(*arguments: str, **options: Any) -> tuple[int, str]:
    """Exit code and what people see."""
    result = CliRunner().invoke(main, arguments, **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def run_json(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and people's text."""
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


def promote(to: str, *arguments: str) -> tuple[int, str]:
    return run("promote", *HERE, "--to", to, "--yes", *arguments)


def row(text: str, name: str) -> list[str]:
    """The cells of a row of the comparison."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}  "))
    return re.split(r" {2,}", line.strip())[1:]


def wait_until_it_reads(pid: int) -> None:
    """A SIGINT between Python's last look at signals and its read is noticed when the read returns: nobody types so."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)


def on_a_terminal(answer: bytes, arguments: Sequence[str], columns: int = 200) -> tuple[int, str]:
    """Run a command on a terminal of its own and answer its question; its exit code and all that was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": str(columns), "TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown, answered = b"", False
    while select.select([ours], [], [], LIMIT_S)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017 - how Linux says that the other end is closed
            break
        if b"[y/N]" in shown and not answered:
            wait_until_it_reads(process.pid)
            os.write(ours, answer)
            answered = True
    try:
        return process.wait(LIMIT_S), shown.decode()
    finally:
        process.kill()  # of no effect where it ended
        os.close(ours)  # not before: whoever is still ending would be hung up on


def test_what_is_there_and_what_would_come_are_shown_side_by_side(shelf: Shelf, told: list[tuple[str, str]]) -> None:
    assert promote("staging", "--engine", SLOW, "--reason", "the first")[0] == 0
    code, text = promote("staging", "--engine", FAST)
    assert code == 0
    lines = text.splitlines()
    when = shelf.channel("staging").moves[0].move.when
    assert lines[:3] == [
        "promote staging of tiny for cpu: candidate → staging",
        f"  {SLOW} → {FAST}",
        f"  moved there {when} by ann (name as given), unsigned: the first",
    ]
    assert row(text, "engine") == [SLOW, FAST]
    assert row(text, "verdict") == ["✓ pass", "✓ pass"]
    assert row(text, "p50 / p99") == ["4.00 / 4.00 ms at batch 8", "2.00 / 2.00 ms at batch 8"]
    assert row(text, "speed-up") == ["1.50x [1.42, 1.58]", "3.00x [2.85, 3.15]"]
    assert row(text, "commit") == ["c" * 12] * 2
    assert row(text, "signature") == ["? unsigned"] * 2
    assert row(text, "registered") == ["2026-11-20T12:00:00+00:00 by ann"] * 2
    assert row(text, "MLflow run") == ["run"] * 2
    assert re.fullmatch(rf"✓ staging of tiny for cpu points at {FAST} \(move 2:[0-9a-f]{{12}}\)", lines[-1])
    assert shelf.engine_at("staging") == FAST
    assert told == [("tiny", "cpu")] * 2


def test_every_judged_metric_is_shown_with_its_bounds_and_its_limit(shelf: Shelf) -> None:
    text = promote("staging", "--engine", SLOW)[1]
    verdict = shelf.registry.engines.read_signed(shelf.registry.engines.list_cells()[1]).manifest.verdict
    shown = {result.rule.metric: row(text, f"score {result.rule.metric}")[1] for result in verdict.rules}
    assert len(shown) == len(verdict.rules) == 6
    signs = {"max": "≤ ", "min": "≥ ", "within": "±"}
    for result in verdict.rules:
        cell = shown[result.rule.metric]
        match = re.fullmatch(r"(\S+) \[(\S+), (\S+)\] \((.*)\)", cell)
        assert match
        numbers = [float(match[group]) for group in (1, 2, 3)]
        assert numbers == pytest.approx([result.value, result.low, result.high], rel=1e-3)
        assert match[4] == f"{signs[result.rule.side]}{result.rule.limit:g}"
    spread = re.findall(r"[\d.]+", shown["p99_sd"])
    assert all(float(number) > 0 for number in spread), "0 would be perfect, and it is not"


def test_a_loosened_gate_is_seen_before_anybody_says_yes_in_80_columns_and_in_json(shelf: Shelf) -> None:
    promote("staging", "--engine", FAST)
    policy = Policy(rules=(Rule(output="score", metric="mae", max=1e9),), min_samples=1)
    spec = {name: tiny_spec().outputs["score"] for name in ("score", "traits")}
    loose = shelf.register(
        "fp16",
        version="d" * 12,
        policy=policy,
        policy_digest=policy_digest(policy),
        policy_origin="own",
        verdict=decide(policy, compare_scores(PASSING), precision="fp16"),
        outputs=spec,
    ).manifest
    arguments = ("promote", *HERE, "--to", "staging", "--engine", loose.engine_id)
    code, shown = on_a_terminal(b"n\n", arguments, columns=80)
    assert code == 5
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "")
    looser = [line for line in plain.splitlines() if line.startswith("? looser than in staging now: ")]
    assert "? looser than in staging now: score mae max 1e+09, 0.0125 there" in looser
    assert len(looser) == 7
    assert max(map(len, [*looser, *plain.split("\n\n")[1].splitlines()])) <= 80
    assert plain.index("? looser") < plain.index("Promote? [y/N]")
    code, text = run(*arguments, "--yes")
    assert code == 0
    policies = [shelf.describe("fp16").policy_digest, loose.policy_digest]
    assert row(text, "policy") == [f"{policies[0][:19]}, the default", f"{policies[1][:19]}, the model's own"]
    assert row(text, "confidence") == [f"0.95, on 400 samples ({needed} needed)" for needed in (300, 1)]
    assert row(text, "not judged") == ["-", "? traits"]
    promote("staging", "--engine", FAST)
    document = run_json(*arguments, "--yes")[1]
    assert document["proposed"]["basis"]["unjudged"] == ["traits"]
    assert document["proposed"]["basis"]["looser"] == [line.partition("now: ")[2] for line in looser]
    assert document["current"]["basis"]["origin"] == "default"


def test_an_empty_channel_shows_nothing_on_the_left(shelf: Shelf) -> None:
    text = promote("candidate")[1]
    assert f"  nothing → {FAST}" in text
    assert row(text, "engine") == ["-", FAST]
    assert shelf.engine_at("candidate") == FAST


def test_an_engine_goes_from_candidate_to_production_by_default(shelf: Shelf) -> None:
    for name in CHANNELS:
        assert promote(name)[0] == 0
    assert [shelf.engine_at(name) for name in CHANNELS] == [FAST] * 4


def test_a_step_that_is_skipped_is_refused_with_the_rule_in_red_and_the_way_out(
    shelf: Shelf, told: list[tuple[str, str]]
) -> None:
    code, text = run("promote", *HERE, "--to", "production", "--engine", SLOW, "--yes", env={"FORCE_COLOR": "1"})
    assert code == 5
    rule = "skips canary, which points at no engine yet; promote it there first"
    assert f"{RED}✕ {rule}{RESET}" in text
    assert f"error: production of tiny for cpu does not move to {SLOW}: {rule}; `--override REASON` breaks" in text
    assert shelf.engine_at("production") is None
    assert told == []


def test_an_overridden_engine_is_red_for_ever_in_the_history_and_while_it_is_there(shelf: Shelf) -> None:
    color = {"env": {"FORCE_COLOR": "1"}}
    assert promote("staging", "--engine", SLOW)[0] == 0
    code, text = promote("staging", "--engine", BAD)
    assert code == 5
    assert row(text, "verdict") == ["✓ pass", "✕ fail"]
    assert row(text, "signature") == ["? unsigned", "? not registered yet"]
    assert "✕ verdict is fail: score p99_sd is 2.769" in text
    arguments = ("promote", *HERE, "--to", "staging", "--engine", BAD, "--yes", "--override", "the demo of Monday")
    code, text = run(*arguments, **color)
    assert code == 0
    assert f"{RED}✕ override by ann, kept in the history for ever: the demo of Monday{RESET}" in text
    assert shelf.engine_at("staging") == BAD
    code, text = run("rollback", *HERE, "--channel", "staging", "--yes", "--reason", "over", **color)
    assert code == 0
    assert f"{RED}✕ it is there by override: the demo of Monday{RESET}" in text
    assert shelf.engine_at("staging") == SLOW
    code, text = run("history", *HERE, "--channel", "staging", **color)
    assert code == 0
    assert f"{RED}    ✕ override: the demo of Monday{RESET}" in text


def test_a_rollback_returns_to_an_override_and_says_so(shelf: Shelf) -> None:
    promote("staging", "--engine", BAD, "--override", "the demo")
    promote("staging", "--engine", SLOW)
    code, text = run("rollback", *HERE, "--channel", "staging", "--yes")
    assert code == 0
    assert "rollback staging of tiny for cpu: back to the engine before" in text
    assert "✕ returns to an override: the demo" in text
    move = shelf.channel("staging").current
    assert move
    assert (move.engine_id, move.override, move.kind) == (BAD, "the demo", "rollback")


def test_without_an_engine_before_there_is_nothing_to_roll_back_to(shelf: Shelf) -> None:
    for moves in range(2):
        code, text = run("rollback", *HERE, "--channel", "staging", "--yes")
        assert code == 2
        assert "has no engine before the current one to return to" in text
        assert len(shelf.channel("staging").moves) == moves
        promote("staging", "--engine", SLOW)


def test_a_channel_that_points_there_already_is_left_alone_without_a_question(
    shelf: Shelf, told: list[tuple[str, str]]
) -> None:
    promote("production", "--engine", SLOW, "--override", "hot fix")
    for arguments in ((), ("--override", "again")):
        code, text = run("promote", *HERE, "--to", "production", "--engine", SLOW, *arguments)
        assert code == 0
        assert text.endswith("production of tiny for cpu points there already; nothing to do\n")
        assert "kept in the history" not in text
    assert len(shelf.channel("production").moves) == 1
    assert told == [("tiny", "cpu")]


@pytest.mark.parametrize(
    ("answer", "code", "moves"),
    [(b"y\n", 0, 1), (b"n\n", 5, 0), (b"\n", 5, 0), (b"\x04", 5, 0), (b"\x03", 5, 0)],
    ids=["yes", "no", "enter", "end of input", "Ctrl-C"],
)
def test_a_person_on_a_terminal_is_asked_and_only_a_yes_moves(
    shelf: Shelf, answer: bytes, code: int, moves: int
) -> None:
    found, shown = on_a_terminal(answer, ["promote", *HERE, "--to", "staging", "--engine", SLOW])
    assert found == code, shown
    assert shown.index("would come") < shown.index("Promote? [y/N]")
    assert ("the answer was no; nothing was moved" in shown) == (not moves)
    assert len(shelf.channel("staging").moves) == moves


def test_on_a_narrow_terminal_cells_are_folded_and_nothing_is_cut_off(shelf: Shelf) -> None:
    shelf.point("staging", shelf.registry.engines.read_signed(shelf.registry.engines.list_cells()[0]))
    code, shown = on_a_terminal(b"n\n", ["promote", *HERE, "--to", "staging", "--engine", SLOW], columns=60)
    assert code == 5
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "")
    table = plain.split("\n\n")[1]
    assert max(map(len, table.splitlines())) <= 60
    assert "…" not in table
    assert f"  {FAST} → {SLOW}\n" in plain, "ids can be copied"


@pytest.mark.parametrize("kind", ["promote", "rollback"])
def test_where_nobody_can_be_asked_yes_is_asked_for(shelf: Shelf, kind: str) -> None:
    for engine in (SLOW, FAST):
        promote("staging", "--engine", engine)
    arguments = ("--to", "staging", "--engine", SLOW) if kind == "promote" else ("--channel", "staging")
    code, text = run(kind, *HERE, *arguments)
    assert code == 2
    assert (
        "error: standard input is no terminal, so nobody can be asked, and nothing was done; add --yes to go on" in text
    )
    code, document, _ = run_json(kind, *HERE, *arguments)
    assert code == 2
    assert document["error"].startswith("with --json nobody is asked")
    assert shelf.engine_at("staging") == FAST


def test_with_json_nobody_is_asked_even_on_a_terminal(shelf: Shelf) -> None:
    code, shown = on_a_terminal(b"", ["promote", *HERE, "--to", "staging", "--engine", SLOW, "--json"])
    assert code == 2
    assert "[y/N]" not in shown
    assert shelf.engine_at("staging") is None


def test_json_of_a_promotion_carries_both_engines_and_the_move(shelf: Shelf) -> None:
    promote("staging", "--engine", SLOW)
    code, document, text = run_json("promote", *HERE, "--to", "staging", "--engine", FAST, "--yes", "--reason", "why")
    assert code == 0
    assert "would come" in text
    last = shelf.channel("staging").moves[-1]
    assert document["move"] == last.move.model_dump(mode="json")
    assert document["moved"] is True
    assert document["pointed_at"]["engine_id"] == SLOW
    assert document["current"]["manifest"]["engine_id"] == SLOW
    assert document["proposed"]["digest"] == last.move.manifest
    signature = document["proposed"]["signature"]
    assert (signature["standing"], signature["claimed"], signature["verified"]) == ("unsigned", [], None)
    assert document["proposed"]["manifest"]["verdict"]["outcome"] == "pass"
    assert (document["objections"], document["registered"], document["current_fault"]) == ([], True, None)
    code, document, _ = run_json("promote", *HERE, "--to", "staging", "--engine", FAST)
    assert (code, document["moved"], document["move"]) == (0, False, None)


def test_a_refusal_in_json_is_one_document_with_the_rule(shelf: Shelf) -> None:
    code, document, _ = run_json("promote", *HERE, "--to", "canary", "--engine", BAD, "--yes")
    assert code == document["exit_code"] == 5
    assert "skips staging" in document["error"]
    assert "verdict is fail" in document["error"]
    assert shelf.engine_at("canary") is None


def test_the_history_is_told_newest_first_with_who_and_why(shelf: Shelf) -> None:
    promote("staging", "--engine", SLOW, "--reason", "first")
    promote("staging", "--engine", FAST, "--reason", "faster")
    run("rollback", *HERE, "--channel", "staging", "--yes", "--reason", "slow after all")
    moves = shelf.channel("staging").moves
    whens, names = [one.move.when for one in moves], [f"{one.move.number}:{one.digest[7:19]}" for one in moves]
    code, text = run("history", *HERE, "--channel", "staging")
    assert code == 0
    assert text.splitlines() == [
        "staging of tiny for cpu: 3 moves",
        f"→   {names[2]} rollback {SLOW}, before {FAST}",
        f"      {whens[2]} by ann (name as given), unsigned: slow after all",
        f"    {names[1]} promote {FAST}, before {SLOW}",
        f"      {whens[1]} by ann (name as given), unsigned: faster",
        f"    {names[0]} promote {SLOW}, before nothing",
        f"      {whens[0]} by ann (name as given), unsigned: first",
    ]


def test_the_history_in_json_carries_every_digest(shelf: Shelf) -> None:
    promote("staging", "--engine", BAD, "--override", "the demo")
    promote("staging", "--engine", SLOW)
    code, document, _ = run_json("history", *HERE)
    assert code == 0
    assert list(document["channels"]) == list(CHANNELS)
    assert document["channels"]["canary"] == {"current": None, "moves": []}
    staging = document["channels"]["staging"]
    assert staging["current"] == SLOW
    kept = shelf.channel("staging").moves
    assert [move["digest"] for move in staging["moves"]] == [kept[1].digest, kept[0].digest]
    assert staging["moves"][0]["previous"] == kept[0].digest
    assert [move["current"] for move in staging["moves"]] == [True, False]
    assert [move["override"] for move in staging["moves"]] == [None, "the demo"]
    assert all(move["signature"]["standing"] == "unsigned" for move in staging["moves"])


def test_one_damaged_channel_hides_no_other_and_is_refused(shelf: Shelf) -> None:
    promote("candidate", "--engine", SLOW)
    promote("staging", "--engine", SLOW)
    shelf.channel_file("candidate").write_bytes(b"{")
    code, document, text = run_json("history", *HERE)
    assert code == 5
    assert list(document["channels"]) == ["staging", "canary", "production"]
    assert document["damaged"] == [
        "channel candidate of tiny for cpu is damaged; restore it from the bucket's versions or a backup"
    ]
    assert "error: channel candidate of tiny for cpu is damaged" in text
    assert promote("staging")[0] == 5
    assert run("rollback", *HERE, "--channel", "candidate", "--yes")[0] == 5


def test_what_others_wrote_steers_no_terminal(shelf: Shelf) -> None:
    slow, fast = (shelf.registry.engines.read_signed(one) for one in reversed(shelf.registry.engines.list_cells()))
    shelf.point("staging", slow)
    shelf.point("staging", fast, reason="\x1b[2Jgone\n→ forged", who="eve\u202e", override="\x1b[8mhidden")
    for arguments in (("history", *HERE), ("promote", *HERE, "--to", "staging", "--engine", SLOW)):
        text = run(*arguments)[1]
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\x1b[2Jgone\n→ forged" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "../tiny", "--target", "cpu", "--to", "staging"), "is no model's name"),
        (("promote", "tiny", "--target", "../cpu", "--to", "staging"), "is no target"),
        (("promote", *HERE, "--to", "staging", "--engine", "../../x"), "is no engine id"),
        (
            ("promote", *HERE, "--to", "staging", "--engine", "other-cpu-fp32@0123456789ab"),
            "an engine of other for cpu",
        ),
        (("promote", *HERE, "--to", "nowhere"), "'nowhere' is not one of 'candidate', 'staging'"),
        (("promote", *HERE, "--to", "canary", "--override", " "), "is blank; give it a text"),
        (("promote", *HERE, "--to", "staging", "--reason", ""), "is blank; give it a text"),
        (("promote", *HERE, "--to", "staging", "--reason", "a\x07b"), r"reason: holds '\x07'"),
        (("promote", *HERE, "--to", "staging", "--override", "x"), "this promotion breaks no rule"),
        (("rollback", "TINY", "--target", "cpu", "--channel", "staging"), "is no model's name"),
        (("history", "tiny\n", "--target", "cpu"), "is no model's name"),
        (("history", "tiny", "--target", "cpu/.."), "is no target"),
    ],
)
def test_what_cannot_be_used_is_told_and_moves_nothing(shelf: Shelf, arguments: tuple[str, ...], words: str) -> None:
    code, text = run(*arguments, *(() if arguments[0] == "history" else ("--yes",)))
    assert code == 2, text
    assert words in " ".join(text.split())
    assert shelf.engine_at("staging") is None


def test_who_moves_is_the_login_name_unless_a_setting_says_otherwise(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINEGATE_ACTOR")
    monkeypatch.setattr("getpass.getuser", lambda: "login-name")
    promote("staging", "--engine", SLOW)
    assert shelf.channel("staging").moves[-1].move.who == "login-name"

    def nobody() -> str:
        raise OSError("no such user")

    monkeypatch.setattr("getpass.getuser", nobody)
    code, text = promote("staging", "--engine", FAST)
    assert code == 2
    assert "ENGINEGATE_ACTOR: is not set, and this login has no name" in text
    assert shelf.engine_at("staging") == SLOW


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key, and its public one, as files."""
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.mark.usefixtures("shelf")
def test_how_far_a_signature_can_be_trusted_is_shown(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys
    monkeypatch.setenv("ENGINEGATE_SIGNING_KEY", str(private))
    promote("staging", "--engine", BAD, "--override", "the demo")
    code, text = run("history", *HERE, "--channel", "staging")
    assert "by ann (name as given), signed, not verified" in text
    text = promote("staging", "--engine", SLOW)[1]
    assert row(text, "signature") == ["? signed, not verified", "? unsigned"]
    monkeypatch.setenv("ENGINEGATE_TRUST", str(public))
    code, text = run("history", *HERE, "--channel", "staging")
    assert code == 0
    assert re.search(r"by ann \(name as given\), signed by key.pub \([0-9a-f]{12}\)", text)
    code, text = promote("staging", "--engine", BAD, "--override", "again")
    assert row(text, "signature")[1].startswith("✓ signed by ")
    assert code == 0
    code, text = promote("staging", "--engine", SLOW)
    assert code == 5
    assert f"{SLOW}: its manifest is signed by nobody" in text


def test_a_promoter_without_a_trusted_key_spoils_no_channel(
    shelf: Shelf, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys
    monkeypatch.setenv("ENGINEGATE_SIGNING_KEY", str(private))
    promote("staging", "--engine", BAD, "--override", "the demo")
    monkeypatch.setenv("ENGINEGATE_TRUST", str(public))
    monkeypatch.delenv("ENGINEGATE_SIGNING_KEY")
    code, text = promote("canary", "--override", "the demo")
    assert code == 5
    assert "ENGINEGATE_SIGNING_KEY names the key that signs here; nothing was written" in text
    assert run("history", *HERE)[0] == 0
    assert shelf.engine_at("canary") is None


def test_an_override_into_production_takes_two_people_where_two_keys_are_trusted(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--override --yes` of one person took an engine that failed to production."""
    for name in ("lead", "second"):
        write_key(tmp_path / "keys", name)
    monkeypatch.setenv("ENGINEGATE_TRUST", str(tmp_path / "keys"))
    monkeypatch.setenv("ENGINEGATE_SIGNING_KEY", str(tmp_path / "keys" / "lead.key"))
    wanted = ("--engine", BAD, "--override", "the exam is tomorrow")
    before = sorted(entry.key for entry in shelf.objects.list(""))
    code, text = promote("production", *wanted)
    assert code == 5
    assert "is an override into production, signed by lead (" in text
    assert "add --second-key FILE" in text
    assert "nothing was written" in text
    assert sorted(entry.key for entry in shelf.objects.list("")) == before
    for key in ("lead.key", "second.key"):
        code, text = promote("production", *wanted, "--second-key", str(tmp_path / "keys" / key))
        assert code == (0 if key == "second.key" else 5), text
    (move,) = run_json("history", *HERE, "--channel", "production")[1]["channels"]["production"]["moves"]
    assert [name.partition(" ")[0] for name in sorted(move["signature"]["names"])] == ["lead", "second"]
    assert promote("canary", *wanted)[0] == 0, "one key is enough for other channels"
