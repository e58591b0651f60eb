"""The validated configuration: frozen models of `sdctl.yaml`, no input or output.

Keys are the guide's own, in camel case; `populate_by_name` is off, so the file has one spelling each.
Every check that needs one field alone is here; what compares fields or files is in `rules.py`.
"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

from sdctl.contract import DEFAULT_CHECKPOINT, MAX_ATTEMPTS_DEFAULT

DEFAULT_STACK_NAME: Final = "sdoneks"
DEFAULT_RUNTIME_NAME: Final = "sdruntime"
DEFAULT_RUNTIME: Final = {
    "name": DEFAULT_RUNTIME_NAME,
    "type": "sdwebui",
    "modelFilename": DEFAULT_CHECKPOINT,
}
# CloudFormation takes 128 characters; what we append and IAM's 64 for a role's name leave this much.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html
STACK_NAME_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9-]{0,47}$"
# The retention periods that CloudWatch Logs takes, up to ten years:
# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
RetentionDays = Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557,
                        2922, 3288, 3653]  # fmt: skip

# Family, then size: https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html
INSTANCE_TYPE_PATTERN: Final = r"^[a-z][a-z0-9-]*\.(nano|micro|small|medium|large|\d*xlarge|metal(-\d+xl)?)$"
ZONE_PATTERN: Final = r"^[a-z]{2}(-[a-z]+)+-\d[a-z]$"
KMS_KEY_PATTERN: Final = r"^arn:aws(-cn|-us-gov)?:kms:[a-z0-9-]+:\d{12}:key/(mrk-)?[0-9a-f-]{32,36}$"
# A registry's host, a port, and a path below which repositories lie; no scheme, no tag.
REGISTRY_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?(/[a-z0-9]+([._-][a-z0-9]+)*)*$"

# A role or user; a session's ARN is no principal of an access entry.
# https://docs.aws.amazon.com/eks/latest/userguide/creating-access-entries.html
PRINCIPAL_PATTERN: Final = r"^arn:aws(-cn|-us-gov)?:iam::\d{12}:(role|user)/[\w+=,.@/-]+$"
RuntimeType = Literal["comfyui", "sdwebui"]
ImageCache = Literal["none", "snapshot", "soci"]


def _bucket_arn(value: str) -> str:
    name = value.rsplit(":", 1)[-1]
    if (
        not 3 <= len(name) <= 63
        or not all(char.isalnum() or char in ".-" for char in name)
        or name != name.lower()
    ):
        raise ValueError(f'"{name}" is not a bucket name')
    return value


def _network(value: str) -> IPv4Network:
    try:
        return IPv4Network(value)
    except ValueError as error:
        raise ValueError(f'"{value}" is not an IPv4 network as 10.0.0.0/16: {error}') from error


def _cidr(value: str) -> str:
    network = _network(value)
    # https://docs.aws.amazon.com/vpc/latest/userguide/vpc-cidr-blocks.html; six /19 need a /16
    if network.prefixlen != 16 or not network.is_private:
        raise ValueError(f'"{value}" is not a private /16 network')
    return value


def _public_cidr(value: str) -> str:
    network = _network(value)
    # EKS refuses addresses that no packet from the internet comes from:
    # https://docs.aws.amazon.com/eks/latest/userguide/cluster-endpoint.html
    if network.is_private:
        raise ValueError(f'"{value}" is private: name the addresses that the internet sees')
    return value


Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", max_length=254)]
BucketArn = Annotated[
    str, StringConstraints(pattern=r"^arn:aws(-cn|-us-gov)?:s3:::[^/*]+$"), AfterValidator(_bucket_arn)
]
Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Section(BaseModel):
    """What all sections share: frozen, no unknown key, no silent conversion, camel case in the file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, use_attribute_docstrings=True
    )


class Throttle(Section):
    """Requests a second that one API key may make, and its burst."""

    rate_limit: float = Field(default=30, gt=0, le=10_000)
    burst_limit: int = Field(default=50, gt=0, le=10_000)


class CustomDomain(Section):
    """A domain of your own in front of the API, as China's ICP filing asks for."""

    domain_name: Annotated[
        str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$")
    ]
    """The name; point it at the stack's output `CustomDomainTarget`."""
    certificate_arn: Annotated[
        str, StringConstraints(pattern=r"^arn:aws(-cn|-us-gov)?:(acm|iam):[a-z0-9-]*:\d{12}:.+$")
    ]
    """Its certificate, in the deployment's region; in China one of IAM, or of ACM where it is offered."""


class ApiConfig(Section):
    """The REST API."""

    stage_name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")] = "dev"
    throttle: Throttle = Throttle()
    custom_domain: CustomDomain | None = None

    @property
    def rate_limit(self) -> float:
        """Requests a second."""
        return self.throttle.rate_limit

    @property
    def burst_limit(self) -> int:
        """Requests at once."""
        return self.throttle.burst_limit


class ClusterComponents(Section):
    """The nodes that run everything but the runtimes."""

    instance_type: Annotated[str, StringConstraints(pattern=INSTANCE_TYPE_PATTERN)] = "m7g.large"
    """Their instance type, Graviton or x86."""
    desired_count: int = Field(default=2, ge=1, le=50)
    """How many; with one, Karpenter has no second replica."""


class NetworkConfig(Section):
    """A new VPC from `vpcCidr`, or an existing one by `vpcId` with its private `subnetIds`."""

    vpc_cidr: Annotated[str, AfterValidator(_cidr)] = "10.0.0.0/16"
    """A private /16."""
    # EKS wants subnets in two zones; a third gives GPUs another place to be found in.
    zones: tuple[Annotated[str, StringConstraints(pattern=ZONE_PATTERN)], ...] = Field(
        default=(), strict=False, max_length=3
    )
    """Availability zones by name, two or three; without them the first ones that EKS supports."""
    nat_mode: Literal["single", "perZone", "none"] = "single"
    """The way out of private subnets: one NAT gateway, one a zone, or none but interface endpoints."""
    interface_endpoints: bool = False
    """True keeps calls to AWS off the NAT gateways; always so where there are none."""
    # The service's own limit: https://docs.aws.amazon.com/eks/latest/userguide/service-quotas.html
    public_access_cidrs: tuple[Annotated[str, AfterValidator(_public_cidr)], ...] = Field(
        default=("0.0.0.0/0",), strict=False, max_length=40
    )
    """Where the Kubernetes API may be called from, beside the VPC; an empty list: from the VPC only."""
    vpc_id: Annotated[str, StringConstraints(pattern=r"^vpc-[0-9a-f]{8,17}$")] | None = None
    """An existing VPC, which is left as it is."""
    # https://docs.aws.amazon.com/eks/latest/APIReference/API_VpcConfigRequest.html
    subnet_ids: tuple[Annotated[str, StringConstraints(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...] = Field(
        default=(), strict=False, max_length=16
    )
    """Its private subnets for nodes and pods, in two zones at least, with a way to AWS and the registries."""


class AlarmsConfig(Section):
    """Who is told of alarms."""

    email: Email | None = None
    """Gets a mail for each alarm, after confirming the subscription once; without it alarms only show."""


class BudgetConfig(Section):
    """A monthly budget over everything that carries the deployment's tag; not in China."""

    monthly_amount: float = Field(gt=0, le=10_000_000)
    """In USD; mails go out at 80 and 100 per cent, and when the forecast is above it."""
    email: Email
    """Who gets them."""


class ThroughputTuner(Section):
    """Lowers the data volume of a GPU node once its images are loaded: pay for high throughput only then."""

    # Step Functions waits as long as it is told, a year at most; a volume can be modified again after 6 h.
    delay_seconds: int = Field(default=300, ge=30, le=6 * 3600)
    """How long after the start of an instance."""
    # gp3's limits: https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
    iops: int = Field(default=3000, ge=3000, le=80_000)
    """What the volume is lowered to."""
    throughput_mib_per_second: int = Field(default=125, ge=125, le=2000)
    """What the volume is lowered to."""


class QueueAgentConfig(Section):
    """Settings of every queue agent."""

    max_attempts: int = Field(default=MAX_ATTEMPTS_DEFAULT, ge=1, le=20)
    task_timeout_seconds: int = Field(default=3600, ge=10, le=11 * 3600)
    notify_running: bool = False
    input_allowlist: tuple[Text, ...] = Field(default=(), strict=False)


class RuntimeConfig(Section):
    """One runtime: a GPU server with its queue."""

    name: Text
    namespace: Namespace = "default"
    type: RuntimeType
    model_filename: Text | None = None
    dynamic_model: bool = False
    chart_repository: str = ""
    chart_version: str = ""
    image_cache: ImageCache | None = None
    """How images get onto a node; unless given, by a snapshot if one is named, else as the chart chooses."""
    extra_values: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def checkpoint(self) -> str:
        """The model file that `sd_model_checkpoint` routes by; empty where it routes by name alone."""
        return self.model_filename or "" if self.type == "sdwebui" else ""

    def extra_value(self, *path: str) -> Any:
        """Return one of the extra values by its path, or None."""
        value: Any = self.extra_values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def snapshot_id(self) -> str:
        """The image-cache snapshot, or empty."""
        return str(self.extra_value("karpenter", "nodeTemplate", "dataVolume", "snapshotID") or "")

    @property
    def uses_snapshot(self) -> bool:
        """Whether nodes start from a snapshot: a mode of the cache was asked for, or a snapshot named."""
        return self.cache_mode == "snapshot" if self.cache_mode else bool(self.snapshot_id)

    @property
    def cache_mode(self) -> str:
        """How images are to get onto a node, the chart's own value first; empty where the chart chooses."""
        return str(self.extra_value("karpenter", "nodeTemplate", "imageCache") or self.image_cache or "")


class Config(Section):
    """The whole configuration of one deployment."""

    stack_name: Annotated[str, StringConstraints(pattern=STACK_NAME_PATTERN)] = DEFAULT_STACK_NAME
    model_bucket_arn: BucketArn | None = None
    api: ApiConfig = Field(default=ApiConfig(), alias="APIGW")
    runtimes: tuple[RuntimeConfig, ...] = Field(
        default=(RuntimeConfig.model_validate(DEFAULT_RUNTIME),),
        alias="modelsRuntime",
        strict=False,
        min_length=1,
        # Each has a subscription with a filter policy, and a topic may have this many:
        # https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html
        max_length=200,
    )
    queue_agent: QueueAgentConfig = QueueAgentConfig()
    cluster_components: ClusterComponents = ClusterComponents()
    network: NetworkConfig = NetworkConfig()
    kubernetes_version: Annotated[str, StringConstraints(pattern=r"^1\.\d\d$")] | None = None
    """As "1.36", in quotes; without it the newest one in standard support that all components support."""
    image_registry: Annotated[str, StringConstraints(pattern=REGISTRY_PATTERN, max_length=255)] | None = None
    """A private registry and a path in it, filled by `sdctl image mirror`: the only source of images."""
    gpu_metrics_exporter: bool = False
    """True installs NVIDIA's exporter for Prometheus, beside what CloudWatch gets."""
    ebs_throughput_tuner: ThroughputTuner | None = None
    kms_key_arn: Annotated[str, StringConstraints(pattern=KMS_KEY_PATTERN)] | None = None
    """A key of yours for all that is stored; fixed once the cluster is there. `render` writes its policy."""
    log_retention_days: RetentionDays = 30
    tracing: bool = True
    """Traces requests with X-Ray, from the API to the queue."""
    alarms: AlarmsConfig = AlarmsConfig()
    budget: BudgetConfig | None = None
    permissions_boundary_arn: (
        Annotated[str, StringConstraints(pattern=r"^arn:aws(-cn|-us-gov)?:iam::(\d{12}|aws):policy/.+$")]
        | None
    ) = None
    """A managed policy that bounds every role that is made."""
    administrators: tuple[Annotated[str, StringConstraints(pattern=PRINCIPAL_PATTERN)], ...] = Field(
        default=(), strict=False, max_length=20
    )
    """Roles and users that administer the cluster, beside the one that deployed it first."""
    tags: dict[Annotated[str, StringConstraints(min_length=1, max_length=128)], str] = Field(
        default_factory=dict
    )

    @property
    def model_bucket(self) -> str | None:
        """The model bucket's name, or None where `deploy` is to pick one."""
        return self.model_bucket_arn.rsplit(":", 1)[-1] if self.model_bucket_arn else None

    @property
    def front_stack_name(self) -> str:
        """The stack that carries the guide's outputs."""
        return f"{self.stack_name}Stack"

    def runtime(self, name: str) -> RuntimeConfig | None:
        """Return a runtime by its name, in any case."""
        return next((runtime for runtime in self.runtimes if runtime.name == name.lower()), None)
