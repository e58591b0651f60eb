"""What the simulation takes from outside: how long each part of AWS and Kubernetes needs, and its price.

Each figure has its source, or says that it is assumed. All of them are the same for every choice of values
that is compared, so what differs between two runs comes from the values alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in seconds, sizes in GiB, rates in GiB a second, prices in US dollars."""

    # https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
    hpa_sync_seconds: float = 15.0
    hpa_tolerance: float = 0.1
    # https://karpenter.sh/docs/reference/settings/
    batch_idle_seconds: float = 1.0
    batch_most_seconds: float = 10.0
    # Karpenter's own constants: its disruption loop, and the wait before a decision is checked again.
    # https://github.com/kubernetes-sigs/karpenter/tree/main/pkg/controllers/disruption
    disruption_loop_seconds: float = 10.0
    validation_seconds: float = 15.0
    # From the launch to a GPU node that takes pods: what is left of 84 s from a message in the queue to a pod
    # that works, with a small image, KEDA and Karpenter. https://codingwithtaz.blog/category/architecture/
    node_launch_seconds: float = 65.0
    # Until an instance that was told to end is gone for Karpenter; it is not paid for meanwhile. Assumed.
    node_end_seconds: float = 40.0
    # Spread of the launch, the pull and the start: sigma of a log-normal factor. Assumed.
    spread: float = 0.15

    # An SD WebUI image with PyTorch and CUDA, unpacked; what of it is read until the server answers. Assumed.
    image_gib: float = 12.0
    image_read_gib: float = 3.0
    # An ordinary pull: 15 to 20 GB take four to six minutes.
    # AWS Machine Learning Blog, "Reducing container cold start times using SOCI index on DLAMI and DLC".
    pull_gib_per_second: float = 17.5e9 / 300 / 2**30
    # Parallel pull is 14 to 50 % faster: the most, since local disks and many downloads are what it wants.
    # https://github.com/awslabs/soci-snapshotter/commit/f1fcd05ffd3c99eae1e6d6c69c992c428d54b425
    parallel_pull_gib_per_second: float = 17.5e9 / 300 / 2**30 / 0.5
    # A volume that is filled as it is read: an image of 15 GB took ten minutes to start.
    # https://github.com/aws-samples/bottlerocket-images-cache/issues/13
    lazy_gib_per_second: float = 15e9 / 600 / 2**30
    # Until an inference server with its image on the disk answers: imports of Python, CUDA. Assumed.
    server_start_seconds: float = 25.0
    # v1-5-pruned-emaonly.safetensors; Mountpoint's one stream on 10 Gbit/s, and from NVMe. Rates are assumed.
    model_gib: float = 4.0
    model_gib_per_second: float = 0.5
    cached_model_gib_per_second: float = 1.5
    # A server's first picture takes so much longer, be it a warm-up request's or a user's. Assumed.
    warm_up_seconds: float = 3.0
    # A container that was told to end and has nothing to do.
    stop_seconds: float = 2.0

    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    spot_notice_seconds: float = 120.0
    # The worst band of https://aws.amazon.com/ec2/spot/instance-advisor/ is "over 20 %" a month, 0.0003 an
    # hour: three hundred times that, so that runs of an hour see some.
    spot_interruptions_per_hour: float = 0.1
    # Launches for which there is no Spot capacity at that moment. Assumed.
    spot_unavailable: float = 0.1
    # g5.2xlarge or g6.2xlarge in us-west-2: Spot as upstream's guide has it, on demand assumed.
    spot_price_per_hour: float = 0.53
    on_demand_price_per_hour: float = 1.212
