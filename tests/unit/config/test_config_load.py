"""The configuration: what is accepted, what is refused and how it is said, and what wins over what."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sdctl.config.example import EXAMPLE_FILE, example_text
from sdctl.config.load import Loaded, Overrides, check_region, json_schema, load_config
from sdctl.config.model import Config
from sdctl.errors import ConfigError

GUIDE = """\
stackName: sdoneks
modelBucketArn: arn:aws-cn:s3:::${MODEL_BUCKET} # the partition is aws-cn here
APIGW:
  stageName: dev
  throttle:
    rateLimit: 30
    burstLimit: 50
modelsRuntime:
- name: sdruntime
  namespace: "default"
  modelFilename: "v1-5-pruned-emaonly.safetensors"
  dynamicModel: false
  # chartRepository: "http://example.com/"
  type: sdwebui
  extraValues:
    runtime:
      inferenceApi:
        image:
          repository: 123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn/sd-on-eks/sdwebui
          tag: latest
    karpenter:
      nodeTemplate:
        amiFamily: Bottlerocket
        dataVolume:
          snapshotID: snap-1234567890
      provisioner:
        instanceType:
        - "g5.xlarge"
        - "g5.2xlarge"
        capacityType:
          onDemand: true
          spot: true
"""


def load(tmp_path: Path, text: str, overrides: Overrides | None = None, **env: str) -> Loaded:
    path = tmp_path / "sdctl.yaml"
    path.write_text(text)
    return load_config(path, overrides or Overrides(), env)


def problems(tmp_path: Path, document: dict[str, Any] | str) -> list[str]:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return caught.value.message.splitlines()[1:]


def with_runtime(**values: Any) -> dict[str, Any]:
    return {"modelsRuntime": [{"name": "a", "type": "sdwebui"} | values]}


def image(given: Any) -> dict[str, Any]:
    return {"runtime": {"inferenceApi": {"image": given}}}


def test_an_image_needs_a_version_where_the_chart_fills_none_in(tmp_path: Path) -> None:
    mine = {"repository": "example.com/mine"}
    for given, more in (
        (mine | {"tag": "1"}, {}), (mine | {"digest": f"sha256:{'0' * 64}"}, {}), ({"tag": "1"}, {}),
        (mine, {"chartRepository": "https://charts.example.com"}),
    ):  # fmt: skip
        load(tmp_path, yaml.safe_dump(with_runtime(extraValues=image(given), **more)))


def test_the_guides_file_is_accepted_unchanged(tmp_path: Path) -> None:
    loaded = load(tmp_path, GUIDE, MODEL_BUCKET="my-models")
    config = loaded.config
    assert (config.stack_name, config.model_bucket) == ("sdoneks", "my-models")
    assert (config.api.stage_name, config.api.rate_limit, config.api.burst_limit) == ("dev", 30, 50)
    runtime = config.runtimes[0]
    assert (runtime.name, runtime.type, runtime.checkpoint) == (
        "sdruntime", "sdwebui", "v1-5-pruned-emaonly.safetensors",
    )  # fmt: skip
    assert (runtime.snapshot_id, runtime.uses_snapshot) == ("snap-1234567890", True)
    assert [line.split(":")[0] for line in loaded.warnings] == [
        "modelsRuntime/0/extraValues/runtime/inferenceApi/image/tag"
    ]


@pytest.mark.parametrize("bucket", ["${MODEL_BUCKET}", "<bucket name>"])
def test_a_placeholder_that_nothing_fills_is_no_bucket_and_a_warning(tmp_path: Path, bucket: str) -> None:
    loaded = load(tmp_path, f"modelBucketArn: arn:aws:s3:::{bucket}\n")
    assert loaded.config.model_bucket is None
    assert loaded.warnings == (
        f'modelBucketArn: "arn:aws:s3:::{bucket}" is a placeholder; taken as no bucket',
    )


def test_upstreams_cluster_components_are_accepted(tmp_path: Path) -> None:
    config = load(tmp_path, "clusterComponents: {instanceType: m7g.xlarge, desiredCount: 3}").config
    assert (config.cluster_components.instance_type, config.cluster_components.desired_count) == (
        "m7g.xlarge",
        3,
    )


def test_the_example_loads_without_a_warning_and_shows_the_defaults() -> None:
    loaded = load_config(EXAMPLE_FILE, Overrides(), {})
    assert loaded.warnings == ()
    plain = loaded.config.model_dump()
    for runtime in plain["runtimes"]:
        runtime["extra_values"] = {}
    assert plain == Config().model_dump()


def test_every_commented_key_of_the_example_is_a_key() -> None:
    """Taking the comment signs away must leave a valid file: no example rots in a comment."""
    text = re.sub(r"^( *)# (?= *[a-zA-Z]+:( |$))", r"\1", example_text(), flags=re.MULTILINE)
    document = yaml.safe_load(text)
    assert document["modelsRuntime"][0]["extraValues"]["karpenter"]["nodeTemplate"]["dataVolume"][
        "snapshotID"
    ]
    config = Config.model_validate(document)
    assert config.network.vpc_id
    assert set(document) == {field.alias for field in Config.model_fields.values()}


def test_without_a_file_the_guides_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config(None, Overrides(), {})
    assert loaded.path is None
    assert loaded.config == Config()
    assert [runtime.name for runtime in loaded.config.runtimes] == ["sdruntime"]


def test_sdctl_yaml_is_taken_before_config_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("stackName: second")
    assert load_config(None, Overrides(), {}).config.stack_name == "second"
    Path("sdctl.yaml").write_text("stackName: first")
    assert load_config(None, Overrides(), {}).config.stack_name == "first"


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    text = "stackName: from-file"
    assert load(tmp_path, text).config.stack_name == "from-file"
    assert load(tmp_path, text, SDCTL_STACK_NAME="from-env").config.stack_name == "from-env"
    flag = Overrides(stack_name="from-flag")
    assert load(tmp_path, text, flag, SDCTL_STACK_NAME="from-env").config.stack_name == "from-flag"


def test_flags_make_the_default_runtime_another_one() -> None:
    overrides = Overrides(
        model_bucket="my-models", snapshot="snap-0123", runtime_name="Comfy", runtime_type="comfyui"
    )
    config = load_config(Path("/dev/null"), overrides, {}).config
    runtime = config.runtimes[0]
    assert config.model_bucket == "my-models"
    assert (runtime.name, runtime.type, runtime.model_filename, runtime.snapshot_id) == (
        "comfy", "comfyui", None, "snap-0123",
    )  # fmt: skip
    assert runtime.extra_value("karpenter", "nodeTemplate", "amiFamily") == "Bottlerocket"


def test_a_runtime_flag_must_name_one_of_several_runtimes(tmp_path: Path) -> None:
    text = json.dumps({"modelsRuntime": [{"name": "a", "type": "comfyui"}, {"name": "b", "type": "comfyui"}]})
    config = load(tmp_path, text, Overrides(runtime_name="B", runtime_type="sdwebui")).config
    assert [runtime.type for runtime in config.runtimes] == ["comfyui", "sdwebui"]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, Overrides(runtime_type="sdwebui"))
    assert caught.value.hint == "add --runtime-name with one of a, b, or change the file"


def test_a_snapshot_flag_holds_for_every_runtime(tmp_path: Path) -> None:
    text = json.dumps({"modelsRuntime": [{"name": "a", "type": "comfyui"}, {"name": "b", "type": "comfyui"}]})
    config = load(tmp_path, text, Overrides(snapshot="snap-1")).config
    assert [runtime.snapshot_id for runtime in config.runtimes] == ["snap-1", "snap-1"]


def test_a_name_in_capitals_is_deployed_in_small_letters_with_a_warning(tmp_path: Path) -> None:
    loaded = load(tmp_path, json.dumps(with_runtime(name="SdRuntime")))
    assert loaded.config.runtimes[0].name == "sdruntime"
    assert loaded.warnings == ('modelsRuntime/0/name: "SdRuntime" is deployed as "sdruntime"',)
    assert loaded.config.runtime("SDRUNTIME") is loaded.config.runtimes[0]


SNAPSHOT = {"karpenter": {"nodeTemplate": {"dataVolume": {"snapshotID": "snap-1"}}}}
PROBLEMS: list[tuple[str, dict[str, Any], str]] = [
    (
        "type",
        with_runtime(type="comfy"),
        'modelsRuntime/0/type: "comfy" is not one of comfyui, sdwebui; did you mean "comfyui"?',
    ),
    (
        "unknown key",
        with_runtime(modelFileName="x"),
        'modelsRuntime/0/modelFileName: unknown key; did you mean "modelFilename"?',
    ),
    ("unknown top key", {"apigw": {}}, "apigw: unknown key"),
    ("unknown inner key", {"APIGW": {"throttle": {"rate": 1}}}, "APIGW/throttle/rate: unknown key"),
    ("missing", {"modelsRuntime": [{"type": "comfyui"}]}, "modelsRuntime/0/name: is required"),
    (
        "text for a number",
        {"APIGW": {"throttle": {"burstLimit": "9"}}},
        'APIGW/throttle/burstLimit: "9" is not a whole number',
    ),
    (
        "text for a flag",
        with_runtime(dynamicModel="no"),
        'modelsRuntime/0/dynamicModel: "no" is not true or false',
    ),
    ("number for text", with_runtime(modelFilename=15), "modelsRuntime/0/modelFilename: 15 is not a string"),
    ("object for text", {"stackName": {}}, "stackName: an object is not a string"),
    ("list for an object", {"APIGW": []}, "APIGW: an array is not an object"),
    ("object for a list", {"modelsRuntime": {}}, "modelsRuntime: an object is not a list"),
    ("no runtime", {"modelsRuntime": []}, "modelsRuntime: has 0 entries"),
    (
        "more runtimes than a topic may have filter policies",
        {"modelsRuntime": [{"name": f"r{number}", "type": "comfyui"} for number in range(201)]},
        "modelsRuntime: has 201 entries; at most 200 allowed",
    ),
    (
        "negative",
        {"APIGW": {"throttle": {"rateLimit": -1}}},
        "APIGW/throttle/rateLimit: -1: input should be greater",
    ),
    ("retention", {"logRetentionDays": 31}, "logRetentionDays: 31 is not one of 1, 3, 5, 7, 14, 30"),
    ("stack name", {"stackName": "sd on eks"}, 'stackName: "sd on eks" does not match'),
    (
        "bucket name",
        {"modelBucketArn": "arn:aws:s3:::My_Models"},
        'modelBucketArn: "My_Models" is not a bucket name',
    ),
    ("bucket without arn", {"modelBucketArn": "my-models"}, 'modelBucketArn: "my-models" does not match'),
    (
        "name is no label",
        with_runtime(name="sd_runtime"),
        'modelsRuntime/0/name: "sd_runtime" is not a DNS label',
    ),
    (
        "same name",
        {"modelsRuntime": [{"name": "A", "type": "comfyui"}, {"name": "a", "type": "comfyui"}]},
        'modelsRuntime/1/name: "a" is also the name of modelsRuntime/0',
    ),
    (
        "same model",
        {
            "modelsRuntime": [
                {"name": "a", "type": "sdwebui", "modelFilename": "m.safetensors"},
                {"name": "b", "type": "sdwebui", "modelFilename": "M.ckpt"},
            ]
        },
        'modelsRuntime/1/modelFilename: "M.ckpt" is also the model of modelsRuntime/0',
    ),
    (
        "snapshot id",
        with_runtime(extraValues={"karpenter": {"nodeTemplate": {"dataVolume": {"snapshotID": "vol-1"}}}}),
        'modelsRuntime/0/extraValues/karpenter/nodeTemplate/dataVolume/snapshotID: "vol-1" is not',
    ),
    (
        "snapshot missing",
        with_runtime(imageCache="snapshot"),
        "modelsRuntime/0/imageCache: snapshot needs extraValues",
    ),
    (
        "image without a version",
        with_runtime(extraValues=image({"repository": "example.com/mine"})),
        'modelsRuntime/0/extraValues/runtime/inferenceApi/image: "example.com/mine" has neither',
    ),
    (
        "image as a text",
        with_runtime(extraValues=image("example.com/mine:1")),
        "modelsRuntime/0/extraValues/runtime/inferenceApi/image: is no section",
    ),
    (
        "snapshot and soci",
        with_runtime(imageCache="soci", extraValues=SNAPSHOT),
        'modelsRuntime/0/imageCache: "soci" does not go with a snapshotID',
    ),
    (
        "snapshot and RAID0",
        with_runtime(
            extraValues={
                "karpenter": {
                    "nodeTemplate": {"instanceStorePolicy": "RAID0", "dataVolume": {"snapshotID": "snap-1"}}
                }
            }
        ),
        "modelsRuntime/0/extraValues/karpenter/nodeTemplate/instanceStorePolicy: hides the image cache",
    ),
    (
        "vpc without subnets",
        {"network": {"vpcId": "vpc-01234567"}},
        "network/subnetIds: an existing VPC needs",
    ),
    ("subnets without vpc", {"network": {"subnetIds": ["subnet-01234567"]}}, "network/vpcId: is required"),
    (
        "cidr",
        {"network": {"vpcCidr": "10.0.0.0/24"}},
        'network/vpcCidr: "10.0.0.0/24" is not a private /16 network',
    ),
    ("no way to images", {"network": {"natMode": "none"}}, "network/natMode: none leaves no way to public"),
    ("kubernetes", {"kubernetesVersion": "1.9.1"}, 'kubernetesVersion: "1.9.1" does not match'),
    ("one zone", {"network": {"zones": ["us-east-1a"]}}, "network/zones: has 1 entry; EKS needs"),
    ("same zone", {"network": {"zones": ["us-east-1a"] * 2}}, "network/zones: names a zone twice"),
    ("zone id", {"network": {"zones": ["use1-az1", "us-east-1a"]}}, 'network/zones/0: "use1-az1" does not'),
    (
        "zones of an existing vpc",
        {
            "network": {
                "vpcId": "vpc-01234567",
                "subnetIds": ["subnet-01234567", "subnet-12345678"],
                "zones": ["us-east-1a", "us-east-1b"],
            }
        },
        "network/zones: does not go with vpcId",
    ),
    (
        "same subnet",
        {
            "network": {
                "vpcId": "vpc-01234567",
                "subnetIds": ["subnet-01234567", "subnet-01234567", "subnet-12345678"],
            }
        },
        "network/subnetIds: names a subnet twice",
    ),
    (
        "private addresses on the public endpoint",
        {"network": {"publicAccessCidrs": ["10.0.0.0/8"]}},
        'network/publicAccessCidrs/0: "10.0.0.0/8" is private',
    ),
    (
        "bits outside of the network",
        {"network": {"publicAccessCidrs": ["203.1.113.7/24"]}},
        'network/publicAccessCidrs/0: "203.1.113.7/24" is not an IPv4 network as 10.0.0.0/16: 203.',
    ),
    (
        "no network",
        {"network": {"vpcCidr": "10.0.0.0/33"}},
        'network/vpcCidr: "10.0.0.0/33" is not an IPv4 network as 10.0.0.0/16: ',
    ),
    (
        "instance type",
        {"clusterComponents": {"instanceType": "m7g.larger"}},
        'clusterComponents/instanceType: "m7g.larger" does not match',
    ),
    ("budget without address", {"budget": {"monthlyAmount": 5}}, "budget/email: is required"),
    ("address", {"alarms": {"email": "me"}}, 'alarms/email: "me" does not match'),
    ("alias of a key", {"kmsKeyArn": "alias/a"}, 'kmsKeyArn: "alias/a" does not match'),
    ("registry with scheme", {"imageRegistry": "https://a/b"}, 'imageRegistry: "https://a/b" does not match'),
    (
        "domain",
        {
            "APIGW": {
                "customDomain": {
                    "domainName": "a",
                    "certificateArn": "arn:aws:acm:eu-west-1:123456789012:c/1",
                }
            }
        },
        'APIGW/customDomain/domainName: "a" does not match',
    ),
    ("tuner", {"ebsThroughputTuner": {"iops": 1}}, "ebsThroughputTuner/iops: 1: input should be greater"),
    ("our own tag", {"tags": {"sdctl:stack": "x"}}, 'tags/sdctl:stack: keys that begin with "aws:" or'),
]

KEY = "key/01234567-89ab-cdef-0123-456789abcdef"
ELSEWHERE: list[tuple[str, dict[str, Any], list[str]]] = [
    ("us-west-2", {"modelBucketArn": "arn:aws:s3:::models"}, []),
    (
        "cn-north-1",
        {"modelBucketArn": "arn:aws:s3:::models", "budget": {"monthlyAmount": 9, "email": "a@b.example"}},
        ["modelBucketArn", "budget"],
    ),
    ("us-west-2", {"kmsKeyArn": f"arn:aws:kms:us-east-1:123456789012:{KEY}"}, ["kmsKeyArn"]),
    ("us-west-2", {"network": {"zones": ["us-west-2a", "us-west-1b"]}}, ["network/zones/1"]),
    ("us-gov-west-1", {"permissionsBoundaryArn": "arn:aws:iam::aws:policy/x"}, ["permissionsBoundaryArn"]),
    (
        "cn-north-1",
        {
            "imageRegistry": "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl",
            "kmsKeyArn": f"arn:aws-cn:kms:cn-north-1:123456789012:{KEY}",
        },
        [],
    ),
    (
        "eu-west-1",
        {
            "APIGW": {
                "customDomain": {
                    "domainName": "a.example",
                    "certificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/1",
                }
            }
        },
        ["APIGW/customDomain/certificateArn"],
    ),
]


@pytest.mark.parametrize(("region", "document", "paths"), ELSEWHERE)
def test_what_does_not_fit_the_region_is_told_at_once(
    tmp_path: Path, region: str, document: dict[str, Any], paths: list[str]
) -> None:
    loaded = load(tmp_path, json.dumps(document))
    if not paths:
        check_region(loaded, region)
        return
    with pytest.raises(ConfigError) as caught:
        check_region(loaded, region)
    assert [line.split(":")[0] for line in caught.value.message.splitlines()[1:]] == paths


def test_no_address_at_all_keeps_the_kubernetes_api_inside(tmp_path: Path) -> None:
    config = load(tmp_path, "network: {publicAccessCidrs: []}").config
    assert config.network.public_access_cidrs == ()


@pytest.mark.parametrize(
    ("document", "line"), [case[1:] for case in PROBLEMS], ids=[case[0] for case in PROBLEMS]
)
def test_a_problem_is_one_line_with_its_path_and_what_was_found(
    tmp_path: Path, document: dict[str, Any], line: str
) -> None:
    found = problems(tmp_path, document)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    document = {
        "stackName": 1,
        "colour": "red",
        "modelsRuntime": [{"name": "a", "type": "x"}, {"type": "comfyui"}],
    }
    assert sorted(line.split(":")[0] for line in problems(tmp_path, document)) == [
        "colour", "modelsRuntime/0/type", "modelsRuntime/1/name", "stackName",
    ]  # fmt: skip


def test_what_is_wrong_between_fields_is_told_with_what_is_wrong_in_one(tmp_path: Path) -> None:
    document = {
        "colour": "red",
        "budget": {"monthlyAmount": 5},
        "imageRegistry": "https://a/b",
        "network": {
            "vpcId": "mine",
            "natMode": "none",
            "subnetIds": ["subnet-01234567"],
            "zones": ["b", "c"],
        },
        "tags": {"aws:x": "y"},
        "modelsRuntime": [
            {"name": "a_b", "type": "comfy", "extraValues": SNAPSHOT, "imageCache": "soci"},
            {"name": "c", "type": "comfyui", "dynamicModle": True},
            {"name": "c", "type": "comfyui"},
            {"type": "comfyui"},
        ],
    }
    assert sorted(line.split(": ")[0] for line in problems(tmp_path, document)) == [
        "budget/email", "colour", "imageRegistry", "modelsRuntime/0/imageCache", "modelsRuntime/0/name",
        "modelsRuntime/0/type", "modelsRuntime/1/dynamicModle", "modelsRuntime/2/name",
        "modelsRuntime/3/name", "network/vpcId", "network/zones/0", "network/zones/1", "tags/aws:x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "document", [{"modelsRuntime": [1]}, {"modelsRuntime": [], "x": 1}, {"network": [], "tags": {"aws:x": 1}}]
)
def test_what_is_wrong_everywhere_is_told_once(tmp_path: Path, document: dict[str, Any]) -> None:
    lines = problems(tmp_path, document)
    assert len(lines) == len(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stackName: a\nstackName: b\n", 'sdctl.yaml:2:1: key "stackName" stands here twice'),
        ("APIGW:\n  stageName: [dev\n", "sdctl.yaml:3:1: "),
        ("a: b: c\n", "sdctl.yaml:1:5: "),
        ("? [a]\n: b\n", "sdctl.yaml:1:3: a key must be text"),
        ("- a\n", "holds an array, not keys and values"),
        ("!!python/object:os.system {}\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_with_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in caught.value.message


def test_a_file_that_does_not_exist_names_init() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Path("nowhere.yaml"), Overrides(), {})
    assert caught.value.message == "nowhere.yaml does not exist"
    assert caught.value.hint == "sdctl init writes one"


def test_placeholders_outside_the_bucket_stay_text(tmp_path: Path) -> None:
    values = {"runtime": {"inferenceApi": {"extraEnv": {"HOME_DIR": "${HOME}/x"}}}}
    config = load(tmp_path, json.dumps(with_runtime(extraValues=values)), HOME="/root").config
    assert config.runtimes[0].extra_values == values


def test_a_key_with_everything_below_it_commented_out_is_absent(tmp_path: Path) -> None:
    text = "tags:\nAPIGW:\n  throttle:\nmodelsRuntime:\n- name: a\n  type: comfyui\n  extraValues:\n"
    config = load(tmp_path, text).config
    assert config == Config.model_validate(with_runtime(type="comfyui"))
    kept = load(tmp_path, json.dumps(with_runtime(extraValues={"a": None}))).config
    assert kept.runtimes[0].extra_values == {"a": None}


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "modelsRuntime:\n- &first {name: a, type: comfyui}\n- {<<: *first, name: b}\n"
    assert [runtime.name for runtime in load(tmp_path, text).config.runtimes] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    ["modelsRuntime:\n- name: a\n  type: comfyui\n  extraValues: &x {y: *x}\n", "APIGW: &x {throttle: *x}\n"],
)
def test_a_file_that_contains_itself_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, text)


def test_dates_and_versions_in_extra_values_stay_text(tmp_path: Path) -> None:
    labels = "{runtime: {labels: {released: 2026-11-22}}}"
    text = f"modelsRuntime: [{{name: a, type: comfyui, extraValues: {labels}}}]"
    assert load(tmp_path, text).config.runtimes[0].extra_values == {
        "runtime": {"labels": {"released": "2026-11-22"}}
    }


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().stack_name = "other"


def test_the_schema_knows_every_key_of_the_example_and_closes_every_section() -> None:
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(yaml.safe_load(example_text())) <= set(schema["properties"])
    sections = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in sections if "properties" in part)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "sdctl.yaml cannot be read: Is a directory"),
        (lambda path: path.symlink_to("nowhere"), "sdctl.yaml does not exist"),
        (lambda path: path.write_bytes(b"stackName: \xff"), "sdctl.yaml is not UTF-8 text: byte 11 is wrong"),
        (lambda path: path.write_text("modelsRuntime: []"), "has 0 entries; at least 1 needed"),
    ],
)
def test_a_file_that_cannot_be_used_is_never_taken_as_none(
    make: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "sdctl.yaml")
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(None, Overrides(), {})
