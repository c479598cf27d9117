from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from cfnlint.api import lint, lint_all
from cfnlint.decode.cfn_yaml import loads
from hypothesis import given
from hypothesis import strategies as st

from tasks.objects.interface import MAX_CHARACTERS, check_key
from tasks.objects.location import open_objects
from tests.infra.stack import ACCOUNT, PRINCIPALS, REGION, ROLES, TEMPLATE, Deployed, client, deploy

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b2c3d-1111-2222-3333-444455556666"


DECLARED = loads(TEMPLATE.read_text())


def parameter(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DECLARED["Parameters"][name]
    return found


PREFIX_PATTERN = parameter("Prefix")["AllowedPattern"]


def is_accepted(name: str, value: str) -> bool:
    """Whether CloudFormation takes a parameter's value; its patterns match the whole of it."""
    return re.fullmatch(parameter(name)["AllowedPattern"], value) is not None


KEPT_DAYS = {"blobs": 20, "engines": 20, "channels": 900, "rollouts": 900}


@pytest.fixture(scope="module", params=["", "registry/"])
def deployed(request: pytest.FixtureRequest) -> Deployed:
    """A deployment with the prefix, and one without."""
    name = "with-prefix" if request.param else "without-prefix"
    return deploy(name, Prefix=request.param, DeletedDays=20, ChannelDays=900)


@pytest.fixture(scope="module")
def with_options() -> Deployed:
    """A deployment with a key, a log and a name."""
    return deploy("options", KeyArn=KEY, LogBucketName="our-logs", BucketName="our-engines")


def prefix_of(deployed: Deployed) -> str:
    return deployed.address.removeprefix(f"s3://{deployed.bucket}/")


def actions_of(deployed: Deployed, role: str) -> set[str]:
    found: set[str] = set()
    for policy in deployed.policies(role):
        for statement in policy["Statement"]:
            found |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    return found


def test_cfn_lint_finds_nothing_in_any_region() -> None:
    # I4010 asks for a second description of the template, beside its comments, for other tools.
    assert [str(found) for found in lint_all(TEMPLATE.read_text()) if found.rule.id != "I4010"] == []


def test_cfn_lint_finds_a_misspelt_property() -> None:
    assert lint(TEMPLATE.read_text().replace("OwnershipControls:", "OwnershipControl:"))


def test_the_template_uses_no_yaml_that_cloudformation_does_not_read() -> None:
    events = list(yaml.parse(TEMPLATE.read_text(), Loader=yaml.SafeLoader))
    assert [event for event in events if isinstance(event, yaml.AliasEvent)] == []


def test_the_bucket_is_versioned_private_and_its_owners_alone(deployed: Deployed) -> None:
    s3 = client("s3")
    access = s3.get_public_access_block(Bucket=deployed.bucket)["PublicAccessBlockConfiguration"]
    ownership = s3.get_bucket_ownership_controls(Bucket=deployed.bucket)["OwnershipControls"]
    assert s3.get_bucket_versioning(Bucket=deployed.bucket)["Status"] == "Enabled"
    assert set(access.values()) == {True}
    assert len(access) == 4
    assert ownership == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


def test_the_life_cycle_ends_uploads_and_keeps_channels_longest(deployed: Deployed) -> None:
    prefix = prefix_of(deployed)
    rules = client("s3").get_bucket_lifecycle_configuration(Bucket=deployed.bucket)["Rules"]
    assert {rule["Status"] for rule in rules} == {"Enabled"}
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules if "AbortIncompleteMultipartUpload" in rule] == [
        {"DaysAfterInitiation": 2}
    ]
    assert [rule["Expiration"] for rule in rules if "Expiration" in rule] == [{"ExpiredObjectDeleteMarker": True}]
    kept = {
        rule["Filter"]["Prefix"]: int(rule["NoncurrentVersionExpiration"]["NoncurrentDays"])
        for rule in rules
        if "NoncurrentVersionExpiration" in rule
    }
    assert kept == {f"{prefix}{part}/": days for part, days in KEPT_DAYS.items()}


def test_channels_are_kept_for_years_unless_told_otherwise() -> None:
    assert int(parameter("ChannelDays")["Default"]) > 10 * int(parameter("DeletedDays")["Default"])


def test_the_life_cycle_never_ends_a_current_object(deployed: Deployed) -> None:
    rules = deployed.properties("Bucket")["LifecycleConfiguration"]["Rules"]
    assert [rule for rule in rules if {"ExpirationInDays", "ExpirationDate"} & set(rule)] == []


def test_keys_of_s3_encrypt_unless_a_key_is_given(deployed: Deployed) -> None:
    found = client("s3").get_bucket_encryption(Bucket=deployed.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [rule["ApplyServerSideEncryptionByDefault"] for rule in found] == [{"SSEAlgorithm": "AES256"}]
    assert not [action for role in ROLES for action in actions_of(deployed, role) if action.startswith("kms:")]


def test_a_key_encrypts_and_each_role_may_use_it_as_far_as_it_must(with_options: Deployed) -> None:
    found = client("s3").get_bucket_encryption(Bucket=with_options.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert found == [
        {
            "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
            "BucketKeyEnabled": True,
        }
    ]
    kms = {role: {action for action in actions_of(with_options, role) if action.startswith("kms:")} for role in ROLES}
    reads, writes = {"kms:Decrypt"}, {"kms:Decrypt", "kms:GenerateDataKey"}
    assert kms == {"builder": writes, "promoter": writes, "host": writes, "upkeep": reads}


def test_an_access_log_is_written_where_a_bucket_is_named_for_it(with_options: Deployed) -> None:
    assert with_options.properties("Bucket")["LoggingConfiguration"] == {
        "DestinationBucketName": "our-logs",
        "LogFilePrefix": "options/",
    }


def test_no_access_log_is_written_unless_asked_for(deployed: Deployed) -> None:
    assert "LoggingConfiguration" not in deployed.properties("Bucket")


def test_a_named_bucket_has_its_name(with_options: Deployed) -> None:
    assert with_options.bucket == "our-engines"


def test_a_second_deployment_keeps_bucket_and_roles_and_takes_what_is_new() -> None:
    first = deploy("twice", DeletedDays=20)
    client("s3").delete_bucket_policy(Bucket=first.bucket)
    client("s3").put_object(Bucket=first.bucket, Key="blobs/sha256/ab/cd", Body=b"plan")
    second = deploy("twice", DeletedDays=60, KeyArn=KEY)
    rules = client("s3").get_bucket_lifecycle_configuration(Bucket=second.bucket)["Rules"]
    days = [int(rule["NoncurrentVersionExpiration"]["NoncurrentDays"]) for rule in rules[1:3]]
    assert second == first
    assert days == [60, 60]
    assert "kms:Decrypt" in actions_of(second, "host")
    assert second.bucket_policy()["Statement"]
    client("s3").delete_bucket_policy(Bucket=first.bucket)
    assert client("s3").get_object(Bucket=second.bucket, Key="blobs/sha256/ab/cd")["Body"].read() == b"plan"


@pytest.mark.parametrize("resource", ["Bucket", "BucketRules"])
def test_bucket_and_policy_outlive_the_stack(resource: str) -> None:
    declared = DECLARED["Resources"][resource]
    assert (declared["DeletionPolicy"], declared["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_a_role_may_be_taken_by_its_principal_alone(deployed: Deployed) -> None:
    iam = client("iam")
    trust = {
        role: iam.get_role(RoleName=deployed.role(role).rpartition("/")[2])["Role"]["AssumeRolePolicyDocument"]
        for role in ROLES
    }
    assert {role: document["Statement"] for role, document in trust.items()} == {
        role: [
            {
                "Effect": "Allow",
                "Principal": {"AWS": PRINCIPALS[f"{role.title()}Principal"]},
                "Action": "sts:AssumeRole",
            }
        ]
        for role in ROLES
    }


def test_no_role_has_a_wildcard_in_an_action_or_reaches_another_bucket(deployed: Deployed) -> None:
    policies = [deployed.policies(role) for role in ROLES]
    buckets = re.findall(r"arn:aws:s3:::([^'\"/]*)", str(policies))
    assert not [action for role in ROLES for action in actions_of(deployed, role) if "*" in action]
    assert set(buckets) == {deployed.bucket}


def test_the_registry_is_opened_at_the_address(deployed: Deployed) -> None:
    assert deployed.address in {f"s3://{deployed.bucket}/", f"s3://{deployed.bucket}/registry/"}
    assert open_objects(deployed.address).address == deployed.address.rstrip("/")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("arn", "accepted"),
    [
        (f"arn:aws:iam::{ACCOUNT}:role/ci/builder", True),
        (f"arn:aws-us-gov:iam::{ACCOUNT}:user/jo.doe@example.org", True),
        (f"arn:aws:iam::{ACCOUNT}:root", False),
        (f"arn:aws:iam::{ACCOUNT}:role/*", False),
        ("arn:aws:iam::*:role/builder", False),
        (f"arn:aws:iam::{ACCOUNT}:role/builder?", False),
        (ACCOUNT, False),
        ("*", False),
        ("", False),
    ],
)
def test_a_role_is_for_one_principal_never_for_a_wildcard(role: str, arn: str, accepted: bool) -> None:
    assert is_accepted(f"{role.title()}Principal", arn) is accepted
    assert "Default" not in parameter(f"{role.title()}Principal")


@pytest.mark.parametrize("prefix", ["registry", "/registry/", "a//", "a*/", "a?/", "${aws:username}/", "../", ".a/"])
def test_a_prefix_that_a_policy_or_the_registry_would_read_otherwise_is_refused(prefix: str) -> None:
    assert not is_accepted("Prefix", prefix)


@given(st.from_regex(PREFIX_PATTERN, fullmatch=True).filter(lambda prefix: 0 < len(prefix) <= 200))
def test_every_prefix_that_is_taken_is_one_to_the_registry_too(prefix: str) -> None:
    assert int(parameter("Prefix")["MaxLength"]) == 200 < MAX_CHARACTERS
    assert check_key(prefix.removesuffix("/")) + "/" == prefix


def test_a_stack_without_its_principals_is_refused() -> None:
    with pytest.raises(ClientError, match="BuilderPrincipal"):
        client("cloudformation").create_stack(StackName="incomplete", TemplateBody=TEMPLATE.read_text())
