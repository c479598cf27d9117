from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import boto3
import pytest

from tasks.errors import InputError, RefusedError, StageError
from tasks.objects import s3_client
from tasks.objects.s3 import MAX_WRITERS, S3Objects
from tests.radosgw import free_port
from tests.s3_servers import BUCKET, Faults, aws_settings, serve_faulty
from tests.tasks.conftest import place_at

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.conftest import Place

MIB = 1 << 20
KEY = "channels/scorer/cpu/production.json"
FILE = os.urandom(11 * MIB)
DIGEST = f"sha256:{hashlib.sha256(FILE).hexdigest()}"
SECRET = "do-not-print-me"  # noqa: S105 - nobody's


def silent(_done: int, _total: int) -> None:
    pass


def unfinished() -> list[str]:
    """Keys of multipart uploads that were neither completed nor aborted."""
    listed = boto3.Session().client("s3").list_multipart_uploads(Bucket=BUCKET)
    return [upload["Key"] for upload in listed.get("Uploads", [])]


def test_an_upload_that_fails_leaves_no_parts_behind(bucket: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    objects = bucket.open(part_bytes=5 * MIB)
    with pytest.raises(RefusedError):
        objects.upload("wrong", tmp_path / "in", f"sha256:{'0' * 64}", silent)
    faults = Faults(1, kinds=("500",), only=lambda method, path: method == "PUT" and "partNumber=2" in path)
    with serve_faulty(bucket.endpoint, faults) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_client, "ATTEMPTS", 2)
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        with pytest.raises(StageError, match=r"cannot upload to: InternalError injected"):
            bucket.open(part_bytes=5 * MIB).upload("failing", tmp_path / "in", DIGEST, silent)
    assert [key for key in unfinished() if key.startswith(bucket.prefix)] == []
    assert list(objects.list("")) == []


def test_an_upload_that_somebody_else_finished_first_is_taken_back(bucket: Place, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(FILE)
    other = bucket.open()

    def be_faster(done: int, total: int) -> None:
        if done == total:
            assert other.create("blob", b"theirs")

    assert not bucket.open(part_bytes=5 * MIB).upload("blob", tmp_path / "in", DIGEST, be_faster)
    found = other.read("blob")
    assert found is not None
    assert found.content == b"theirs"
    assert [key for key in unfinished() if key.startswith(bucket.prefix)] == []


def test_bytes_that_change_on_the_wire_are_refused_by_a_server_that_checks(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    place = place_at("radosgw", request, tmp_path)  # moto checks nothing
    faults = Faults(1, kinds=("flip",), only=lambda method, _path: method == "PUT")
    with serve_faulty(place.endpoint, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        with pytest.raises(InputError, match=r"cannot write: XAmzContentSHA256Mismatch"):
            place.open().create(KEY, b"content")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", place.endpoint)
    assert place.open().size(KEY) is None


def test_an_object_changed_hundreds_of_times_keeps_its_metadata_below_two_kilobytes(bucket: Place) -> None:
    objects = bucket.open()
    tag = objects.replace(KEY, b"0", None)
    for number in range(MAX_WRITERS + 5):
        tag = objects.replace(KEY, str(number).encode(), tag)
    answer = boto3.Session().client("s3").head_object(Bucket=BUCKET, Key=f"{bucket.prefix}/{KEY}")
    assert 1000 < sum(len(name) + len(value) for name, value in answer["Metadata"].items()) < 2000
    assert len(tag) <= 2000


def test_objects_of_other_tools_are_read_and_replaced_and_their_odd_names_left_out(bucket: Place) -> None:
    client = boto3.Session().client("s3")
    for key in ("folder/", "a b", ".hidden", "fine"):
        client.put_object(Bucket=BUCKET, Key=f"{bucket.prefix}/{key}", Body=b"theirs")
    client.put_object(Bucket=BUCKET, Key=f"{bucket.prefix}-beside", Body=b"")
    objects = bucket.open()
    assert [entry.key for entry in objects.list("")] == ["fine"]
    found = objects.read("fine")
    assert found is not None
    objects.replace("fine", b"ours", found.tag)


def test_a_store_without_a_prefix_is_the_bucket_itself(bucket: Place) -> None:
    objects, name = S3Objects(BUCKET), bucket.prefix.replace("/", "-")
    assert objects.address == f"s3://{BUCKET}"
    assert objects.create(name, b"")
    assert [entry.key for entry in objects.list(name)] == [name]


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_missing_is_named(tmp_path: Path) -> None:
    objects = S3Objects("no-such-bucket", "registry")
    for call in (
        lambda: objects.create(KEY, b""),
        lambda: objects.replace(KEY, b"", "0" * 32),
        lambda: objects.read(KEY),
        lambda: objects.download(KEY, tmp_path / "out", DIGEST, silent),
        lambda: list(objects.list("")),
    ):
        with pytest.raises(InputError, match=r"^s3://no-such-bucket/registry/.*NoSuchBucket.*correct the address"):
            call()


def test_wrong_credentials_are_told_and_never_shown(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    place = place_at("radosgw", request, tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with pytest.raises(InputError, match=r"cannot write: SignatureDoesNotMatch.*credentials") as error:
        place.open().create(KEY, b"")
    assert SECRET not in str(error.value)


def test_a_server_that_is_not_there_is_told_without_the_password_in_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3_client, "ATTEMPTS", 1)
    for name, value in aws_settings(f"http://me:{SECRET}@127.0.0.1:{free_port()}").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError, match=r"^s3://engines/x/.*cannot read: .*127.0.0.1.*check the network") as error:
        S3Objects(BUCKET, "x").read(KEY)
    assert SECRET not in str(error.value)


def test_settings_that_are_no_good_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"s3://engines/.*cannot read: Unable to locate credentials"):
        S3Objects(BUCKET).read(KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nonsense")
    with pytest.raises(InputError, match=r"s3://engines: Invalid endpoint.*correct AWS_PROFILE or AWS_ENDPOINT_URL"):
        S3Objects(BUCKET)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match=r"profile \(nobody\)"):
        S3Objects(BUCKET)


@pytest.mark.parametrize("call", ["read", "create", "list"])
def test_a_server_that_sends_calls_elsewhere_is_told_with_region_and_endpoint(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    place = place_at("moto", request, tmp_path)
    with serve_faulty(place.endpoint, Faults(1, kinds=("redirect",))) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        objects = place.open()
        with pytest.raises(
            InputError, match=r"^s3://engines/.*: cannot .*set AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3"
        ):
            {
                "read": lambda: objects.read(KEY),
                "create": lambda: objects.create(KEY, b""),
                "list": lambda: list(objects.list("")),
            }[call]()
