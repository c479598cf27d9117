from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tasks.errors import InputError, RefusedError
from tasks.registry.keys import read_signer, read_trust
from tasks.registry.signing import Signing
from tests.tasks.registry.keys import KINDS, signing_as, write_certificate, write_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOCUMENT = {"engine": "é", "number": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_trusted_key_signed_is_taken(tmp_path: Path, kind: str) -> None:
    write_key(tmp_path, kind=kind)
    signing = signing_as(tmp_path)
    opened = signing.open("manifest", signing.seal("manifest", DOCUMENT), "it")
    assert opened.document == DOCUMENT
    assert opened.signature.verified == opened.signature.claimed
    assert opened.signature.words == f"signed by ann ({opened.signature.claimed[0][:12]})"


def test_the_envelope_is_dsse_that_anybody_can_verify(tmp_path: Path) -> None:
    sealed = json.loads(signing_as(tmp_path).seal("move", DOCUMENT))
    kind, payload = sealed["payloadType"].encode(), base64.b64decode(sealed["payload"])
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)  # secure-systems-lab/dsse, protocol.md
    public = load_pem_public_key((tmp_path / "ann.pem").read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(base64.b64decode(sealed["signatures"][0]["sig"]), signed)
    assert sealed["payloadType"] == "application/vnd.enginegate.move+json"
    assert sealed["digest"] == f"sha256:{hashlib.sha256(payload).hexdigest()}"
    assert json.loads(payload) == DOCUMENT


def test_a_certificate_is_trusted_for_its_key(tmp_path: Path) -> None:
    write_certificate(tmp_path / "certificate.pem", write_key(tmp_path, kind="ecdsa"))
    signing = Signing.from_files(tmp_path / "ann.key", tmp_path / "certificate.pem")
    assert signing.open("move", signing.seal("move", DOCUMENT), "it").signature.names[0].startswith("ann (")


def test_of_a_folder_every_key_is_trusted(tmp_path: Path) -> None:
    for name in ("ann", "bob", "eve"):
        write_key(tmp_path / "keys", name)
    (tmp_path / "keys" / "eve.pem").unlink()
    signed = {name: Signing.from_files(tmp_path / "keys" / f"{name}.key", None).seal("move", DOCUMENT) for name in
              ("ann", "bob", "eve")}  # fmt: skip
    trusting = Signing.from_files(None, tmp_path / "keys")
    verified = [trusting.open("move", signed[name], "it").signature.verified for name in ("ann", "bob")]
    assert len({key for keys in verified if keys for key in keys}) == 2
    with pytest.raises(RefusedError, match=r"it is signed by keys that are not trusted; .*ENGINEGATE_TRUST"):
        trusting.open("move", signed["eve"], "it")


def test_what_nobody_signed_is_refused_where_signatures_count_and_named_elsewhere(tmp_path: Path) -> None:
    trusting, careless = signing_as(tmp_path), Signing()
    unsigned = careless.seal("manifest", DOCUMENT)
    with pytest.raises(RefusedError, match="it is signed by nobody"):
        trusting.open("manifest", unsigned, "it")
    assert careless.open("manifest", unsigned, "it").signature.words == "unsigned"
    opened = careless.open("manifest", trusting.seal("manifest", DOCUMENT), "it")
    assert (opened.signature.words, opened.signature.verified) == ("signed, not verified", None)
    assert (trusting.verifies, careless.verifies) == (True, False)


def payload(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def digest(document: object) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(document).encode()).hexdigest()}"


OTHER = {"engine": "another"}
CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "payload": lambda envelope: envelope.update(payload=payload(OTHER)),
    "payload and digest": lambda envelope: envelope.update(payload=payload(OTHER), digest=digest(OTHER)),
    "digest": lambda envelope: envelope.update(digest="sha256:" + "0" * 64),
    "no digest": lambda envelope: envelope.pop("digest"),
    "type": lambda envelope: envelope.update(payloadType="application/vnd.enginegate.move+json"),
    "signature": lambda envelope: envelope["signatures"][0].update(sig=base64.b64encode(b"x" * 64).decode()),
    "no signature": lambda envelope: envelope.update(signatures=[]),
    "key": lambda envelope: envelope["signatures"][0].update(keyid="0" * 64),
    "key of another kind": lambda envelope: envelope["signatures"].append({"keyid": 1, "sig": "AAAA"}),
    "no list": lambda envelope: envelope.update(payload=payload([1]), digest=digest([1])),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_envelope_that_was_changed_in_any_part_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    signing = signing_as(tmp_path)
    envelope = json.loads(signing.seal("manifest", DOCUMENT))
    change(envelope)
    with pytest.raises(RefusedError, match=r"^it (is damaged|was changed|is signed by)"):
        signing.open("manifest", json.dumps(envelope).encode(), "it")


def test_one_bit_flipped_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    signing = signing_as(tmp_path)
    sealed = signing.seal("manifest", DOCUMENT)
    refused = 0
    for place in range(len(sealed)):
        for bit in (1, 32):
            content = bytearray(sealed)
            content[place] ^= bit
            try:
                assert signing.open("manifest", bytes(content), "it").document == DOCUMENT
            except RefusedError:
                refused += 1
    assert refused > 1.9 * len(sealed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{",
        b"null",
        b"1",
        b"[]",
        b'"x"',
        b"{}",
        b'{"digest": "a"}',
        b'{"digest": 1, "a": 2}',
        b"[" * 99999,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_is_no_envelope_is_damaged(tmp_path: Path, content: bytes) -> None:
    for signing in (Signing(), signing_as(tmp_path)):
        with pytest.raises(RefusedError, match=r"^it is damaged; it cannot be read"):
            signing.open("manifest", content, "it")


def test_keys_that_cannot_be_used_are_named_and_never_quoted(tmp_path: Path) -> None:
    write_key(tmp_path)
    (tmp_path / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    (tmp_path / "two.pem").write_bytes((tmp_path / "ann.pem").read_bytes() * 2)
    (tmp_path / "empty").mkdir()
    missing, bad = tmp_path / "missing", tmp_path / "bad.pem"
    cases = [
        (missing, None, r"ENGINEGATE_SIGNING_KEY: .*missing cannot be read \(No such file"),
        (bad, None, r"ENGINEGATE_SIGNING_KEY: .*bad.pem is no private key .*openssl genpkey"),
        (tmp_path / "ann.pem", None, r"ENGINEGATE_SIGNING_KEY: .*is no private key"),
        (None, missing, r"ENGINEGATE_TRUST: .*missing cannot be read"),
        (None, bad, r"ENGINEGATE_TRUST: .*bad.pem is no public key or certificate"),
        (None, tmp_path / "ann.key", r"ENGINEGATE_TRUST: .*is no public key or certificate"),
        (None, tmp_path / "two.pem", r"ENGINEGATE_TRUST: .*two.pem holds several keys; put each into a .pem file"),
        (None, tmp_path / "empty", r"ENGINEGATE_TRUST: .*holds no .pem file, so nothing would be trusted"),
    ]
    for key, trust, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            Signing.from_files(key, trust)
        assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize("signer", [None, "eve"])
def test_what_nobody_here_could_read_again_is_not_written(tmp_path: Path, signer: str | None) -> None:
    for name in ("ann", "eve"):
        write_key(tmp_path, name)
    signing = Signing.from_files(signer and tmp_path / f"{signer}.key", tmp_path / "ann.pem")
    with pytest.raises(RefusedError, match=r"the move that this host writes is signed by .*SIGNING_KEY .*nothing was"):
        signing.seal("move", DOCUMENT)


MANIFEST = {"cell": {"model": "scorer"}}
MOVE = {"model": "scorer", "channel": "staging", "override": None}
ROLES = """
ci.pem: {roles: [build, promote], channels: [candidate]}
lead.pem: {roles: [promote], models: [scorer]}
ann.pem: {roles: [build]}
bob.pem: {roles: [promote]}
"""


@pytest.fixture
def roles(tmp_path: Path) -> Path:
    """A folder of four keys, each with a role."""
    for name in ("ci", "lead", "ann", "bob"):
        write_key(tmp_path / "keys", name)
    (tmp_path / "keys" / "roles.yaml").write_text(ROLES)
    return tmp_path / "keys"


def by(keys: Path, *names: str) -> Signing:
    """Sign as these, and trust the folder."""
    return Signing(*(read_signer(keys / f"{name}.key") for name in names), trusted=read_trust(keys))


@pytest.mark.parametrize(
    ("name", "kind", "document", "may"),
    [
        ("ci", "manifest", MANIFEST, True),
        ("ann", "manifest", MANIFEST, True),
        ("lead", "manifest", MANIFEST, False),
        ("bob", "manifest", MANIFEST, False),
        ("ci", "move", MOVE | {"channel": "candidate"}, True),
        ("ci", "move", MOVE, False),
        ("ann", "move", MOVE, False),
        ("lead", "move", MOVE, True),
        ("lead", "move", MOVE | {"model": "other"}, False),
        ("bob", "move", MOVE | {"model": "other"}, True),
        ("lead", "move", {}, False),
        ("ann", "receipt", MANIFEST, False),
    ],
)
def test_a_key_signs_what_its_role_allows_and_nothing_else(
    roles: Path, name: str, kind: str, document: dict[str, Any], may: bool
) -> None:
    sealed = Signing(read_signer(roles / f"{name}.key")).seal(kind, document)
    trusting = Signing(trusted=read_trust(roles))
    if may:
        opened = trusting.open(kind, sealed, "it")
        assert opened.signature.words.startswith(f"signed by {name} (")
    else:
        with pytest.raises(RefusedError, match=rf"^it is signed by {name} \(.*\), whose role does not allow it"):
            trusting.open(kind, sealed, "it")
        with pytest.raises(RefusedError, match="nothing was written"):
            by(roles, name).seal(kind, document)


def test_of_two_signatures_the_one_that_may_counts(roles: Path) -> None:
    opened = Signing(trusted=read_trust(roles)).open("move", by(roles, "ann", "bob").seal("move", MOVE), "it")
    assert [name.partition(" ")[0] for name in opened.signature.names] == ["bob"]
    assert [name.partition(" ")[0] for name in opened.signature.unfit] == ["ann"]


OVERRIDE = MOVE | {"channel": "production", "override": "the exam is tomorrow"}


def test_an_override_into_production_takes_two_keys_that_may_where_two_are_trusted(roles: Path) -> None:
    trusting = Signing(trusted=read_trust(roles))
    for alone in ("lead", "bob"):
        with pytest.raises(RefusedError, match=rf"override into production, signed by {alone} .* alone; a second"):
            trusting.open("move", Signing(read_signer(roles / f"{alone}.key")).seal("move", OVERRIDE), "it")
    with pytest.raises(RefusedError, match="alone; a second trusted key has to sign it"):
        by(roles, "bob", "ann").seal("move", OVERRIDE)  # ann may not move channels
    assert trusting.open("move", by(roles, "bob", "lead").seal("move", OVERRIDE), "it").signature.needed == 2
    for document in (OVERRIDE | {"channel": "canary"}, OVERRIDE | {"override": None}):
        assert trusting.open("move", by(roles, "bob").seal("move", document), "it").signature.needed == 1
    (roles / "roles.yaml").write_text("bob.pem: {roles: [promote]}\n")
    for name in ("ci", "lead", "ann"):
        (roles / f"{name}.pem").unlink()
    assert by(roles, "bob").open("move", by(roles, "bob").seal("move", OVERRIDE), "it").signature.needed == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (ROLES.replace("ann.pem", "eve.pem"), "roles.yaml: ann.pem: has no row; say what the key may sign"),
        (ROLES + "eve.pem: {roles: [build]}\n", "roles.yaml: eve.pem: is no .pem file there"),
        (ROLES.replace("[build]", "[builder]"), "roles.yaml: ann.pem: roles.0: .*did you mean 'build'?"),
        (ROLES.replace("[build]", "[]"), "roles.yaml: ann.pem: roles: .*at least 1"),
        (ROLES.replace("{roles: [build]}", ""), "roles.yaml: ann.pem: roles: missing"),
        (ROLES.replace("channels: [candidate]", "channel: candidate"), "channel: unknown key; did you mean 'channels'"),
        ("- ci.pem", "must hold keys and values"),
    ],
)
def test_a_mistake_in_the_roles_trusts_nobody_and_is_named(roles: Path, rows: str, words: str) -> None:
    (roles / "roles.yaml").write_text(rows)
    with pytest.raises(InputError, match=words):
        read_trust(roles)


def test_one_key_in_two_files_is_one_person(tmp_path: Path) -> None:
    write_certificate(tmp_path / "keys" / "ann-certificate.pem", write_key(tmp_path / "keys", "ann"))
    write_key(tmp_path / "keys", "bob")
    with pytest.raises(RefusedError, match="alone; a second trusted key has to sign it"):
        by(tmp_path / "keys", "ann").seal("move", OVERRIDE)
    assert by(tmp_path / "keys", "ann", "bob").seal("move", OVERRIDE)


@pytest.mark.parametrize("name", ["roles.yml", "Roles.yaml"])
def test_roles_under_another_name_trust_nobody(roles: Path, name: str) -> None:
    (roles / "roles.yaml").rename(roles / name)
    with pytest.raises(InputError, match=rf"{name} is not read; call it roles.yaml"):
        read_trust(roles)


def test_roles_behind_a_link_that_leads_nowhere_trust_nobody(roles: Path) -> None:
    (roles / "roles.yaml").unlink()
    (roles / "roles.yaml").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"roles\.yaml: cannot be read"):
        read_trust(roles)
