"""The guide's own configuration for China, rendered as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.cli import run

GUIDE = """\
stackName: sdoneks
modelBucketArn: arn:aws-cn:s3:::${MODEL_BUCKET} # the partition of China
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
  type: sdwebui
  extraValues:
    runtime:
      inferenceApi:
        image:
          repository: 123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn/sd-on-eks/sdwebui
          tag: latest
      queueAgent:
        image:
          repository: 123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn/sd-on-eks/queue-agent
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
PUBLIC = re.compile(
    r"public\.ecr\.aws|ghcr\.io|docker\.io|quay\.io|nvcr\.io|registry\.k8s\.io|kedacore\.github\.io"
    r"|arn:aws:|dkr\.ecr\.[a-z0-9.-]+\.amazonaws\.com(?!\.cn)"
)


@pytest.mark.parametrize(
    ("words", "account"), [((), "${account}"), (("--account", "123456789012"), "123456789012")]
)
def test_the_guides_file_for_china_is_rendered_with_the_accounts_own_registry(
    words: tuple[str, ...], account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(GUIDE, encoding="utf-8")
    ran = run("render", "--out", "out", "-R", "cn-northwest-1", "-o", "json", *words)
    assert ran.code == 0, ran.stderr
    registry = f"{account}.dkr.ecr.cn-northwest-1.amazonaws.com.cn/sdctl"
    assert f"imageRegistry: not set, taken as {registry}; sdctl image mirror fills it" in ran.stderr
    assert registry in Path("out/releases/kube-system/karpenter.values.yaml").read_text()
    for path in (*Path("out").glob("*.*"), *Path("out").glob("[irs]*/**/*.*")):
        assert PUBLIC.search(path.read_text()) is None, path
