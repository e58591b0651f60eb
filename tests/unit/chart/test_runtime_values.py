"""A runtime's release from the configuration: chart, names, the stacks' outputs, and the user's last word."""

from __future__ import annotations

from typing import Any

import pytest

from sdctl.config.model import Config
from sdctl.render.runtime_values import RuntimeFacts, merged, runtime_release, unpinned_images
from sdctl.render.stacks import Output, resolve
from sdctl.render.values import agent_environment
from support import chart

DIGEST = "sha256:" + "0" * 64
FACTS = RuntimeFacts("123456789012", "us-west-2", "farm-models")
MIRROR = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl"


class EveryOutput(dict[str, Any]):
    """Outputs of every stack: each is its own name."""

    def __missing__(self, stack: str) -> Any:
        return {
            "ClusterSecurityGroupId": "sg-0123456789abcdef0", "SubnetIds": "subnet-0a,subnet-0b",
            "GpuInstanceProfileName": "gpu", "QueueUrl": "https://sqs.us-west-2.amazonaws.com/123456789012/q",
            "DeadLetterQueueUrl": "https://sqs.us-west-2.amazonaws.com/123456789012/dead",
            "sdNotificationOutputARN": "arn:aws:sns:us-west-2:123456789012:results",
            "OutputS3Bucket": "results", "TaskTableName": "tasks", "digest": DIGEST,
        }  # fmt: skip


def config(runtime: dict[str, Any] | None = None, **fields: Any) -> Config:
    one = {"name": "art", "namespace": "images", "type": "sdwebui", "modelFilename": "a.safetensors"}
    return Config.model_validate({"stackName": "farm", "modelsRuntime": [one | (runtime or {})], **fields})


def values(given: Config, facts: RuntimeFacts = FACTS) -> dict[str, Any]:
    return dict(runtime_release(given, given.runtimes[0], facts).values)


def outputs(value: Any) -> set[Output]:
    if isinstance(value, Output):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {found for one in inner for found in outputs(one)}


def render(given: Config, facts: RuntimeFacts = FACTS) -> list[chart.Object]:
    return chart.render(resolve(values(given, facts), EveryOutput()))


def test_the_release_is_the_runtimes_in_its_namespace_with_the_chart_that_came_along() -> None:
    given = config()
    release = runtime_release(given, given.runtimes[0], FACTS)
    assert (release.name, release.namespace, release.chart.is_local) == ("art", "images", True)
    assert release.chart.reference == str(chart.CHART)


@pytest.mark.parametrize(
    ("repository", "wanted"),
    [
        ("oci://registry.example/charts/sd-on-eks", ("oci://registry.example/charts/sd-on-eks", "1.2.0", "")),
        ("https://charts.example/", ("sd-on-eks", "1.2.0", "https://charts.example/")),
    ],
)
def test_a_chart_of_ones_own_comes_from_where_the_configuration_says(
    repository: str, wanted: tuple[str, str, str]
) -> None:
    given = config({"chartRepository": repository, "chartVersion": "1.2.0"})
    found = runtime_release(given, given.runtimes[0], FACTS).chart
    assert (found.reference, found.version, found.repository) == wanted


def test_what_only_stacks_know_is_left_to_them() -> None:
    assert outputs(values(config())) == {
        Output("farm-cluster", "GpuInstanceProfileName"), Output("farm-cluster", "SubnetIds"),
        Output("farm-cluster", "ClusterSecurityGroupId"), Output("farm-runtime-art", "QueueUrl"),
        Output("farm-runtime-art", "DeadLetterQueueUrl"), Output("farmStack", "sdNotificationOutputARN"),
        Output("farmStack", "OutputS3Bucket"), Output("farmStack", "TaskTableName"),
        Output("image public.ecr.aws/bingjiao/sd-on-eks/sdwebui", "digest"),
    }  # fmt: skip


def test_the_agent_is_set_as_the_local_one_is() -> None:
    """Both targets name the same settings with the same values; a pod's has some of its own."""
    given = config(
        queueAgent={"notifyRunning": True, "maxAttempts": 5, "inputAllowlist": ["a.example", "s3://b"]}
    )
    stacks = {name: EveryOutput()[name] for name in ("farmStack", "farm-runtime-art")}
    local = agent_environment(given, given.runtimes[0], stacks, region="us-west-2")
    pod = chart.environment(render(given), "queue-agent")
    assert pod.items() >= local.items()
    assert pod.keys() - local.keys() == {
        "API_BASE_URL", "AWS_EC2_METADATA_DISABLED", "DRAIN_SECONDS", "METRICS_PORT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }  # fmt: skip
    assert pod["INPUT_ALLOWLIST"] == "a.example,s3://b"


def test_a_runtimes_checkpoint_is_what_its_server_starts_with() -> None:
    assert chart.environment(render(config()), "inference-api")["SD_MODEL_CHECKPOINT"] == "a.safetensors"
    comfy = render(config({"type": "comfyui", "modelFilename": None}))
    assert "SD_MODEL_CHECKPOINT" not in chart.environment(comfy, "inference-api")
    dynamic = chart.environment(render(config({"dynamicModel": True})), "queue-agent")
    assert dynamic["DYNAMIC_SD_MODEL"] == "true"


def test_pods_have_the_account_that_the_role_is_given_to() -> None:
    objects = render(config())
    assert chart.pod(objects)["spec"]["serviceAccountName"] == "art"
    assert chart.find(objects, "ServiceAccount")["metadata"]["name"] == "art"


def test_the_agents_image_comes_from_the_accounts_own_registry() -> None:
    from sdctl import __version__

    image = chart.container(render(config()), "queue-agent")["image"]
    assert image == f"123456789012.dkr.ecr.us-west-2.amazonaws.com/sd-on-eks/queue-agent:{__version__}"
    china = RuntimeFacts("123456789012", "cn-north-1", "m")
    assert china.registry == "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"


def test_everything_comes_from_the_mirror_where_there_is_one() -> None:
    images = {one["image"] for one in all_containers(render(config(imageRegistry=MIRROR)))}
    assert all(image.startswith(f"{MIRROR}/") for image in images)
    assert f"{MIRROR}/bingjiao/sd-on-eks/sdwebui@{DIGEST}" in images


def all_containers(objects: list[chart.Object]) -> list[chart.Object]:
    spec = chart.pod(objects)["spec"]
    return [*spec["initContainers"], *spec["containers"]]


def test_evaluation_images_are_pinned_by_digest_and_ones_own_are_left_alone() -> None:
    evaluation = "public.ecr.aws/bingjiao/sd-on-eks/sdwebui"
    assert unpinned_images(config()) == (evaluation,)
    facts = RuntimeFacts("123456789012", "us-west-2", "m", {evaluation: DIGEST})
    assert values(config(), facts)["runtime"]["inferenceApi"]["image"] == {"digest": DIGEST}
    image = {"repository": "registry.example/server", "tag": "2"}
    own = config({"extraValues": {"runtime": {"inferenceApi": {"image": image}}}})
    assert unpinned_images(own) == ()
    assert chart.container(render(own), "inference-api")["image"] == "registry.example/server:2"


def test_extra_values_go_before_everything_key_by_key() -> None:
    extra = {"runtime": {"queueAgent": {"settings": {"MAX_ATTEMPTS": "9"}}, "scaling": {"queueLength": 2}}}
    found = values(config({"extraValues": extra}))["runtime"]
    assert found["scaling"] == {"queueLength": 2}
    assert found["queueAgent"]["settings"]["MAX_ATTEMPTS"] == "9"
    assert "TASK_TABLE" in found["queueAgent"]["settings"]


def test_ones_own_role_subnets_and_groups_take_the_place_of_the_stacks() -> None:
    instead = {"role": "mine", "subnetSelector": {"a": "b"}, "securityGroupSelector": {"c": "d"}}
    given = config({"extraValues": {"karpenter": {"nodeTemplate": instead}}})
    spec = chart.find(render(given), "EC2NodeClass")["spec"]
    assert (spec["role"], spec["subnetSelectorTerms"], spec["securityGroupSelectorTerms"]) == (
        "mine", [{"tags": {"a": "b"}}], [{"tags": {"c": "d"}}],
    )  # fmt: skip
    assert "instanceProfile" not in spec


def test_tags_key_cache_mode_and_tracing_reach_the_chart() -> None:
    key = "arn:aws:kms:us-west-2:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
    given = config({"imageCache": "none"}, tags={"team": "art"}, kmsKeyArn=key, tracing=False)
    objects = render(given)
    spec = chart.find(objects, "EC2NodeClass")["spec"]
    assert (
        spec["tags"].items() >= {"team": "art", "sdctl:stack": "farm", "sdctl:runtime": chart.RELEASE}.items()
    )
    assert all(one["ebs"]["kmsKeyID"] == key for one in spec["blockDeviceMappings"])
    assert "userData" not in spec
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in chart.environment(objects, "queue-agent")


def test_the_guides_configuration_becomes_a_release_that_renders() -> None:
    extra = {
        "runtime": {
            "inferenceApi": {"image": {"repository": "registry.example/sdwebui", "tag": "latest"}},
            "queueAgent": {"image": {"repository": "registry.example/queue-agent", "tag": "latest"}},
        },
        "karpenter": {
            "nodeTemplate": {"amiFamily": "Bottlerocket", "dataVolume": {"snapshotID": "snap-1234567890"}},
            "provisioner": {"instanceType": ["g5.xlarge", "g5.2xlarge"],
                            "capacityType": {"onDemand": True, "spot": True}},
        },
    }  # fmt: skip
    objects = render(config({"extraValues": extra}))
    data = chart.find(objects, "EC2NodeClass")["spec"]["blockDeviceMappings"][1]["ebs"]
    assert data["snapshotID"] == "snap-1234567890"


def test_merging_replaces_lists_and_keeps_what_is_not_named() -> None:
    assert merged({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3]}, "e": 2}) == {
        "a": {"b": 1, "c": [3]}, "d": 1, "e": 2,
    }  # fmt: skip
