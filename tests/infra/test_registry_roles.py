"""Roles, taken through STS and enforced by moto's own IAM, which looks at no condition and at no bucket policy here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from moto.core import set_initial_no_auth_action_count

from tests.infra.stack import REGION, ROLES, Deployed, client, deploy

MAY_TAKE_ROLES = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"},
}
ENFORCED = set_initial_no_auth_action_count(0)
KEYS = {
    "blob": "blobs/sha256/ab/cd",
    "manifest": "engines/scorer/1a2b/t4/fp16/manifest.json",
    "candidate": "channels/scorer/t4/candidate.json",
    "production": "channels/scorer/t4/production.json",
}


@dataclass(frozen=True)
class People:
    """The access keys of users who may take any role that would have them."""

    deployed: Deployed
    keys: dict[str, dict[str, str]]

    def take(self, role: str, *, as_user: str) -> Any:
        """A client of S3 with a role's rights."""
        sts = boto3.Session().client("sts", region_name=REGION, **self.keys[as_user])
        found = sts.assume_role(RoleArn=self.deployed.role(role), RoleSessionName="test")["Credentials"]
        return boto3.Session().client(
            "s3",
            region_name=REGION,
            aws_access_key_id=found["AccessKeyId"],
            aws_secret_access_key=found["SecretAccessKey"],
            aws_session_token=found["SessionToken"],
        )


@pytest.fixture(scope="module")
def people() -> People:
    deployed, iam, keys = deploy("registry"), client("iam"), {}
    for user in (*ROLES, "stranger"):
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="roles", PolicyDocument=json.dumps(MAY_TAKE_ROLES))
        made = iam.create_access_key(UserName=user)["AccessKey"]
        keys[user] = {
            "aws_access_key_id": made["AccessKeyId"],
            "aws_secret_access_key": made["SecretAccessKey"],
        }
    client("s3").delete_bucket_policy(Bucket=deployed.bucket)
    return People(deployed, keys)


def succeeds(call: Any, **parameters: object) -> bool:
    try:
        call(**parameters)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("role", "writes", "deletes"),
    [
        ("builder", {"blob", "manifest", "candidate"}, set()),
        ("promoter", {"blob", "manifest", "candidate", "production"}, set()),
        ("host", set(), set()),
        ("upkeep", set(), {"blob", "manifest"}),
    ],
)
def test_a_role_reads_all_and_writes_and_deletes_its_part(
    people: People, role: str, writes: set[str], deletes: set[str]
) -> None:
    for key in KEYS.values():
        client("s3").put_object(Bucket=people.deployed.bucket, Key=key, Body=b"1")

    @ENFORCED
    def tried() -> tuple[set[str], set[str], set[str]]:
        s3, bucket = people.take(role, as_user=role), people.deployed.bucket
        return (
            {name for name, key in KEYS.items() if succeeds(s3.get_object, Bucket=bucket, Key=key)},
            {name for name, key in KEYS.items() if succeeds(s3.put_object, Bucket=bucket, Key=key, Body=b"1")},
            {name for name, key in KEYS.items() if succeeds(s3.delete_object, Bucket=bucket, Key=key)},
        )

    assert tried() == (set(KEYS), writes, deletes)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_taken_by_its_own_principal_only(people: People, role: str) -> None:
    @ENFORCED
    def taken_by() -> set[str]:
        return {user for user in people.keys if succeeds(people.take, role=role, as_user=user)}

    assert taken_by() == {role}
