"""The pod of a runtime: what runs in it, with what rights, and how it ends."""

from __future__ import annotations

import ipaddress
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdctl_agent.settings import load_settings
from support import chart

# The longest that a poll of the agent lasts, https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
POLL_SECONDS = 20
# How long Mountpoint's own pods end: https://github.com/awslabs/mountpoint-s3-csi-driver/blob/main/docs/TROUBLESHOOTING.md
MOUNTPOINT_SECONDS = 600
SPOT_NOTICE_SECONDS = 120


def all_containers(name: str) -> list[chart.Object]:
    spec = chart.pod(chart.render_ci(name))["spec"]
    return [*spec["initContainers"], *spec["containers"]]


@pytest.mark.parametrize("name", chart.CI)
def test_no_busy_pod_can_be_lost(name: str) -> None:
    """Derive from what is rendered alone that a task has the time that it was promised."""
    objects = chart.render_ci(name)
    spec = chart.pod(objects)["spec"]
    drain = int(chart.environment(objects, "queue-agent")["DRAIN_SECONDS"])
    grace = spec["terminationGracePeriodSeconds"]
    assert POLL_SECONDS + drain < grace <= MOUNTPOINT_SECONDS
    # The server is a native sidecar and the agent is not: the kubelet stops it after the agent has ended.
    assert chart.container(objects, "inference-api")["restartPolicy"] == "Always"
    assert [one["name"] for one in spec["containers"]] == ["queue-agent"]
    if "NodePool" in chart.kinds(objects):
        pool = chart.find(objects, "NodePool")["spec"]
        assert chart.seconds(pool["template"]["spec"]["terminationGracePeriod"]) > grace
        assert pool["disruption"]["consolidationPolicy"] == "WhenEmpty"
        protected = chart.pod(objects)["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"]
        assert chart.seconds(protected) >= 3600  # the agent's own limit of a task, unless set
        [capacity] = [
            one["values"]
            for one in pool["template"]["spec"]["requirements"]
            if one["key"] == "karpenter.sh/capacity-type"
        ]
        # Karpenter tells a protected pod only when no more than the pod's own time is left of the node's.
        told = chart.seconds(pool["template"]["spec"]["terminationGracePeriod"]) - grace
        assert "spot" not in capacity or told + drain + POLL_SECONDS < SPOT_NOTICE_SECONDS
    if "ScaledObject" in chart.kinds(objects):
        assert_no_fewer_pods_than_running_tasks(chart.find(objects, "ScaledObject")["spec"])


def assert_no_fewer_pods_than_running_tasks(scaled: dict[str, Any]) -> None:
    counted = {one["name"]: one["metadata"].get("scaleOnInFlight") for one in scaled["triggers"]}
    assert (counted["tasks"], counted["waiting"]) == ("true", "false")
    modifiers = scaled["advanced"]["scalingModifiers"]
    assert (modifiers["target"], modifiers["metricType"]) == ("1", "AverageValue")
    for running in range(25):
        for waiting in (0, 1, 9, 10, 11, 400):
            wanted = chart.wanted_pods(modifiers["formula"], running=running, waiting=waiting)
            assert wanted >= running
            assert (wanted > 0) == (running + waiting > 0)
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 300
    assert scaled["fallback"]["behavior"] == "currentReplicas"


def test_a_drain_that_a_spot_notice_would_cut_is_refused() -> None:
    with pytest.raises(chart.Refused, match="at most 90"):
        chart.render_ci("sdwebui", {"runtime/drainSeconds": 91})
    assert chart.render_ci("sdwebui", {"runtime/drainSeconds": 90})
    with pytest.raises(chart.Refused, match=r"runtime\.drainSeconds: at most 90"):  # not what follows from it
        chart.render_ci("sdwebui", {"runtime/drainSeconds": 540})


def test_a_node_that_would_cut_its_pods_is_refused() -> None:
    path = "karpenter/provisioner/disruption"
    with pytest.raises(chart.Refused, match="2m30s cuts the 150 seconds"):
        chart.render_ci("sdwebui", {path: {"terminationGracePeriod": "2m30s"}})
    assert chart.render_ci("sdwebui", {path: {"terminationGracePeriod": "2m31s"}})


def test_a_node_whose_pods_spot_would_not_tell_in_time_is_refused() -> None:
    path = "karpenter/provisioner/disruption"
    with pytest.raises(chart.Refused, match="with 171s, Spot would take a node before its pods are told"):
        chart.render_ci("sdwebui", {path: {"terminationGracePeriod": "171s"}})
    for changes in (
        {path: {"terminationGracePeriod": "170s"}},
        {path: {"terminationGracePeriod": "1h"}, "karpenter/provisioner/capacityType": {"spot": False}},
    ):
        assert chart.render_ci("sdwebui", changes)


@pytest.mark.parametrize("name", chart.CI)
def test_no_container_has_a_privilege(name: str) -> None:
    spec = chart.pod(chart.render_ci(name))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert not [one for one in spec["volumes"] if "hostPath" in one]
    for one in all_containers(name):
        security = one["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsUser"] > 0
        is_chosen = name == "own-cluster" and one["name"] == "inference-api"
        assert security["readOnlyRootFilesystem"] is not is_chosen
        assert {"requests", "limits"} <= one["resources"].keys()


def test_only_the_agent_gets_credentials() -> None:
    for name in chart.CI:
        objects = chart.render_ci(name)
        skipped = chart.pod(objects)["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"].split(
            ","
        )
        names = {one["name"] for one in all_containers(name)}
        assert names - set(skipped) == {"queue-agent"}


def test_a_token_of_the_cluster_is_only_where_it_is_used() -> None:
    def has_token(objects: list[chart.Object]) -> bool:
        return any("projected" in one for one in chart.pod(objects)["spec"]["volumes"])

    assert not has_token(chart.render_ci("sdwebui"))
    objects = chart.render_ci("working-hours")
    mounting = {
        one["name"]
        for one in all_containers("working-hours")
        if any(mount["name"] == "token" for mount in one["volumeMounts"])
    }
    assert mounting == {"deletion-cost"}
    assert {
        "Role",
        "RoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    } <= chart.kinds(objects)
    assert chart.find(objects, "Role")["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}
    ]


def test_the_agents_settings_are_settings_that_it_takes() -> None:
    for name in chart.CI:
        if name == "own-type":
            continue
        environment = chart.environment(chart.render_ci(name), "queue-agent")
        settings = load_settings(environment)
        assert settings.metrics_port == 9090
        assert settings.api_base_url == "http://127.0.0.1:8080"


@pytest.mark.parametrize("name", chart.CI)
def test_the_agent_is_alive_when_its_threads_turn_and_ready_when_its_server_is(name: str) -> None:
    agent = chart.container(chart.render_ci(name), "queue-agent")
    ports = {one["name"]: one["containerPort"] for one in agent["ports"]}
    assert ports == {"metrics": 9090}
    paths = {
        probe: agent[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_a_server_has_as_long_to_start_as_is_said() -> None:
    server = chart.container(chart.render_ci("long-tasks"), "inference-api")
    probe = server["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 1800
    assert chart.find(chart.render_ci("long-tasks"), "Deployment")["spec"]["progressDeadlineSeconds"] > 1800


def test_a_rollout_needs_no_more_gpus_than_there_are() -> None:
    rolling = chart.find(chart.render_ci("sdwebui"), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": "25%"}


def test_a_change_of_what_is_mounted_replaces_the_pods() -> None:
    def checksum(changes: dict[str, Any]) -> str:
        objects = chart.render_ci("comfyui", changes)
        return str(chart.pod(objects)["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) != checksum({"runtime/inferenceApi/modelMountPath": "/models"})
    assert checksum({}) == checksum({"runtime/scaling": {"queueLength": 3}})


def test_another_version_of_the_chart_alone_replaces_no_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chart.pod(chart.render_ci("comfyui"))
    newer = tmp_path / "sd-on-eks"
    shutil.copytree(chart.CHART, newer)
    about = yaml.safe_load((newer / "Chart.yaml").read_text(encoding="utf-8"))
    (newer / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "99.0.0"}), encoding="utf-8")
    monkeypatch.setattr(chart, "CHART", newer)
    chart.forget()
    try:
        objects = chart.render_ci("comfyui")
    finally:
        chart.forget()
    assert chart.find(objects, "Deployment")["metadata"]["labels"]["helm.sh/chart"] == "sd-on-eks-99.0.0"
    assert chart.pod(objects) == before


def test_ones_own_annotations_go_before_the_charts() -> None:
    given = {"karpenter.sh/do-not-disrupt": "true", "team": "art"}
    found = chart.pod(chart.render_ci("sdwebui", {"runtime/annotations": given}))["metadata"]["annotations"]
    assert found.items() >= given.items()
    assert "prometheus.io/port" in found


def allowed(policy: chart.Object, address: str, port: int) -> bool:
    """Tell whether an address outside the cluster can be reached by TCP."""
    target = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        blocks = [one["ipBlock"] for one in rule["to"] if "ipBlock" in one]
        in_block = any(
            target in ipaddress.ip_network(block["cidr"])
            and not any(target in ipaddress.ip_network(one) for one in block.get("except", []))
            for block in blocks
        )
        in_port = any(
            one["protocol"] == "TCP" and one["port"] <= port <= one.get("endPort", one["port"])
            for one in rule["ports"]
        )
        if in_block and in_port:
            return True
    return False


@pytest.mark.parametrize(
    ("address", "port", "is_allowed"),
    [
        ("169.254.170.23", 80, True),  # the pod's identity
        ("169.254.170.23", 443, False),
        ("169.254.169.254", 80, False),  # the metadata service
        ("169.254.169.254", 443, False),
        ("10.0.1.20", 443, True),  # an endpoint of AWS inside the VPC
        ("10.0.1.20", 80, False),
        ("172.20.0.10", 8080, False),
        ("93.184.216.34", 80, True),  # where inputs come from
        ("93.184.216.34", 8443, True),
    ],
)
def test_pods_reach_what_they_need_and_never_the_metadata_service(
    address: str, port: int, is_allowed: bool
) -> None:
    policy = chart.find(chart.render_ci("sdwebui"), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert allowed(policy, address, port) is is_allowed


def test_a_network_of_ones_own_can_be_allowed() -> None:
    policy = chart.find(chart.render_ci("own-cluster"), "NetworkPolicy")
    assert allowed(policy, "10.1.2.3", 9000)
    assert not allowed(policy, "10.2.2.3", 9000)


def test_only_metrics_come_in() -> None:
    policy = chart.find(chart.render_ci("sdwebui"), "NetworkPolicy")
    assert policy["spec"]["ingress"] == [{"ports": [{"port": 9090, "protocol": "TCP"}]}]


def test_zones_share_the_pods_and_evictions_come_one_by_one() -> None:
    objects = chart.render_ci("sdwebui")
    [spread] = chart.pod(objects)["spec"]["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == (
        "topology.kubernetes.io/zone",
        "ScheduleAnyway",
    )
    budget = chart.find(objects, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert (
        budget["selector"]
        == chart.find(objects, "Deployment")["spec"]["selector"]
        == {"matchLabels": spread["labelSelector"]["matchLabels"]}
    )


def test_extra_environment_is_taken_as_a_map_and_as_a_list() -> None:
    as_map = {
        "LOGLEVEL": "DEBUG",
        "COUNT": 3,
        "FROM": {"valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    }
    as_list = [
        {"name": "LOGLEVEL", "value": "DEBUG"},
        {"name": "COUNT", "value": "3"},
        {"name": "FROM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
    ]
    for part, name in (("inferenceApi", "inference-api"), ("queueAgent", "queue-agent")):
        path = f"runtime/{part}/extraEnv"
        rendered = [chart.render_ci("sdwebui", {path: one}) for one in (as_map, as_list)]
        assert rendered[0] == rendered[1]
        assert chart.environment(rendered[0], name).items() >= {"LOGLEVEL": "DEBUG", "COUNT": "3"}.items()


def test_extra_environment_goes_before_what_the_chart_says() -> None:
    objects = chart.render_ci("sdwebui", {"runtime/queueAgent/extraEnv": {"MAX_ATTEMPTS": "7"}})
    entries = chart.container(objects, "queue-agent")["env"]
    assert [one["value"] for one in entries if one["name"] == "MAX_ATTEMPTS"] == ["7"]


def test_images_are_named_by_digest_before_tag_and_in_the_registry_that_is_given() -> None:
    digest = "sha256:" + "a" * 64
    path = "runtime/inferenceApi/image"

    def image(**given: str) -> str:
        return str(chart.container(chart.render_ci("sdwebui", {path: given}), "inference-api")["image"])

    registry = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
    assert image(repository="mine/server", tag="1") == f"{registry}/mine/server:1"
    assert image(repository="mine/server", tag="1", digest=digest) == f"{registry}/mine/server@{digest}"
    assert image(repository="ghcr.io/mine/server", tag="1") == "ghcr.io/mine/server:1"
    assert image(repository="localhost:5000/server", tag="1") == "localhost:5000/server:1"
    assert image(tag="1") == "public.ecr.aws/bingjiao/sd-on-eks/sdwebui:1"
    with pytest.raises(
        chart.Refused, match=r"give a tag or a digest of public\.ecr\.aws/bingjiao/sd-on-eks/sdwebui"
    ):
        image()


def test_no_rendered_image_is_called_latest_unless_asked_for() -> None:
    for name in chart.CI:
        for one in all_containers(name):
            is_latest = one["image"].endswith(":latest")
            assert is_latest is (name == "guide")
            assert one["imagePullPolicy"] == ("Always" if is_latest else "IfNotPresent")


def test_sdwebui_is_told_its_checkpoint_and_reads_weights_without_mmap() -> None:
    objects = chart.render_ci("sdwebui")
    environment = chart.environment(objects, "inference-api")
    assert environment["SD_MODEL_CHECKPOINT"] == "v1-5-pruned-emaonly.safetensors"
    assert "DYNAMIC_SD_MODEL" not in environment
    assert environment["CONFIG_FILE"] == "/etc/sd-runtime/config.json"
    assert '"disable_mmap_load_safetensors": true' in chart.find(objects, "ConfigMap")["data"]["config.json"]
    assert chart.environment(chart.render_ci("guide"), "queue-agent")["DYNAMIC_SD_MODEL"] == "true"


def test_a_dynamic_sdwebui_starts_with_its_checkpoint_where_it_has_one() -> None:
    """The guide's image loads no upscalers in its dynamic mode."""
    path = "runtime/inferenceApi/modelFilename"
    without, with_one = (
        chart.environment(chart.render_ci("guide", {path: name}), "inference-api")
        for name in ("", "a.safetensors")
    )
    assert (without.get("DYNAMIC_SD_MODEL"), without.get("SD_MODEL_CHECKPOINT")) == ("true", None)
    assert (with_one.get("DYNAMIC_SD_MODEL"), with_one.get("SD_MODEL_CHECKPOINT")) == (None, "a.safetensors")


def test_the_model_is_warmed_up_before_the_agent_starts_where_there_is_one() -> None:
    def order(name: str) -> list[str]:
        return [one["name"] for one in all_containers(name)]

    assert order("sdwebui") == ["inference-api", "warm-up", "queue-agent"]
    assert order("guide") == ["inference-api", "queue-agent"]
    assert order("comfyui") == ["custom-nodes", "inference-api", "queue-agent"]
    assert "restartPolicy" not in chart.container(chart.render_ci("sdwebui"), "warm-up")


def test_comfyui_gets_the_guides_folders_by_its_own_names() -> None:
    objects = chart.render_ci("comfyui")
    arguments = chart.environment(objects, "inference-api")["EXTRA_CMD_ARG"].split()
    assert arguments == [
        "--disable-mmap", "--extra-model-paths-config", "/etc/sd-runtime/extra_model_paths.yaml",
        "--disable-dynamic-vram",
    ]  # fmt: skip
    paths = yaml.safe_load(chart.find(objects, "ConfigMap")["data"]["extra_model_paths.yaml"])
    models = paths["models"]
    assert models["base_path"] == "/opt/ml/code/models"
    assert (models["checkpoints"], models["loras"], models["vae"]) == ("Stable-diffusion", "Lora", "VAE")
    # Flux and SD3 come as whole checkpoints and as the diffusion model alone, into the same folder.
    assert models["diffusion_models"].split() == ["diffusion_models", "Stable-diffusion"]
    folders = {line for value in models.values() for line in value.split()}
    assert folders >= {
        "CLIP", "Codeformer", "ControlNet", "ESRGAN", "GFPGAN", "LDSR", "Lora", "RealESRGAN", "ScuNET",
        "Stable-diffusion", "SwinIR", "VAE", "VAE-approx", "embeddings", "hypernetworks",
    }  # fmt: skip
    assert paths["nodes"] == {"base_path": "/opt/sd-runtime", "custom_nodes": "custom_nodes"}


def test_a_new_type_needs_values_only() -> None:
    objects = chart.render_ci("own-type")
    server = chart.container(objects, "inference-api")
    assert server["ports"] == [{"name": "http", "containerPort": 7801}]
    assert chart.environment(objects, "inference-api") == {"MODEL_PATH": "/opt/ml/code/models"}
    assert chart.environment(objects, "queue-agent")["API_BASE_URL"] == "http://127.0.0.1:7801"
    assert {"name": "server-data", "mountPath": "/data", "subPath": "0"} in server["volumeMounts"]
    with pytest.raises(chart.Refused, match='"other" is none of comfyui, sdwebui'):
        chart.render_ci("sdwebui", {"runtime/type": "other"})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("runtime/queueAgent/sqsQueueUrl", "runtime.queueAgent.sqsQueueUrl is needed"),
        ("runtime/queueAgent/snsTopicArn", "runtime.queueAgent.snsTopicArn is needed"),
        ("runtime/queueAgent/s3Bucket", "runtime.queueAgent.s3Bucket is needed"),
        ("runtime/persistence/s3/modelBucket", "runtime.persistence.s3.modelBucket is needed"),
        ("global/awsRegion", "global.awsRegion is needed"),
        ("karpenter/nodeTemplate/subnetIds", "give subnetIds or subnetSelector"),
        ("karpenter/nodeTemplate/instanceProfile", "give role or instanceProfile"),
    ],
)
def test_what_is_missing_is_named(path: str, said: str) -> None:
    with pytest.raises(chart.Refused, match=said):
        chart.render_ci("sdwebui", {path: ""})


def test_an_unknown_value_is_named() -> None:
    with pytest.raises(chart.Refused, match=r"(?s)/runtime/scaling.*queueLenght"):
        chart.render_ci("sdwebui", {"runtime/scaling": {"queueLenght": 3}})
