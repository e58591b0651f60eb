"""`sdctl render --out` as a user runs it: a folder that stands alone, the same at every run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import render as render_benchmark
from sdctl.deploy.bundle import build_bundles
from sdctl.iam.calls import PURPOSES
from sdctl.iam.policy import MAX_POLICY_CHARACTERS, characters
from support import helm_tools
from support.cli import run, run_process

RUNTIMES = [
    {"name": "sdruntime", "type": "sdwebui", "modelFilename": "a.safetensors"},
    {"name": "comfy", "namespace": "comfy", "type": "comfyui"},
]
CHINA = {"imageRegistry": "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl", "modelsRuntime": RUNTIMES}
HERE = ("-R", "us-west-2", "--account", "123456789012")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No helm on the PATH, unless a test puts one there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path / "home"))


def configure(**document: Any) -> None:
    Path("sdctl.yaml").write_text(json.dumps(document))


def rendered(*words: str, out: str = "out") -> dict[str, bytes]:
    ran = run("render", "--out", out, *words)
    assert ran.code == 0, ran.stderr
    return contents(out)


def contents(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_two_runs_give_the_same_bytes_and_json_lists_every_one_of_them() -> None:
    configure(modelsRuntime=RUNTIMES)
    first = run("render", "--out", "one", "-R", "us-west-2", "-o", "json")
    assert (first.code, first.stderr) == (0, "")
    assert rendered("-R", "us-west-2", out="two") == contents("one")
    listed = {row["path"]: (row["sha256"], row["bytes"]) for row in first.document["files"]}
    assert listed == {
        path: (hashlib.sha256(content).hexdigest(), len(content)) for path, content in contents("one").items()
    }


def test_every_template_stands_alone_and_its_parameters_are_its_own() -> None:
    configure(modelsRuntime=RUNTIMES)
    files = rendered(*HERE)
    templates = {path: yaml.safe_load(body) for path, body in files.items() if path.startswith("stacks/sd")
                 and path.endswith(".yaml")}  # fmt: skip
    assert set(templates) == {
        f"stacks/{name}.yaml" for name in (
            "sdoneks-network", "sdoneks-cluster", "sdoneksStack", "sdoneks-runtime-sdruntime",
            "sdoneks-runtime-comfy",
        )
    }  # fmt: skip
    for path, document in templates.items():
        assert document["AWSTemplateFormatVersion"] == "2010-09-09"
        rows = json.loads(files[path.replace(".yaml", ".parameters.json")])
        assert {row["ParameterKey"] for row in rows} == set(document.get("Parameters", {}))
        tags = json.loads(files[path.replace(".yaml", ".tags.json")])
        assert {"Key": "sdctl:stack", "Value": "sdoneks"} in tags


def test_the_zips_are_byte_for_byte_what_a_deploy_uploads_under_the_keys_of_the_parameters() -> None:
    files = rendered(*HERE)
    zips = {path: content for path, content in files.items() if path.startswith("functions/")}
    assert sorted(zips.values()) == sorted(bundle.zip_bytes for bundle in build_bundles().values())
    rows = json.loads(files["stacks/sdoneksStack.parameters.json"])
    assert {row["ParameterValue"] for row in rows if row["ParameterKey"].endswith("CodeKey")} == set(zips)


def test_the_plan_tells_the_order_and_whose_each_file_is() -> None:
    configure(modelsRuntime=RUNTIMES)
    files = rendered(*HERE)
    plan = json.loads(files["plan.json"])
    done: set[str] = set()
    for step in plan["steps"]:
        assert set(step["needs"]) <= done, step["id"]
        assert set(step["files"]) <= set(files)
        done.add(step["id"])
    assert {"network", "cluster", "front", "runtime-comfy", "release-karpenter", "release-comfy"} <= done
    rest = set(files) - {path for step in plan["steps"] for path in step["files"]}
    assert {path for path in rest if not path.startswith("iam/")} == {
        "README.md", "plan.json", "sdctl-render.json",
    }  # fmt: skip
    assert all(f"**{step_id}**" in files["README.md"].decode() for step_id in done)


def test_every_placeholder_is_named_and_none_is_left_that_a_flag_fills_in() -> None:
    configure(modelsRuntime=RUNTIMES)
    for words, known in (
        ((), {"${region}", "${account}", "${asset-bucket}", "${model-bucket}"}),
        (HERE, set()),
    ):
        files = rendered(*words)
        plan = json.loads(files["plan.json"])
        texts = [content.decode() for path, content in files.items()
                 if path.endswith((".parameters.json", ".values.yaml"))]  # fmt: skip
        used = {one for text in texts for one in re.findall(r"\$\{[^}]+\}", text)}
        assert used <= set(plan["placeholders"])
        assert {one for one in used if "." not in one} - known == {
            "${deployer}", "${zone-1}", "${zone-2}", "${zone-3}",
        }  # fmt: skip
        assert known <= used


def test_without_a_region_it_says_which_placeholder_stands_for_it() -> None:
    ran = run("render", "--out", "out")
    assert ran.code == 0
    assert "${region}" in ran.stderr
    assert "${region}" in Path("out/README.md").read_text()


def test_there_is_a_policy_for_each_purpose_in_documents_that_iam_takes() -> None:
    files = rendered(*HERE)
    for purpose in PURPOSES:
        parts = [
            json.loads(body)
            for path, body in files.items()
            if re.fullmatch(rf"iam/{purpose}(-\d+)?.json", path)
        ]
        assert 1 <= len(parts) <= 10
        assert all(characters(part) <= MAX_POLICY_CHARACTERS for part in parts)


def test_what_china_is_sent_names_no_other_partition_and_no_public_registry() -> None:
    configure(**CHINA)
    files = rendered("-R", "cn-north-1", "--account", "123456789012")
    for path, content in files.items():
        if path.endswith((".zip", ".md")) or path.startswith("charts/"):
            continue
        text = content.decode()
        for foreign in (
            "arn:aws:",
            "public.ecr.aws",
            "ghcr.io",
            "docker.io",
            "nvcr.io",
            "us-west-2",
            "us-east-1",
        ):
            assert foreign not in text, (path, foreign)
    images = [line for path, content in files.items() if path.startswith("releases/")
              for line in content.decode().splitlines() if "amazonaws.com" in line]  # fmt: skip
    assert images
    assert all("amazonaws.com.cn/" in line or "amazonaws.com.cn" in line for line in images)


def test_what_a_region_cannot_have_is_refused() -> None:
    configure(modelsRuntime=RUNTIMES, budget={"monthlyAmount": 5, "email": "me@example.com"})
    ran = run("render", "--out", "out", "-R", "cn-north-1")
    assert ran.code == 3
    assert "budget: AWS Budgets does not exist in China" in ran.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize("major", [3, 4])
def test_with_helm_the_runtimes_manifests_are_rendered_and_a_note_says_by_which(
    major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(modelsRuntime=RUNTIMES)
    helm = helm_tools.helm(major)
    monkeypatch.setenv("PATH", os.pathsep.join((str(helm.parent), "/usr/bin", "/bin")))
    ran = run("render", "--out", "out", *HERE, "-o", "json")
    assert ran.code == 0, ran.stderr
    assert any(note.startswith(f"manifests are as helm {major}.") for note in ran.document["notes"])
    manifests = {path: content for path, content in contents("out").items() if "manifests" in path}
    assert set(manifests) == {
        "releases/default/sdruntime.manifests.yaml",
        "releases/comfy/comfy.manifests.yaml",
    }
    for content in manifests.values():
        kinds = {document["kind"] for document in yaml.safe_load_all(content) if document}
        assert {"Deployment", "ScaledObject", "NodePool", "EC2NodeClass"} <= kinds
    assert rendered(*HERE, out="again") == contents("out")


def test_without_helm_a_note_says_so() -> None:
    ran = run("render", "--out", "out", *HERE, "-o", "json")
    assert any("helm is not found" in note for note in ran.document["notes"])
    assert not any("manifests" in row["path"] for row in ran.document["files"])


def test_a_runtime_that_is_gone_leaves_no_file() -> None:
    configure(modelsRuntime=RUNTIMES)
    rendered(*HERE)
    configure(modelsRuntime=RUNTIMES[:1])
    assert not any("comfy" in path for path in rendered(*HERE) if not path.startswith("charts/"))


def test_a_folder_of_others_is_refused_before_anything_is_written() -> None:
    Path("photos").mkdir()
    Path("photos/me.jpg").write_bytes(b"jpg")
    ran = run("render", "--out", "photos", *HERE, "-o", "json")
    assert ran.code == 8
    assert ran.error["hint"]
    assert contents("photos") == {"me.jpg": b"jpg"}


def test_the_flags_of_deploy_change_what_is_rendered() -> None:
    files = rendered(
        *HERE, "-n", "studio", "-b", "my-models", "-r", "mine", "-t", "comfyui", "-s", "snap-0123456789"
    )
    rows = json.loads(files["stacks/studioStack.parameters.json"])
    assert {"ParameterKey": "ModelBucket", "ParameterValue": "my-models"} in rows
    assert b"snap-0123456789" in files["releases/default/mine.values.yaml"]
    assert "stacks/studio-runtime-mine.yaml" in files


def test_the_local_target_has_no_cluster_and_needs_no_policy() -> None:
    files = rendered("--target", "local", *HERE)
    assert not any(path.startswith(("iam/", "releases/")) for path in files)
    assert "stacks/sdoneksStack.yaml" in files


def test_it_needs_no_credentials_and_imports_no_client(tmp_path: Path) -> None:
    ran = run_process("render", "--out", "out", cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ran.code == 0
    assert "sdctl.render.stacks" in ran.stderr
    assert not re.search(r"boto|urllib3", ran.stderr)


def test_a_rendering_takes_a_few_times_what_its_libraries_take_to_import_and_little_memory() -> None:
    ours, libraries = render_benchmark.measure(rounds=2)
    assert ours.cpu_seconds < 1.5 * render_benchmark.RATIO_BOUND * libraries.cpu_seconds
    assert ours.peak_mib < render_benchmark.PEAK_BOUND_MIB


def test_a_template_too_large_to_be_sent_inline_goes_through_the_asset_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdctl.offline.index.MAX_INLINE_TEMPLATE_BYTES", 20_000)
    text = rendered(*HERE)["README.md"].decode()
    assert "aws s3 cp stacks/sdoneksStack.yaml s3://sdoneks-assets-" in text
    assert "--template-body file://stacks/sdoneks-network.yaml" in text
    assert "--template-body file://stacks/sdoneksStack.yaml" not in text
