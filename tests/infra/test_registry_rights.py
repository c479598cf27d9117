from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import InputError, RefusedError
from tasks.objects.interface import ChangedError
from tasks.objects.s3 import S3Objects
from tasks.process.child import ignore_progress
from tasks.records import Cell
from tasks.registry.conditions import try_conditions
from tasks.registry.layout import PROBE, blob_key, manifest_key
from tasks.registry.moves import ChannelAddress
from tasks.registry.steps import RolloutAddress
from tasks.specs import Precision
from tests.infra.policies import Call, call_of, enforce, is_allowed
from tests.infra.stack import ACCOUNT, ROLES, Deployed, client, deploy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "registry/"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ADMINISTRATOR = f"arn:aws:iam::{ACCOUNT}:user/administrator"
EVERYTHING = [{"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}]

PLAN = b"a plan" * 1_000_000
DIGEST = f"sha256:{hashlib.sha256(PLAN).hexdigest()}"
BLOB = blob_key(DIGEST)
MANIFEST = manifest_key(Cell(model="scorer", version="1a2b3c4d5e6f", target="t4", precision=Precision.FP16))
CHANNELS = {one.channel.value: one.key for one in ChannelAddress.all_of("scorer", "t4")}
ROLLOUT = RolloutAddress("scorer", "t4")
SHARD = f"{ROLLOUT.shards('0123456789ab')}host-1/120000-a-8-00ff.npz"
OBJECTS = {
    "blob": BLOB,
    "manifest": MANIFEST,
    **CHANNELS,
    "rollouts": ROLLOUT.key,
    "part": ROLLOUT.part_key(DIGEST),
    "evidence": ROLLOUT.evidence_key(DIGEST),
    "shard": SHARD,
}

NEW: dict[str, Any] = {"IfNoneMatch": "*"}
SWAP: dict[str, Any] = {"IfMatch": "0123"}
WRITES: dict[str, tuple[str, dict[str, Any]]] = {
    "create": ("PutObject", NEW),
    "replace": ("PutObject", SWAP),
    "overwrite": ("PutObject", {}),
    "start upload": ("CreateMultipartUpload", {}),
    "send part": ("UploadPart", {}),
    "complete upload": ("CompleteMultipartUpload", NEW),
    "complete over": ("CompleteMultipartUpload", {}),
    "delete": ("DeleteObject", {}),
    "delete version": ("DeleteObject", {"VersionId": "1"}),
}
IN_PARTS = {"start upload", "send part", "complete upload"}
ONCE = {"create", *IN_PARTS}
WRITTEN_ONCE = ("blob", "manifest", "part", "evidence", "shard")
SWAPPED = (*CHANNELS, "rollouts")
# What each may do to what; all else is refused.
MAY: dict[str, dict[str, set[str]]] = {
    "builder": {"blob": ONCE, "manifest": ONCE, "candidate": ONCE | {"replace"}},
    "promoter": {"blob": ONCE, "manifest": ONCE, "rollouts": ONCE | {"replace"}, "part": ONCE, "evidence": ONCE}
    | {name: ONCE | {"replace"} for name in CHANNELS},
    "host": {"shard": ONCE},
    "upkeep": {"blob": {"delete"}, "manifest": {"delete"}},
    "administrator": dict.fromkeys(WRITTEN_ONCE, ONCE) | dict.fromkeys(SWAPPED, ONCE | {"replace"}),
    "root": dict.fromkeys(WRITTEN_ONCE, ONCE | {"delete", "delete version"})
    | dict.fromkeys(SWAPPED, ONCE | {"replace", "delete", "delete version"}),
}


@dataclass(frozen=True)
class Rules:
    """What a deployment allows to whom."""

    deployed: Deployed
    bucket_policy: dict[str, Any]
    identities: dict[str, list[dict[str, Any]]]

    def arn(self, who: str) -> str:
        """The ARN that a call of a role, the administrator or the root comes from."""
        return {"root": ROOT, "administrator": ADMINISTRATOR}.get(who) or self.deployed.role(who)

    def allow(self, who: str, operation: str, *, secure: bool = True, **parameters: Any) -> bool:
        """Whether S3 would carry out an operation of boto3's client."""
        asked = {"Bucket": self.deployed.bucket} | parameters
        return self.decide(who, call_of(operation, asked, who=self.arn(who), secure=secure))

    def decide(self, who: str, call: Call) -> bool:
        """Whether a call is allowed."""
        return is_allowed(call, self.identities.get(who, EVERYTHING), self.bucket_policy)

    def open(self, who: str) -> S3Objects:
        """The registry's objects, as they are for somebody."""
        objects = S3Objects(self.deployed.bucket, PREFIX.rstrip("/"), part_bytes=5 << 20)
        enforce(objects._client, self.arn(who), self.identities.get(who, EVERYTHING), self.bucket_policy)  # noqa: SLF001 - the one door
        return objects


@pytest.fixture(scope="module")
def rules() -> Rules:
    """The rules of a deployment. moto, which would deny what they deny to anybody, is without the bucket's policy."""
    deployed = deploy("registry", Prefix=PREFIX)
    found = Rules(deployed, deployed.bucket_policy(), {role: deployed.policies(role) for role in ROLES})
    client("s3").delete_bucket_policy(Bucket=deployed.bucket)
    return found


@pytest.fixture(autouse=True)
def _empty_bucket(rules: Rules) -> Iterator[None]:
    yield
    s3, bucket = client("s3"), rules.deployed.bucket
    found = s3.list_object_versions(Bucket=bucket)
    for each in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
        s3.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan"
    path.write_bytes(PLAN)
    return path


@pytest.mark.parametrize("who", MAY)
def test_each_may_write_what_the_template_says_and_nothing_else(rules: Rules, who: str) -> None:
    allowed = {
        (thing, write)
        for thing, key in OBJECTS.items()
        for write, (operation, parameters) in WRITES.items()
        if rules.allow(who, operation, Key=PREFIX + key, **parameters)
    }
    expected = {(thing, write) for thing, writes in MAY[who].items() for write in writes}
    assert allowed == expected


@pytest.mark.parametrize("who", MAY)
def test_nobody_overwrites_what_is_written_once(rules: Rules, who: str) -> None:
    for key in (OBJECTS[name] for name in WRITTEN_ONCE):
        for condition in ({}, SWAP):
            assert not rules.allow(who, "PutObject", Key=PREFIX + key, **condition)
            assert not rules.allow(who, "CompleteMultipartUpload", Key=PREFIX + key, **condition)


@pytest.mark.parametrize("who", ROLES)
def test_each_role_reads_the_registry_and_nothing_beside_it(rules: Rules, who: str) -> None:
    for key in OBJECTS.values():
        assert rules.allow(who, "GetObject", Key=PREFIX + key)
        assert not rules.allow(who, "GetObject", Key=f"other/{key}")
    assert rules.allow(who, "ListObjectsV2", Prefix=f"{PREFIX}engines/")
    assert not rules.allow(who, "ListObjectsV2", Prefix="other/")
    assert not rules.allow(who, "ListObjectsV2", Prefix="")


@pytest.mark.parametrize("who", ROLES)
def test_a_missing_object_is_404_for_each_role(rules: Rules, who: str) -> None:
    # S3 says 403 instead to whom it would refuse a listing; there is no prefix in what it asks IAM then.
    assert rules.allow(who, "ListObjectsV2")


@pytest.mark.parametrize("who", ROLES)
def test_each_role_writes_and_deletes_nothing_beside_the_registry(rules: Rules, who: str) -> None:
    for operation, parameters in WRITES.values():
        for key in OBJECTS.values():
            assert not rules.allow(who, operation, Key=f"other/{key}", **parameters)
            assert not rules.allow(who, operation, Key=key, **parameters)


@pytest.mark.parametrize("who", MAY)
def test_nothing_goes_without_tls(rules: Rules, who: str) -> None:
    assert rules.allow(who, "GetObject", Key=PREFIX + BLOB)
    assert not rules.allow(who, "GetObject", Key=PREFIX + BLOB, secure=False)
    assert not rules.allow(who, "ListObjectsV2", secure=False)


def test_a_builder_cannot_make_a_channel_look_like_a_candidate(rules: Rules) -> None:
    for name in ("production.json", "candidate.json/production.json", "candidate.jsonx", "xcandidate.json"):
        key = f"{PREFIX}channels/scorer/t4/{name}"
        assert not rules.allow("builder", "PutObject", Key=key, **NEW)


def test_whoever_moves_a_channel_writes_the_parts_of_its_history(rules: Rules) -> None:
    for name, who in (("candidate", {"builder", "promoter"}), ("production", {"promoter"})):
        part = f"{PREFIX}channels/scorer/t4/{name}/{'0' * 64}.json"
        assert {role for role in ROLES if rules.allow(role, "PutObject", Key=part, **NEW)} == who
        assert not any(
            rules.allow(role, "PutObject", Key=part) or rules.allow(role, "DeleteObject", Key=part) for role in ROLES
        )


def test_those_who_send_parts_may_give_them_up(rules: Rules) -> None:
    may = {who for who in ROLES if rules.allow(who, "AbortMultipartUpload", Key=PREFIX + BLOB)}
    assert may == {"builder", "promoter"}


def test_no_role_may_change_the_bucket(rules: Rules) -> None:
    arn = f"arn:aws:s3:::{rules.deployed.bucket}"
    context = {"aws:SecureTransport": "true"}
    for action in ("PutBucketPolicy", "DeleteBucketPolicy", "PutLifecycleConfiguration", "PutBucketVersioning"):
        assert rules.decide("administrator", Call(f"s3:{action}", arn, context | {"aws:PrincipalArn": ADMINISTRATOR}))
        for role in ROLES:
            call = Call(f"s3:{action}", arn, context | {"aws:PrincipalArn": rules.arn(role)})
            assert not rules.decide(role, call)


def test_a_builder_registers_an_engine_and_moves_the_candidate(rules: Rules, plan: Path) -> None:
    builder = rules.open("builder")
    assert builder.upload(BLOB, plan, DIGEST, ignore_progress)
    assert not builder.upload(BLOB, plan, DIGEST, ignore_progress)
    assert builder.create(MANIFEST, b"{}")
    assert not builder.create(MANIFEST, b"{ }")
    tag = builder.replace(CHANNELS["candidate"], b"1", None)
    builder.replace(CHANNELS["candidate"], b"2", tag)
    with pytest.raises(ChangedError):
        builder.replace(CHANNELS["candidate"], b"3", tag)
    assert [entry.key for entry in builder.list("")] == [BLOB, CHANNELS["candidate"], MANIFEST]


def test_those_who_write_can_try_whether_conditions_are_honoured_and_leave_one_object_whoever_tries(
    rules: Rules,
) -> None:
    for _ in range(2):
        assert {who for who in ROLES if try_conditions(rules.open(who))} == {"builder", "promoter"}
    assert [entry.key for entry in rules.open("host").list("")] == [PROBE]
    assert len(client("s3").list_object_versions(Bucket=rules.deployed.bucket)["Versions"]) == 1


def test_an_upload_that_breaks_off_leaves_no_parts(rules: Rules, plan: Path) -> None:
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(RefusedError, match="digest"):
        rules.open("builder").upload(BLOB, plan, wrong, ignore_progress)
    assert "Uploads" not in client("s3").list_multipart_uploads(Bucket=rules.deployed.bucket)


@pytest.mark.parametrize("name", ["staging", "canary", "production"])
def test_a_builder_is_told_that_it_may_not_move_a_channel(rules: Rules, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}\.json: cannot write: AccessDenied"):
        rules.open("builder").replace(CHANNELS[name], b"1", None)
    assert rules.open("host").read(CHANNELS[name]) is None


def test_a_builder_is_told_that_it_may_not_replace_a_damaged_blob(rules: Rules) -> None:
    assert rules.open("builder").create(BLOB, b"damaged")
    with pytest.raises(InputError, match="cannot delete: AccessDenied"):
        rules.open("builder").delete(BLOB)


def test_a_promoter_moves_every_channel_and_deletes_none(rules: Rules) -> None:
    promoter = rules.open("promoter")
    for key in CHANNELS.values():
        promoter.replace(key, b"2", promoter.replace(key, b"1", None))
        with pytest.raises(InputError, match="AccessDenied"):
            promoter.delete(key)
    assert {entry.key for entry in promoter.list("channels/")} == set(CHANNELS.values())


def test_a_promoter_registers_an_engine_that_it_promotes_against_the_rules(rules: Rules, plan: Path) -> None:
    promoter = rules.open("promoter")
    assert promoter.upload(BLOB, plan, DIGEST, ignore_progress)
    assert promoter.create(MANIFEST, b"{}")


def test_a_host_pulls_and_writes_nothing_but_what_it_saw(rules: Rules, plan: Path, tmp_path: Path) -> None:
    rules.open("promoter").upload(BLOB, plan, DIGEST, ignore_progress)
    host = rules.open("host")
    host.download(BLOB, tmp_path / "pulled", DIGEST, ignore_progress)
    assert (tmp_path / "pulled").read_bytes() == PLAN
    assert host.read(MANIFEST) is None
    assert host.size(MANIFEST) is None
    other = blob_key(f"sha256:{'1' * 64}")
    with pytest.raises(InputError, match="AccessDenied"):
        host.upload(other, plan, DIGEST, ignore_progress)
    assert host.create(SHARD, b"pairs")
    assert not host.create(SHARD, b"other pairs")
    for key in OBJECTS.values():
        if key != SHARD:
            with pytest.raises(InputError, match="AccessDenied"):
                host.create(key, b"1")
        with pytest.raises(InputError, match="AccessDenied"):
            host.delete(key)
    assert [entry.key for entry in host.list("")] == [BLOB, SHARD]


def test_what_upkeep_deletes_can_be_brought_back_and_registered_again(rules: Rules, plan: Path) -> None:
    builder, upkeep = rules.open("builder"), rules.open("upkeep")
    assert builder.upload(BLOB, plan, DIGEST, ignore_progress)
    upkeep.delete(BLOB)
    assert builder.size(BLOB) is None
    (version,) = client("s3").list_object_versions(Bucket=rules.deployed.bucket)["Versions"]
    assert version["Size"] == len(PLAN)
    assert builder.upload(BLOB, plan, DIGEST, ignore_progress)
    assert builder.size(BLOB) == len(PLAN)


def test_upkeep_deletes_no_channel_and_writes_nothing(rules: Rules) -> None:
    rules.open("promoter").replace(CHANNELS["production"], b"1", None)
    upkeep = rules.open("upkeep")
    with pytest.raises(InputError, match="AccessDenied"):
        upkeep.delete(CHANNELS["production"])
    with pytest.raises(InputError, match="AccessDenied"):
        upkeep.create(MANIFEST, b"{}")
    assert [entry.key for entry in upkeep.list("")] == [CHANNELS["production"]]
