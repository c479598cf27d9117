"""`enginegate resign` as people use it, on the morning after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from flows.commands.cli import main
from tasks.process.context import StageContext
from tasks.records import Cell
from tasks.registry.keys import read_signer
from tasks.registry.signing import Signing
from tasks.store.local import LocalStore
from tests.tasks.registry.keys import write_key
from tests.tasks.shelf import FAST, SLOW, Shelf

if TYPE_CHECKING:
    from pathlib import Path

HERE = ("tiny", "--target", "cpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry that a leaked key signed, and a trust folder that has another."""
    for name in ("leaked", "lead"):
        write_key(tmp_path / "keys", name)
    shelf = Shelf(
        tmp_path / "registry",
        StageContext(LocalStore(tmp_path / "store")),
        Signing(read_signer(tmp_path / "keys" / "leaked.key")),
    )
    for precision in ("fp32", "fp16"):
        shelf.point("staging", shelf.register(precision))
    (tmp_path / "trusted").mkdir()
    (tmp_path / "keys" / "lead.pem").rename(tmp_path / "trusted" / "lead.pem")
    for name, value in {
        "HOME": tmp_path / "home",
        "REGISTRY": tmp_path / "registry",
        "TRUST": tmp_path / "trusted",
        "SIGNING_KEY": tmp_path / "keys" / "lead.key",
        "ACTOR": "bob",
    }.items():
        monkeypatch.setenv(f"ENGINEGATE_{name}", str(value))
    return tmp_path


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


def test_after_a_leak_everything_is_refused_and_then_served_on_under_another_key(home: Path) -> None:
    leaked = str(home / "keys" / "leaked.pem")
    for command in (("history", *HERE), ("promote", *HERE, "--to", "canary", "--yes"), ("verify", FAST)):
        assert run(*command)[0] == 5
    code, document, text = run("resign", leaked, "--reason", "the laptop was stolen", "--yes")
    assert code == 0, text
    assert document["engines"] == [FAST, SLOW]
    assert document["resigned"] == [FAST, SLOW, "staging of tiny for cpu"]
    assert f"  staging of tiny for cpu → {FAST}, 2 moves" in text
    code, document, _ = run("history", *HERE)
    newest = document["channels"]["staging"]["moves"][0]
    assert (code, newest["kind"], newest["engine_id"], newest["who"]) == (0, "resign", FAST, "bob")
    assert newest["signature"]["standing"].startswith("signed by lead (")
    assert run("promote", *HERE, "--to", "canary", "--yes")[0] == 0
    assert run("rollback", *HERE, "--channel", "staging", "--yes")[1]["move"]["engine_id"] == SLOW
    assert run("verify", FAST, SLOW)[0] == 0
    assert run("resign", leaked, "--reason", "again", "--yes")[1]["resigned"] == []


def test_nothing_is_signed_before_somebody_says_yes(home: Path) -> None:
    code, document, _ = run("resign", str(home / "keys" / "leaked.pem"), "--reason", "a leak")
    assert code == 2
    assert "add --yes to go on without a question" in document["error"]
    assert CliRunner().invoke(main, ["resign", str(home / "keys" / "leaked.pem"), "--reason", " "]).exit_code == 2
    assert run("history", *HERE)[0] == 5


def test_a_key_without_the_role_signs_its_part_and_says_what_is_left(home: Path) -> None:
    (home / "trusted" / "roles.yaml").write_text("lead.pem: {roles: [promote]}\n")
    leaked = home / "keys" / "leaked.pem"
    code, document, _ = run("resign", str(leaked), "--reason", "a leak", "--yes")
    assert code == 2
    assert "nothing says what it was trusted for; name a folder with the key and its row" in document["error"]
    (home / "withdrawn").mkdir()
    leaked.rename(home / "withdrawn" / "leaked.pem")
    (home / "withdrawn" / "roles.yaml").write_text("leaked.pem: {roles: [build, promote]}\n")
    code, document, text = run("resign", str(home / "withdrawn"), "--reason", "a leak", "--yes")
    assert code == 5
    assert document["resigned"] == ["staging of tiny for cpu"]
    assert len(document["refused"]) == 2
    assert "whose role does not allow it" in text


def test_a_channel_that_the_thief_moved_is_promoted_away_without_signing_his_move(home: Path) -> None:
    leaked = str(home / "keys" / "leaked.pem")
    assert run("promote", *HERE, "--to", "staging", "--engine", SLOW, "--yes")[0] == 5
    run("resign", leaked, "--reason", "the engines are ours", "--yes")
    thief = Shelf(
        home / "registry", StageContext(LocalStore(home / "store")), Signing(read_signer(home / "keys" / "leaked.key"))
    )
    thief.point("staging", thief.registry.engines.read_signed(Cell.parse(FAST)))
    assert run("promote", *HERE, "--to", "staging", "--engine", SLOW, "--yes")[0] == 5
    code, _, text = run("promote", *HERE, "--to", "staging", "--engine", SLOW, "--withdrawn", leaked, "--yes")
    assert code == 0, text
    moves = run("history", *HERE, "--channel", "staging")[1]["channels"]["staging"]["moves"]
    assert [move["kind"] for move in moves] == ["promote", "promote", "resign", "promote", "promote"]
    assert moves[0]["engine_id"] == SLOW
    assert moves[0]["signature"]["standing"].startswith("signed by lead (")
    assert moves[1]["signature"]["standing"] == "signed by a key that is not trusted"


def test_a_name_that_is_set_later_is_brought_in_by_signing_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("resign", str(home / "keys" / "leaked.pem"), "--reason", "a leak", "--yes")
    monkeypatch.setenv("ENGINEGATE_REGISTRY_NAME", "school")
    code, document, _ = run("history", *HERE, "--channel", "staging")
    assert code == 5
    assert "names no registry, and ENGINEGATE_REGISTRY_NAME is set; `enginegate resign` it" in document["damaged"][0]
    assert run("resign", "--reason", "the registry has a name now", "--yes")[0] == 0
    (newest, *_) = run("history", *HERE, "--channel", "staging")[1]["channels"]["staging"]["moves"]
    assert newest["registry"] == "school"
