"""model.sig beside a pulled engine, as OpenSSF's model-signing reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import RefusedError
from tasks.registry.keys import read_trust
from tasks.registry.registry import Registry
from tasks.registry.signing import Signing
from tasks.release.resign import resign_engine
from tests.tasks.registry.keys import signing_as, write_key
from tests.tasks.serving_host import FIRST, Shop
from tests.tasks.tiny import cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIGNATURE = "modelSignature"


def signed_shop(folder: Path, kind: str = "ecdsa") -> Shop:
    write_key(folder, "ann", kind)
    return Shop(folder, signing=signing_as(folder))


def verify(engine: Path, key: Path) -> subprocess.CompletedProcess[str]:
    """What `model_signing verify key` says of a folder."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(engine)]
    command += ["--signature", str(engine / "model.sig"), "--public_key", str(key)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_model_signing_verifies_a_pulled_engine_and_finds_a_changed_file(tmp_path: Path) -> None:
    shop = signed_shop(tmp_path)
    shop.offer()
    engine = shop.pull().path
    found = verify(engine, tmp_path / "ann.pem")
    assert found.returncode == 0, found.stdout + found.stderr
    plan = next((engine / "plan").iterdir())
    plan.write_bytes(plan.read_bytes() + b"!")
    found = verify(engine, tmp_path / "ann.pem")
    assert found.returncode == 1
    assert "Hash mismatch" in found.stdout + found.stderr


def test_model_signing_refuses_another_key_and_a_file_too_many(tmp_path: Path) -> None:
    shop = signed_shop(tmp_path)
    shop.offer()
    engine = shop.pull().path
    write_key(tmp_path, "eve", "ecdsa")
    found = verify(engine, tmp_path / "eve.pem")
    assert found.returncode == 1
    assert "Key mismatch" in found.stdout + found.stderr
    (engine / "plan" / "more").write_bytes(b"")
    found = verify(engine, tmp_path / "ann.pem")
    assert found.returncode == 1
    assert "plan/more" in found.stdout + found.stderr


@pytest.mark.parametrize("kind", ["ecdsa", "ed25519", "rsa"])
def test_every_kind_of_key_signs_the_files_that_a_host_gets(tmp_path: Path, kind: str) -> None:
    shop = signed_shop(tmp_path, kind)
    shop.offer()
    engine = shop.pull().path
    bundle = json.loads((engine / "model.sig").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert shop.registry.engines.verify(cell(version=FIRST)) == []


def test_nothing_is_signed_where_no_key_is(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.offer()
    assert sorted(path.name for path in shop.pull().path.iterdir()) == ["manifest.json", "plan", "smoke"]


def of_another_engine(shop: Shop, bundle: dict[str, Any]) -> object:
    shop.publish("2" * 12)
    return json.loads(shop.manifest_file("2" * 12).read_bytes())[SIGNATURE] if bundle else None


def by_a_stranger(shop: Shop, _bundle: dict[str, Any]) -> object:
    write_key(shop.root, "eve", "ecdsa")
    stranger = Shop(shop.root / "elsewhere", signing=Signing.from_files(shop.root / "eve.key", None))
    stranger.publish()
    return json.loads(stranger.manifest_file(FIRST).read_bytes())[SIGNATURE]


def of_no_shape(_shop: Shop, _bundle: dict[str, Any]) -> object:
    return ["x"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_another_engine, "about other files than its manifest"),
        (by_a_stranger, "signed by keys that are not trusted"),
        (of_no_shape, "is damaged"),
    ],
)
def test_a_signature_that_lies_is_refused_before_anything_is_served(
    tmp_path: Path, change: Callable[[Shop, dict[str, Any]], object], said: str
) -> None:
    shop = signed_shop(tmp_path)
    shop.offer()
    file = shop.manifest_file(FIRST)
    sealed = json.loads(file.read_bytes())
    sealed[SIGNATURE] = change(shop, sealed[SIGNATURE])
    file.write_bytes(json.dumps(sealed).encode())
    with pytest.raises(RefusedError, match=f"its model.sig .*{said}"):
        shop.pull()
    assert not (shop.folder.root / "current").exists()
    assert any("model.sig" in fault for fault in shop.registry.engines.verify(cell(version=FIRST)))


def test_an_engine_of_an_older_release_is_pulled_without(tmp_path: Path) -> None:
    shop = signed_shop(tmp_path)
    shop.offer()
    file = shop.manifest_file(FIRST)
    file.write_bytes(
        json.dumps({key: value for key, value in json.loads(file.read_bytes()).items() if key != SIGNATURE}).encode()
    )
    assert not (shop.pull().path / "model.sig").exists()


def test_an_engine_that_is_signed_anew_has_a_model_sig_of_the_new_key(tmp_path: Path) -> None:
    shop = signed_shop(tmp_path)
    shop.publish()
    write_key(tmp_path, "bob", "ecdsa")
    later = Registry(shop.objects, Signing.from_files(tmp_path / "bob.key", tmp_path / "bob.pem"))
    resign_engine(later, read_trust(tmp_path / "ann.pem"), cell(version=FIRST))
    shop.signing = shop.trusting = later.signing
    del shop.registry
    shop.promote(cell(version=FIRST))
    assert verify(shop.pull().path, tmp_path / "bob.pem").returncode == 0
