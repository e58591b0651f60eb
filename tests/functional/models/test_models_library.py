"""What the bucket holds: listed, checked again, removed, kept in step with a list; and the bucket itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fakes.model_sources import COMMIT, Sources
from functional.models.conftest import Desk
from sdctl.clients.cloudformation import CloudFormation, StackView
from sdctl.contract import DEFAULT_CHECKPOINT
from sdctl.deployments import Deployment, Deployments, home
from sdctl.errors import AwsError, ConfigError
from sdctl.models.index import INDEX_KEY, Entry, Index
from support import cli
from support.model_files import KINDS, kind, torch_pickle, torch_zip

CONFIG = """modelsRuntime:
  - {name: portraits, type: sdwebui, modelFilename: used.safetensors}
"""


def put(desk: Desk, key: str, data: bytes) -> None:
    """Store an object as other tools do."""
    desk.client.put_object(Bucket=desk.bucket, Key=key, Body=data)


def listed(desk: Desk) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in desk.run("list", "-o", "json").document["models"]}


def test_what_others_stored_is_examined_once_and_then_known(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(desk, "Stable-diffusion/by-hand.safetensors", kind("sdxl"))
    put(desk, "Lora/style.pt", torch_zip(torch_pickle(KINDS["lora-sd1"])))
    put(desk, "Stable-diffusion/page.safetensors", b"<html>sign in</html>")
    put(desk, "notes.txt", b"hello")
    put(desk, "Stable-diffusion/", b"")
    kinds = {key: (row["type"], row["base"]) for key, row in listed(desk).items()}
    assert kinds == {
        "Stable-diffusion/by-hand.safetensors": ("checkpoint", "SDXL"),
        "Lora/style.pt": ("lora", "SD1"),
        "Stable-diffusion/page.safetensors": ("unsound: what came is a web page, not a model", ""),
        "notes.txt": ("other", ""),
    }
    monkeypatch.setattr("sdctl.clients.objects.Objects.read", None)
    monkeypatch.setattr("sdctl.clients.objects.Objects.look", None)
    assert len(listed(desk)) == 4
    monkeypatch.undo()


def test_an_object_that_was_replaced_is_looked_at_again(desk: Desk) -> None:
    put(desk, "Stable-diffusion/a.safetensors", kind("sd1"))
    assert listed(desk)["Stable-diffusion/a.safetensors"]["base"] == "SD1"
    put(desk, "Stable-diffusion/a.safetensors", kind("sdxl"))
    assert listed(desk)["Stable-diffusion/a.safetensors"]["base"] == "SDXL"


def test_a_lost_or_damaged_index_is_rebuilt_from_the_objects(desk: Desk) -> None:
    Path("a.safetensors").write_bytes(kind("sd1"))
    desk.upload("a.safetensors")
    before = listed(desk)
    for damage in (b"{", b'{"version": 1, "models": [{"key": 1}]}', b"[]"):
        put(desk, INDEX_KEY, damage)
        after = listed(desk)["Stable-diffusion/a.safetensors"]
        assert after["sha256"] == before["Stable-diffusion/a.safetensors"]["sha256"]
    desk.objects.delete(INDEX_KEY)
    assert listed(desk).keys() == before.keys()


def test_two_who_change_the_index_at_once_lose_nothing(desk: Desk) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def add(number: int) -> None:
        entry = Entry(f"Lora/{number}.safetensors", "lora", "", "safetensors", 1, "", "", "", "", "", "")
        Index(desk.objects).update({entry.key: entry})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(8)))
    assert len(Index(desk.objects).read()) == 8


def test_an_index_of_a_newer_sdctl_is_not_overwritten(desk: Desk) -> None:
    put(desk, INDEX_KEY, b'{"version": 2, "models": {}}')
    assert desk.run("list").code == 8


def test_verify_tells_what_changed_what_is_missing_and_what_it_cannot_know(desk: Desk) -> None:
    for name in ("a", "b", "c"):
        Path(f"{name}.safetensors").write_bytes(kind("sd1", seed=name.encode()))
    desk.upload("a.safetensors", "b.safetensors", "c.safetensors")
    metadata = desk.objects.look("Stable-diffusion/b.safetensors").metadata  # type: ignore[union-attr]
    changed = bytearray(desk.body("Stable-diffusion/b.safetensors"))
    changed[-1] ^= 1
    desk.client.put_object(
        Bucket=desk.bucket, Key="Stable-diffusion/b.safetensors", Body=bytes(changed), Metadata=dict(metadata)
    )
    desk.objects.delete("Stable-diffusion/c.safetensors")
    put(desk, "Lora/hand.safetensors", kind("lora-sd1"))
    ran = desk.run("verify", "-o", "json")
    verdicts = {row["key"].rpartition("/")[2][0]: row["verdict"] for row in ran.document}
    assert (ran.code, verdicts) == (5, {"a": "ok", "b": "changed", "c": "missing", "h": "unchecked"})
    assert ran.error["code"] == "models_changed"
    assert "2 of 4 models" in ran.error["message"]
    assert desk.run("verify", "a.safetensors").code == 0
    assert (desk.run("verify", "nothing").code, desk.run("verify", "").code) == (4, 2)


def test_the_default_model_can_be_removed_where_nothing_is_deployed(desk: Desk) -> None:
    Path(DEFAULT_CHECKPOINT).write_bytes(kind("sd1"))
    desk.upload(DEFAULT_CHECKPOINT)
    assert desk.run("remove", DEFAULT_CHECKPOINT, "-y").code == 0
    desk.upload(DEFAULT_CHECKPOINT)
    Path("sdctl.yaml").write_text("stackName: mine\n")
    assert desk.run("remove", DEFAULT_CHECKPOINT, "-y").code == 8


def test_a_model_that_a_runtime_names_is_listed_as_used_and_not_removed(desk: Desk) -> None:
    Path("sdctl.yaml").write_text(CONFIG)
    for name in ("used", "free"):
        Path(f"{name}.safetensors").write_bytes(kind("sd1", seed=name.encode()))
    desk.upload("used.safetensors", "free.safetensors")
    assert listed(desk)["Stable-diffusion/used.safetensors"]["used_by"] == ["portraits"]
    refused = desk.run("remove", "free.safetensors", "used.safetensors", "--yes", "-o", "json")
    assert (refused.code, "portraits" in refused.error["message"]) == (8, True)
    assert len(desk.keys()) == 2
    assert desk.run("remove", "free.safetensors", "-o", "json").code == 2  # nobody to ask
    removed = desk.run("remove", "free.safetensors", "--yes", "-o", "json").document["removed"]
    assert removed == ["Stable-diffusion/free.safetensors"]
    assert desk.keys() == ["Stable-diffusion/used.safetensors"]
    assert desk.run("remove", "free.safetensors", "--yes").code == 4


def deploy_front(desk: Desk, stack_name: str, checkpoint: str) -> None:
    """Leave what a deployment has that reads the bucket: its front's stack, and one runtime."""
    template = {
        "Parameters": {"ModelBucket": {"Type": "String"}},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }
    desk.aws.client("cloudformation").create_stack(
        StackName=f"{stack_name}Stack", TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "ModelBucket", "ParameterValue": desk.bucket}],
        Tags=[{"Key": "sdctl:stack", "Value": stack_name}],
    )  # fmt: skip
    entry = {"name": "painter", "type": "sdwebui", "checkpoints": [checkpoint]}
    desk.aws.client("ssm").put_parameter(
        Name=f"/sdctl/{stack_name}/runtimes/painter", Type="String", Value=json.dumps(entry)
    )


def test_what_another_deployment_reads_from_the_bucket_is_not_removed_either(desk: Desk) -> None:
    Path("shared.safetensors").write_bytes(kind("sd1"))
    desk.upload("shared.safetensors")
    deploy_front(desk, f"other{desk.bucket}", "shared.safetensors")
    user = f"painter of other{desk.bucket}"
    assert listed(desk)["Stable-diffusion/shared.safetensors"]["used_by"] == [user]
    refused = desk.run("remove", "shared.safetensors", "--yes", "-o", "json")
    assert (refused.code, user in refused.error["message"]) == (8, True)
    assert desk.keys() == ["Stable-diffusion/shared.safetensors"]


def test_nothing_is_removed_where_nobody_may_see_who_uses_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.safetensors").write_bytes(kind("sd1"))
    desk.upload("a.safetensors")

    def denied(_self: CloudFormation) -> list[StackView]:
        raise AwsError("could not list the stacks", aws_code="AccessDenied")

    monkeypatch.setattr(CloudFormation, "all", denied)
    assert desk.run("remove", "a.safetensors", "--yes").code == 5
    ran = desk.run("list")
    assert (ran.code, "which deployments use a bucket is not known" in ran.stderr) == (0, True)
    assert desk.keys() == ["Stable-diffusion/a.safetensors"]


def test_a_deployment_has_no_say_over_a_bucket_that_it_does_not_read(desk: Desk, tmp_path: Path) -> None:
    Path("sdctl.yaml").write_text(CONFIG)
    Path("used.safetensors").write_bytes(kind("sd1"))
    desk.upload("used.safetensors")
    deployment = Deployment(
        stack_name="sdoneks", region="us-west-2", target="aws", folder=str(Path.cwd()),
        outputs={"ModelBucket": "another-bucket"},
    )  # fmt: skip
    Deployments(home(os.environ)).record(deployment)
    document = desk.run("list", "-o", "json").document
    assert (document["models"][0]["used_by"], document["missing"]) == ([], {})
    assert desk.run("remove", "used.safetensors", "--yes").code == 0


def test_a_missing_checkpoint_is_told_with_the_command_that_brings_it(desk: Desk) -> None:
    ran = desk.run("list")
    assert "sdctl models upload hf:stable-diffusion-v1-5/" in ran.stderr
    assert desk.run("list", "-o", "json").document["missing"] == {
        "v1-5-pruned-emaonly.safetensors": ["sdruntime"]
    }


LIST = """models:
  - hf:who/what
  - source: here.safetensors
    to: lora
    name: renamed.safetensors
"""


def test_sync_brings_what_lacks_reports_what_is_extra_and_locks_hashes(desk: Desk, sources: Sources) -> None:
    sources.add_hugging_face("who/what", {"model.safetensors": kind("sd1")})
    Path("here.safetensors").write_bytes(kind("lora-sd1"))
    Path("models.yaml").write_text(LIST)
    put(desk, "VAE/extra.safetensors", kind("vae"))
    end = cli.last_line(desk.run("sync", "-o", "json"))
    assert desk.keys() == [
        "Lora/renamed.safetensors",
        "Stable-diffusion/model.safetensors",
        "VAE/extra.safetensors",
    ]
    assert end["extra"] == ["VAE/extra.safetensors"]
    lock = json.loads(Path("models.lock").read_text())
    assert [one["pinned"] for one in lock["models"]] == [
        f"hf:who/what/model.safetensors@{COMMIT}",
        "file:here.safetensors",
    ]
    assert all(len(one["sha256"]) == 64 for one in lock["models"])

    sources.asked.clear()
    again = cli.last_line(desk.run("sync", "-o", "json"))
    assert (again["models"], len(again["locked"]), sources.asked) == ([], 2, [])

    desk.objects.delete("Stable-diffusion/model.safetensors")
    assert [row["action"] for row in cli.last_line(desk.run("sync", "-o", "json"))["models"]] == ["uploaded"]
    assert f"/api/models/who/what/revision/{COMMIT}" in sources.paths()


def test_sync_refuses_what_is_no_longer_what_was_locked(desk: Desk, sources: Sources) -> None:
    sources.add_hugging_face("who/what", {"model.safetensors": kind("sd1")})
    Path("models.yaml").write_text("models:\n  - hf:who/what\n")
    assert desk.run("sync").code == 0
    desk.objects.delete("Stable-diffusion/model.safetensors")
    sources.add_hugging_face("who/what", {"model.safetensors": kind("sd1", seed=b"other")})
    refused = desk.run("sync", "-o", "json")
    assert "SHA-256" in refused.error["message"]
    assert desk.keys() == []
    assert json.loads(Path("models.lock").read_text())["models"] != []
    assert desk.run("sync", "--update").code == 0


def test_a_sync_locks_every_file_of_a_folder_and_sees_a_new_one(desk: Desk) -> None:
    Path("Lora").mkdir()
    Path("Lora/a.safetensors").write_bytes(kind("lora-sd1"))
    Path("models.yaml").write_text("models:\n  - Lora\n")
    assert cli.last_line(desk.run("sync", "-o", "json"))["locked"] == ["Lora/a.safetensors"]
    Path("Lora/b.safetensors").write_bytes(kind("lora-sdxl"))
    again = cli.last_line(desk.run("sync", "-o", "json"))
    assert [row["key"] for row in again["models"]] == ["Lora/b.safetensors"]
    assert [one["key"] for one in json.loads(Path("models.lock").read_text())["models"]] == [
        "Lora/a.safetensors",
        "Lora/b.safetensors",
    ]


def test_a_local_file_that_is_no_longer_what_was_locked_is_not_passed_over(desk: Desk) -> None:
    Path("a.safetensors").write_bytes(kind("sd1", seed=b"first"))
    Path("models.yaml").write_text("models:\n  - a.safetensors\n")
    assert desk.run("sync").code == 0
    Path("a.safetensors").write_bytes(kind("sd1", seed=b"other"))
    refused = desk.run("sync", "-o", "json")
    assert "SHA-256" in refused.error["message"]
    assert "--update --replace" in refused.error["hint"]
    assert b"first" in desk.body("Stable-diffusion/a.safetensors")
    assert desk.run("sync", "--update", "--replace").code == 0
    assert b"other" in desk.body("Stable-diffusion/a.safetensors")


def test_what_a_line_that_fails_has_in_the_bucket_is_not_called_extra(desk: Desk) -> None:
    Path("a.safetensors").write_bytes(kind("sd1"))
    Path("models.yaml").write_text("models:\n  - a.safetensors\n")
    assert desk.run("sync").code == 0
    Path("a.safetensors").unlink()
    end = cli.last_line(desk.run("sync", "--update", "-o", "json"))
    assert (end["extra"], end["locked"], len(end["failed"])) == ([], ["Stable-diffusion/a.safetensors"], 1)


BAD_LISTS = {
    "not YAML": "models: [",
    "another key": "models: []\nmodel: []",
    "no list": "models: {}",
    "an unknown key": "models:\n  - {source: hf:a/b, into: Lora}",
    "no source": "models:\n  - {to: Lora}",
    "a bad hash": "models:\n  - {source: hf:a/b, sha256: xyz}",
    "a number": "models:\n  - 7",
    "a folder outside": "models:\n  - {source: hf:a/b, to: ../x}",
}


@pytest.mark.parametrize("name", sorted(BAD_LISTS))
def test_a_list_that_is_not_right_is_refused_before_anything_is_read(desk: Desk, name: str) -> None:
    Path("models.yaml").write_text(BAD_LISTS[name])
    ran = desk.run("sync", "-o", "json")
    assert (ran.code, ran.error["code"]) == (int(ConfigError.exit_code), "config")


def test_uploading_models_yaml_syncs_it(desk: Desk) -> None:
    Path("here.safetensors").write_bytes(kind("sd1"))
    Path("models.yaml").write_text("models:\n  - here.safetensors\n")
    assert desk.run("upload", "models.yaml").code == 0
    assert Path("models.lock").is_file()


def test_an_interrupted_upload_leaves_at_once_and_goes_on_with_the_same_command(
    desk: Desk, sources: Sources, tmp_path: Path
) -> None:
    data = kind("sd1", fill_bytes=40 * 1024**2)
    url = sources.add("/model.safetensors", data, bytes_per_second=12 * 1024**2)
    env = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "SDCTL_", "PYTHON"))}
    process = subprocess.Popen(
        cli.command("models", "upload", url, "-b", desk.bucket), cwd=tmp_path, env=cli.process_env(env),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 40
    while not (desk.unfinished() and _stored_parts(desk)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    interrupted_at = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - interrupted_at < 5
    stored = _stored_parts(desk)
    assert desk.keys() == []
    sources.files["/model.safetensors"].bytes_per_second = 0
    sources.sent_bytes = 0
    done = subprocess.run(
        cli.command("models", "upload", url, "-b", desk.bucket), cwd=tmp_path, env=cli.process_env(env),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert desk.body("Stable-diffusion/model.safetensors") == data
    assert sources.sent_bytes <= len(data) - (stored - 8) * 8 * 1024**2
    assert desk.unfinished() == []


def _stored_parts(desk: Desk) -> int:
    upload = desk.unfinished()[0]
    found = desk.client.list_parts(Bucket=desk.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(found.get("Parts", ()))


def test_a_bucket_is_made_safe_and_a_second_time_changes_nothing(desk: Desk) -> None:
    made = cli.run("bucket", "create", "-o", "json").document
    name = made["name"]
    assert made["created"]
    assert name.startswith("sdoneks-model-bucket-")
    assert len(name.rpartition("-")[2]) == 4
    client = desk.client
    assert client.get_bucket_location(Bucket=name)["LocationConstraint"] == "us-west-2"
    assert set(client.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values()) == {
        True
    }
    assert "aws:SecureTransport" in client.get_bucket_policy(Bucket=name)["Policy"]
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 7
    assert client.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert {"Key": "sdctl:stack", "Value": "sdoneks"} in client.get_bucket_tagging(Bucket=name)["TagSet"]
    again = cli.run("bucket", "create", "-o", "json").document
    assert (again["created"], again["changes"]) == (False, [])


def test_an_own_bucket_keeps_its_policy_its_rules_and_its_tags(desk: Desk) -> None:
    client, name = desk.client, desk.bucket
    statement = {
        "Sid": "Mine", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{name}/*",
    }  # fmt: skip
    client.put_bucket_policy(
        Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": statement})
    )
    client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "team", "Value": "art"}]})
    assert cli.run("bucket", "create", name).code == 0
    policy = json.loads(client.get_bucket_policy(Bucket=name)["Policy"])
    assert [one["Sid"] for one in policy["Statement"]] == ["Mine", "TlsOnly"]
    assert {"Key": "team", "Value": "art"} in client.get_bucket_tagging(Bucket=name)["TagSet"]


def test_a_name_that_s3_does_not_allow_is_refused_with_the_rule(desk: Desk) -> None:
    ran = cli.run("bucket", "create", "-o", "json", "--", "My_Models")
    assert (ran.code, ran.error["code"]) == (3, "config")
    assert "'M' '_'" in ran.error["message"]


def test_a_bucket_of_another_region_or_of_someone_else_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = cli.run("bucket", "create", desk.bucket, "-R", "eu-central-1", "-o", "json")
    assert (elsewhere.code, "us-west-2" in elsewhere.error["message"]) == (3, True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "210987654321")
    foreign = cli.run("bucket", "create", desk.bucket, "-o", "json")
    assert (foreign.code, "someone else" in foreign.error["message"]) == (8, True)


def test_buckets_are_made_in_the_region_that_must_not_be_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert cli.run("bucket", "create", "-n", "virginia", "-o", "json").document["region"] == "us-east-1"


def test_the_list_shows_size_and_the_deployments_that_use_a_bucket(desk: Desk) -> None:
    name = cli.run("bucket", "create", "-n", "shown", "-o", "json").document["name"]
    desk.client.put_object(Bucket=name, Key="a", Body=bytes(1000))
    template = {
        "Parameters": {"ModelBucket": {"Type": "String"}},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }
    desk.aws.client("cloudformation").create_stack(
        StackName="shownStack", TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": "ModelBucket", "ParameterValue": name}],
        Tags=[{"Key": "sdctl:stack", "Value": "shown"}],
    )  # fmt: skip
    rows = {row["name"]: row for row in cli.run("bucket", "list", "-o", "json").document["buckets"]}
    assert (rows[name]["objects"], rows[name]["size_bytes"], rows[name]["used_by"]) == (1, 1000, ["shown"])
    assert desk.bucket not in rows  # one of the account's that has nothing to do with us


def test_the_list_shows_a_bucket_that_was_made_under_a_name_of_ones_own(desk: Desk) -> None:
    assert cli.run("bucket", "create", "paintings-of-mine").code == 0
    rows = {row["name"]: row for row in cli.run("bucket", "list", "-o", "json").document["buckets"]}
    assert rows["paintings-of-mine"]["used_by"] == []


def test_the_list_shows_the_bucket_that_is_configured_whoever_made_it(desk: Desk) -> None:
    Path("sdctl.yaml").write_text(f"modelBucketArn: arn:aws:s3:::{desk.bucket}\n")
    rows = {row["name"]: row for row in cli.run("bucket", "list", "-o", "json").document["buckets"]}
    assert rows[desk.bucket]["size_bytes"] == 0


def test_a_bucket_may_be_named_as_the_configuration_and_other_tools_write_it(desk: Desk) -> None:
    for written in (f"arn:aws:s3:::{desk.bucket}", f"s3://{desk.bucket}/"):
        found = cli.run("models", "list", "-b", written, "-o", "json").document
        assert found["bucket"] == desk.bucket
    assert cli.run("bucket", "create", f"arn:aws:s3:::{desk.bucket}").code == 0


@pytest.mark.parametrize("words", [("list",), ("create",)])
def test_on_a_machine_with_no_deployment_no_bucket_of_aws_is_meant(desk: Desk, words: tuple[str]) -> None:
    assert desk.keys() == []  # there is an AWS to be mistaken for it
    ran = cli.run("bucket", *words, "--target", "local", "-o", "json")
    assert (ran.code, ran.error["hint"]) == (4, "sdctl deploy --target local")


@pytest.mark.parametrize("words", [("list",), ("verify",), ("remove", "x", "--yes"), ("sync",)])
def test_every_command_says_how_a_missing_bucket_is_made(desk: Desk, words: tuple[str, ...]) -> None:
    Path("models.yaml").write_text("models: []\n")
    ran = cli.run("models", *words, "-b", "not-there-at-all", "-o", "json")
    assert (ran.code, ran.error["hint"]) == (4, "sdctl bucket create not-there-at-all")


def test_a_sync_of_which_everything_failed_does_not_say_that_nothing_was_to_be_done(desk: Desk) -> None:
    Path("models.yaml").write_text("models:\n  - nothing.safetensors\n")
    ran = desk.run("sync")
    assert (ran.code, ran.stdout.strip()) == (4, "")
