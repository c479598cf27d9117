"""`enginegate engines`, `engines gc` and `verify` as people and programs see them."""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flows.commands.cli import main
from flows.console import Reporter
from tasks.objects.location import open_objects
from tasks.records import Override
from tasks.registry.channels import next_move
from tasks.registry.evidence import artifacts_of
from tasks.registry.layout import blob_key, manifest_key
from tasks.registry.moves import ChannelAddress, ChannelName
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.store.local import LocalStore
from tests.tasks.conftest import moto, place_at
from tests.tasks.tiny import cell, lay_out, make_outcome, manifest_of
from validation.policy import Policy, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import EngineManifest
    from tasks.registry.channels import Channel
    from tasks.registry.moves import Move

__all__ = ["moto"]  # a fixture

PASSED, FAILED, OTHER = "a" * 12, "b" * 12, "c" * 12
REASON = "the demo\non Friday \x1b[2Jneeds it"
LONG_AGO = datetime.now(timezone.utc) - timedelta(days=100)


@dataclass(frozen=True)
class Site:
    """A registry with three engines: one that passed, one that failed and is there by override, and one to be let go.

    The first is in staging and was in candidate, where the second is now.
    """

    address: str
    environment: dict[str, str]
    manifests: dict[str, EngineManifest]

    @property
    def registry(self) -> Registry:
        return Registry(open_objects(self.address), Signing())

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        result = CliRunner().invoke(main, [*arguments, "--json"], env=self.environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout), result.stderr

    def say(self, *arguments: str) -> tuple[int, str]:
        """Exit code and people's text."""
        result = CliRunner().invoke(main, arguments, env=self.environment)
        return result.exit_code, result.output

    def id_of(self, version: str) -> str:
        return self.manifests[version].engine_id

    def file(self, key: str) -> Path:
        path: Path = self.registry.objects.root / key  # type: ignore[attr-defined]
        path.chmod(0o644)
        return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, EngineManifest], dict[str, dict[str, Path]]]:
    """Manifests of three engines, and their files."""
    folder = tmp_path_factory.mktemp("parts")
    store = LocalStore(folder / "store")
    manifests = {}
    for version, noise in {PASSED: 0.0001, FAILED: 0.3, OTHER: 0.0001}.items():
        outcome = make_outcome(store, noise=noise, plan=version.encode(), engine=cell(version=version))
        override = Override(reason=REASON, who="ben", when="2020-01-01") if version == FAILED else None
        manifests[version] = manifest_of(store, outcome, override=override, created_at="2020-01-01T00:00:00+00:00")
    return manifests, {version: lay_out(store, one, folder / version) for version, one in manifests.items()}


@pytest.fixture(params=["local"])
def site(request: pytest.FixtureRequest, tmp_path: Path, parts: Any) -> Site:
    manifests, folders = parts
    place = place_at(request.param, request, tmp_path)
    address = place.open().address
    # 300 columns: what people see is looked at a line at a time
    environment = {"ENGINEGATE_HOME": str(tmp_path / "home"), "ENGINEGATE_REGISTRY": address, "COLUMNS": "300"}
    site = Site(address, environment, manifests)
    for version, manifest in manifests.items():
        site.registry.engines.publish(manifest, folders[version])
    for version, name in ((PASSED, "candidate"), (FAILED, "candidate"), (PASSED, "staging")):
        promote(site.registry, manifests[version], ChannelName(name))
    if place.kind == "local":
        for entry in site.registry.objects.list(""):
            os.utime(site.file(entry.key), (LONG_AGO.timestamp(),) * 2)
    return site


def promote(registry: Registry, manifest: EngineManifest, name: ChannelName) -> None:
    digest = registry.engines.read_signed(manifest.cell).digest
    decide = functools.partial(_promotion, manifest=manifest, digest=digest)
    registry.channels.move(ChannelAddress("tiny", "cpu", name), decide)


def _promotion(channel: Channel, manifest: EngineManifest, digest: str) -> Move:
    return next_move(
        channel,
        kind="promote",
        engine_id=manifest.engine_id,
        manifest=digest,
        reason="",
        override=None,
        who="ann",
    )


def keys_of(manifest: EngineManifest) -> set[str]:
    return {blob_key(file.digest) for artifact in artifacts_of(manifest).values() for file in artifact.files}


def line_of(text: str, word: str) -> str:
    (line,) = [line for line in text.splitlines() if word in line]
    return line


def test_the_list_says_how_each_engine_did_who_signed_it_and_where_it_is_now(site: Site) -> None:
    code, text = site.say("engines")
    assert code == 0
    passed, other = (line_of(text, f"{site.id_of(version)} ") for version in (PASSED, OTHER))
    assert re.split(r" {2,}", passed.strip())[-2:] == ["? unsigned", "cpu: staging"]
    assert re.split(r" {2,}", other.strip())[-1] == "-"
    assert " pass " in passed
    code, document, told = site.run("engines")
    assert code == 0
    assert site.id_of(PASSED) in told, "people's text is on standard error"
    found = {engine["engine_id"]: engine for engine in document["engines"]}
    assert [found[site.id_of(one)]["channels"] for one in (PASSED, FAILED, OTHER)] == [
        {"cpu": ["staging"]},
        {"cpu": ["candidate"]},
        {},
    ]
    assert {engine["signed"] for engine in found.values()} == {"unsigned"}
    signed = site.registry.engines.read_signed(site.manifests[PASSED].cell)
    assert found[site.id_of(PASSED)]["manifest_digest"] == signed.digest
    extra = {"signed", "channels", "manifest_digest", "basis"}
    assert {key: value for key, value in found[site.id_of(PASSED)].items() if key not in extra} == (
        site.manifests[PASSED].model_dump(mode="json")
    )


def test_an_engine_that_is_there_by_override_is_red_in_one_line_whatever_its_reason_holds(site: Site) -> None:
    code, text = site.say("engines")
    assert code == 0
    lines = [line for line in text.splitlines() if line.startswith(f"✕ {site.id_of(FAILED)}")]
    assert len(lines) == 1
    assert "verdict is fail, registered by override of ben: the demo" in lines[0]
    assert lines[0].endswith("needs it")
    assert "\x1b" not in text
    assert "✕ fail, by override" in text


def test_the_marks_are_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    Reporter().marked("✕ an engine: verdict is fail, registered by override of ben")
    assert capsys.readouterr().out.startswith("\x1b[31m✕ an engine")


def test_the_list_of_one_model_leaves_the_others_out(site: Site) -> None:
    assert len(site.run("engines", "--model", "tiny")[1]["engines"]) == 3
    code, text = site.say("engines", "--model", "other")
    assert (code, text) == (0, "no engines of other are registered; `enginegate convert DIRECTORY` makes some\n")


@pytest.mark.parametrize("name", ["../etc", "Tiny", "tiny/", " ", "a" * 65, "--json"])
def test_what_can_be_no_model_is_bad_usage(site: Site, name: str) -> None:
    code, text = site.say("engines", "--model", name)
    assert code == 2
    assert "--model" in text


def test_a_damaged_manifest_or_channel_is_told_and_the_rest_is_listed(site: Site) -> None:
    site.file(manifest_key(site.manifests[OTHER].cell)).write_bytes(b"{")
    site.file("channels/tiny/cpu/staging.json").write_bytes(b"{")
    code, document, text = site.run("engines")
    assert code == 5
    assert {engine["engine_id"] for engine in document["engines"]} == {site.id_of(PASSED), site.id_of(FAILED)}
    assert len(document["damaged"]) == 2
    assert f"error: {site.id_of(OTHER)}: its manifest is damaged" in text
    assert "error: channel staging of tiny for cpu is damaged" in text


def test_gc_is_dry_and_says_what_would_go_and_why_the_rest_stays(site: Site) -> None:
    before = [(entry, site.file(entry.key).read_bytes()) for entry in site.registry.objects.list("")]
    code, text = site.say("engines", "gc")
    assert code == 0
    loose = keys_of(site.manifests[OTHER]) - keys_of(site.manifests[PASSED])
    assert f"- {site.id_of(OTHER)}, registered 20" in text
    assert (
        "kept 2 engines (channels 2, history 0, younger than 30 days 0), would delete 1 engine,"
        f" {len(loose)} files, 0.0 MB\nnothing was changed; run again with --delete\n"
    ) in text
    code, document, _ = site.run("engines", "gc")
    assert code == 0
    assert document["deleted"] is None
    assert document["older_than_days"] == 30
    assert document["engines"] == [site.id_of(OTHER)]
    assert set(document["files"]) == loose
    assert document["size_bytes"] == sum(document["files"].values()) > 0
    assert document["kept"] == [
        {"name": site.id_of(PASSED), "hold": "channel", "why": "staging of tiny for cpu"},
        {"name": site.id_of(FAILED), "hold": "channel", "why": "candidate of tiny for cpu"},
    ]
    assert {one["hold"] for one in document["kept_files"]} == {"engine"}
    assert [(entry, site.file(entry.key).read_bytes()) for entry in site.registry.objects.list("")] == before


def test_gc_with_delete_removes_that_and_a_second_one_finds_nothing(site: Site) -> None:
    code, document, text = site.run("engines", "gc", "--delete", "--idle")
    assert code == 0
    assert "will delete 1 engine" in text
    assert re.search(rf"✓ remove +1 engine, {len(document['files'])} files, 0.0 MB ", text)
    assert document["deleted"]["engines"] == [site.id_of(OTHER)]
    assert set(document["deleted"]["files"]) == set(document["files"])
    assert document["deleted"]["size_bytes"] == document["size_bytes"]
    assert document["deleted"]["spared"] == []
    assert site.run("verify", site.id_of(PASSED), site.id_of(FAILED))[0] == 0
    assert site.run("verify", site.id_of(OTHER))[0] == 2
    code, text = site.say("engines", "gc", "--delete", "--idle")
    assert code == 0
    assert text.endswith("(channels 2, history 0, younger than 30 days 0), nothing to delete\n")


def test_gc_removes_nothing_where_all_is_older_than_the_clock_says_unless_it_is_told_that_this_is_so(
    site: Site,
) -> None:
    code, text = site.say("engines", "gc", "--delete")
    assert code == 5
    assert "nothing was written there for 100 days, so all of it would count as old" in text
    assert "add --idle" in text
    assert len(site.registry.engines.list_cells()) == 3


def test_gc_holds_what_is_younger_than_it_is_told(site: Site) -> None:
    assert site.run("engines", "gc", "--older-than", "99")[1]["engines"] == [site.id_of(OTHER)]
    code, document, text = site.run("engines", "gc", "--older-than", "101", "--delete")
    assert code == 0
    assert (document["engines"], document["files"], document["deleted"]) == ([], {}, None)
    assert "younger than 101 days 1), nothing to delete" in text


@pytest.mark.parametrize("site", ["moto"], indirect=True)
def test_gc_and_the_list_work_in_s3_where_all_is_young(site: Site) -> None:
    code, document, _ = site.run("engines", "gc", "--older-than", "1", "--delete")
    assert code == 0
    assert [one["hold"] for one in document["kept"]] == ["channel", "channel", "age"]
    code, document, _ = site.run("engines")
    assert {engine["engine_id"] for engine in document["engines"]} == {one.engine_id for one in site.manifests.values()}
    assert site.run("verify", site.id_of(PASSED))[0] == 0


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "nan", "", "99999999"])
def test_an_age_that_would_hold_nothing_or_is_none_is_bad_usage(site: Site, days: str) -> None:
    assert site.say("engines", "gc", "--older-than", days)[0] == 2


def test_gc_refuses_a_damaged_registry_and_names_the_cause(site: Site) -> None:
    site.file("channels/tiny/cpu/staging.json").write_bytes(b"{")
    code, document, text = site.run("engines", "gc", "--delete")
    assert code == 5
    assert "nothing is removed" in document["error"]
    assert "channel staging of tiny for cpu is damaged" in text
    assert len(site.registry.engines.list_cells()) == 3


def test_gc_names_an_engine_that_lacks_files(site: Site) -> None:
    site.file(blob_key(site.manifests[PASSED].plan.files[0].digest)).unlink()
    code, document, text = site.run("engines", "gc")
    assert code == 5
    assert document["incomplete"] == [
        f"{site.id_of(PASSED)} lacks plan: engine.onnx; convert it again, which mends it",
    ]
    assert f"✕ {document['incomplete'][0]}" in text


@pytest.mark.parametrize("arguments", [["--json", "gc"], ["--model", "tiny", "gc"], ["ls"]])
def test_options_of_the_list_before_gc_are_bad_usage(site: Site, arguments: list[str]) -> None:
    assert site.say("engines", *arguments)[0] == 2


def test_verify_says_who_signed_and_how_it_was_judged_and_an_override_is_red_and_no_fault(site: Site) -> None:
    code, text = site.say("verify", site.id_of(PASSED), site.id_of(FAILED))
    assert code == 0
    lines = text.splitlines()
    files = len(keys_of(site.manifests[PASSED]))
    assert re.fullmatch(
        rf"✓ {site.id_of(PASSED)} +all digests of {files} files and the verdict hold +[0-9.]+ s", lines[0]
    )
    policy = site.manifests[PASSED].policy_digest[:19]
    basis = [f"    - policy {policy}, the default", "    - confidence 0.95, on 400 samples (300 needed)"]
    assert lines[1:5] == ["    ? unsigned", "    ✓ verdict is pass", *basis]
    assert lines[5].startswith(f"✓ {site.id_of(FAILED)}")
    assert lines[6] == "    ? unsigned"
    assert lines[7].startswith("    ✕ verdict is fail, registered by override of ben: the demo")
    assert lines[8:] == basis
    code, document, _ = site.run("verify", site.id_of(PASSED), site.id_of(FAILED))
    assert (code, document["engines"]) == (0, {site.id_of(PASSED): [], site.id_of(FAILED): []})
    details = document["details"][site.id_of(FAILED)]
    assert details.pop("basis")["beside"] == "in staging"
    assert details == {
        "faults": [],
        "files": len(keys_of(site.manifests[FAILED])),
        "signed": "unsigned",
        "verdict": "fail",
        "override": {"reason": REASON, "who": "ben", "when": "2020-01-01"},
    }


def test_verify_names_every_fault_and_ends_with_5(site: Site) -> None:
    path = site.file(blob_key(site.manifests[PASSED].plan.files[0].digest))
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    site.file(blob_key(site.manifests[OTHER].plan.files[1].digest)).unlink()
    code, document, text = site.run("verify", site.id_of(PASSED), site.id_of(OTHER), site.id_of(FAILED))
    assert code == 5
    assert [len(document["engines"][site.id_of(one)]) for one in (PASSED, OTHER, FAILED)] == [1, 1, 0]
    assert line_of(text, f"{site.id_of(PASSED)} ").startswith("✕")
    assert "    ✕ plan: engine.onnx: " in text
    assert "    ✕ plan: engine.onnx.data: " in text


def test_verify_trusts_nothing_in_a_manifest_that_was_changed(site: Site) -> None:
    site.file(manifest_key(site.manifests[PASSED].cell)).write_bytes(b"{}")
    code, document, text = site.run("verify", site.id_of(PASSED))
    assert code == 5
    assert "its manifest is damaged" in text
    details = document["details"][site.id_of(PASSED)]
    assert (details["signed"], details["verdict"], details["override"], details["files"]) == (None, None, None, 0)


def test_what_is_no_engine_or_not_registered_is_bad_input(site: Site) -> None:
    assert site.run("verify", "../x")[0] == 2
    code, document, _ = site.run("verify", "tiny-cpu-fp32@" + "f" * 12)
    assert code == 2
    assert "is not registered" in document["error"]
    assert site.say("verify", "tiny-cpu-fp32@" + "f" * 12)[1].count("is not registered") == 1


def write_keys(folder: Path) -> tuple[Path, Path]:
    """A private key and its public one."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_with_a_trust_root_the_signer_is_shown_and_what_is_unsigned_is_refused(
    site: Site, tmp_path: Path, parts: Any
) -> None:
    private, public = write_keys(tmp_path)
    manifests, folders = parts
    signed = Registry(open_objects(str(tmp_path / "signed")), Signing.from_files(private, None))
    signed.engines.publish(manifests[PASSED], folders[PASSED])
    trusting = {"ENGINEGATE_TRUST": str(public)}
    there = Site(signed.objects.address, site.environment | {"ENGINEGATE_REGISTRY": signed.objects.address}, manifests)
    assert "? signed, not verified" in there.say("verify", site.id_of(PASSED))[1]
    trusted = Site(there.address, there.environment | trusting, manifests)
    assert re.search(r"    ✓ signed by public \([0-9a-f]{12}\)\n", trusted.say("verify", site.id_of(PASSED))[1])
    assert re.search(r"✓ signed by public \([0-9a-f]{12}\) ", trusted.say("engines")[1])
    distrusted = Site(site.address, site.environment | trusting, manifests)
    code, document, _ = distrusted.run("verify", site.id_of(PASSED))
    assert code == 5
    assert "is signed by nobody" in document["engines"][site.id_of(PASSED)][0]
    code, document, _ = distrusted.run("engines", "gc", "--delete")
    assert code == 5
    assert len(site.registry.engines.list_cells()) == 3


@pytest.fixture
def loosened(site: Site, tmp_path: Path) -> EngineManifest:
    """A fourth engine, which passed by a policy of its model's own that asks for next to nothing."""
    policy = Policy(rules=(Rule(output="score", metric="mae", max=1e9),), min_samples=1)
    store = LocalStore(tmp_path / "store")
    outcome = make_outcome(store, noise=0.3, plan=b"loose", engine=cell(version="d" * 12), policy=policy)
    manifest = manifest_of(store, outcome, policy_origin="own")
    site.registry.engines.publish(manifest, lay_out(store, manifest, tmp_path / "loose"))
    return manifest


def test_an_engine_that_passed_by_a_loosened_policy_stands_out_in_the_list_and_when_it_is_verified(
    site: Site, loosened: EngineManifest
) -> None:
    code, text = site.say("engines")
    assert code == 0
    row = re.split(r" {2,}", line_of(text, f"{loosened.engine_id}  ").strip())
    shown = f"{loosened.policy_digest[:19]}, the model's own"
    assert row[1:4] == ["pass", shown, "0.95, on 400 samples (1 needed)"]
    words = "? looser than in staging: score mae max 1e+09, 0.0125 there"
    lines = text.splitlines()
    start = lines.index(f"? {loosened.engine_id}")
    assert f"    {words}" in lines[start:]
    assert max(map(len, lines[start:])) <= 80
    text = site.say("verify", loosened.engine_id)[1]
    assert f"    - policy {shown}\n" in text
    assert f"    {words}\n" in text
    documents = {one["engine_id"]: one for one in site.run("engines")[1]["engines"]}
    found = documents[loosened.engine_id]["basis"]
    assert (found["origin"], found["beside"], found["unjudged"]) == ("own", "in staging", [])
    assert found["looser"][:2] == ["min_samples 1, 300 there", "score mae max 1e+09, 0.0125 there"]
    assert site.run("verify", loosened.engine_id)[1]["details"][loosened.engine_id]["basis"] == found
    assert documents[site.id_of(PASSED)]["basis"]["looser"] == []
