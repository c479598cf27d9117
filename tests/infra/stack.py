"""infra/aws/registry.yaml, deployed against moto.

moto's CloudFormation (5.2) resolves the template, makes the bucket, the roles and their policies, and tells the
outputs. Of the bucket it takes name and encryption alone, and it knows no bucket policies: these are set here, through
S3, as it resolved them. An update changes no policy of a role whose text in the template stays the same.

moto's S3 then refuses whatever the policy denies to somebody, as it looks at no condition: `client("s3")` may still
read the bucket's settings. `policies.py` looks at conditions.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json

TEMPLATE = Path(__file__).resolve().parents[2] / "infra" / "aws" / "registry.yaml"
REGION = "eu-central-1"
ACCOUNT = "123456789012"  # moto's
ROLES = ("builder", "promoter", "host", "upkeep")
PRINCIPALS = {f"{role.title()}Principal": f"arn:aws:iam::{ACCOUNT}:user/{role}" for role in ROLES}


@dataclass(frozen=True)
class Deployed:
    """A deployed stack: its name and its outputs."""

    stack: str
    outputs: dict[str, str]

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.outputs["BucketName"]

    @property
    def address(self) -> str:
        """The registry's address."""
        return self.outputs["RegistryAddress"]

    def role(self, role: str) -> str:
        """The ARN of a role: builder, promoter, host or upkeep."""
        return self.outputs[f"{role.title()}RoleArn"]

    def properties(self, logical_id: str) -> dict[str, Any]:
        """The properties of a resource, with what they refer to filled in by moto's CloudFormation."""
        stack = cloudformation_backends[ACCOUNT][REGION].get_stack(self.stack)
        declared = stack.template_dict["Resources"][logical_id]["Properties"]
        resolved: dict[str, Any] = clean_json(declared, stack.resource_map)
        return resolved

    def bucket_policy(self) -> dict[str, Any]:
        """The bucket's policy, as S3 has it."""
        document: dict[str, Any] = json.loads(client("s3").get_bucket_policy(Bucket=self.bucket)["Policy"])
        return document

    def policies(self, role: str) -> list[dict[str, Any]]:
        """The policies of a role, as IAM has them."""
        iam, name = client("iam"), self.role(role).rpartition("/")[2]
        assert iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] == []
        names = iam.list_role_policies(RoleName=name)["PolicyNames"]
        return [iam.get_role_policy(RoleName=name, PolicyName=each)["PolicyDocument"] for each in names]


@cache
def client(service: str) -> Any:
    """A client of a service of moto's; making one takes a tenth of a second."""
    return boto3.Session().client(service, region_name=REGION)


def deploy(stack: str, **parameters: object) -> Deployed:
    """Deploy the template under a name, or change what is deployed under it."""
    formation = client("cloudformation")
    exists = any(each["StackName"] == stack for each in formation.describe_stacks()["Stacks"])
    given = [{"ParameterKey": key, "ParameterValue": str(value)} for key, value in (PRINCIPALS | parameters).items()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tried to parse AWS::S3::BucketPolicy")
        (formation.update_stack if exists else formation.create_stack)(
            StackName=stack, TemplateBody=TEMPLATE.read_text(), Capabilities=["CAPABILITY_IAM"], Parameters=given
        )
    found = formation.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
    deployed = Deployed(stack, {output["OutputKey"]: output["OutputValue"] for output in found})
    _configure_bucket(deployed)
    return deployed


def _configure_bucket(deployed: Deployed) -> None:
    s3, bucket, declared = client("s3"), deployed.bucket, deployed.properties("Bucket")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=declared["VersioningConfiguration"])
    access = declared["PublicAccessBlockConfiguration"]
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=access)
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=declared["OwnershipControls"])
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=_encryption(declared))
    rules = [_rule(rule) for rule in declared["LifecycleConfiguration"]["Rules"]]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    policy = deployed.properties("BucketRules")
    s3.put_bucket_policy(Bucket=policy["Bucket"], Policy=json.dumps(policy["PolicyDocument"]))


def _encryption(declared: dict[str, Any]) -> dict[str, Any]:
    """In S3's form: it names the default otherwise, and moto's CloudFormation loses BucketKeyEnabled."""
    (rule,) = declared["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    default = {"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]}
    return {"Rules": [default | {key: rule[key] for key in rule if key == "BucketKeyEnabled"}]}


def _rule(declared: dict[str, Any]) -> dict[str, Any]:
    """A rule in S3's form, which differs from CloudFormation's."""
    rule = {key: value for key, value in declared.items() if key not in {"Id", "Prefix", "ExpiredObjectDeleteMarker"}}
    rule |= {"ID": declared["Id"], "Filter": {"Prefix": declared.get("Prefix", "")}}
    if declared.get("ExpiredObjectDeleteMarker"):
        rule["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    return rule
