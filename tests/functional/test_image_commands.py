"""`image` and `chart` as a user runs them: builders that are programs, registries that are servers."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.stub import Stubber

from fakes.oci_registry import Fault, OciRegistry, oci_registry
from sdctl import __version__
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ecr import Ecr
from sdctl.clients.helm import Helm
from sdctl.clients.oci import Reference
from sdctl.config.load import Overrides, load_config
from sdctl.images import needed as needed_module
from sdctl.images.charts import fetch_chart
from sdctl.images.mirror import Hosts, with_registry
from sdctl.images.mirror import mirror as mirror_all
from sdctl.images.needed import Needed, needed
from sdctl.releases import Chart, Release
from sdctl.render.charts import third_party_sources
from support import helm_tools
from support.chart_registry import Served, chart_registry
from support.cli import ROOT, run

SMALL = Served(ROOT / "tests/support/charts/small")
HOST = "123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn"
AGENT = f"mirror/sd-on-eks/queue-agent:{__version__}"


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with oci_registry() as found:
        yield found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# ---- Building and pushing ----------------------------------------------------------------------
# A builder that keeps what it was told, and saves an image of one layer per platform.
BUILDER = """#!{python}
import hashlib, io, json, os, sys, tarfile
from pathlib import Path
here = Path({folder!r})
with (here / "told").open("a") as told:
    print(json.dumps(sys.argv[1:] + [os.environ.get("AWS_SECRET_ACCESS_KEY", "")]), file=told)
if sys.argv[1] == "build":
    context = Path(sys.argv[-1])
    (here / "context").write_text(json.dumps(sorted(one.name for one in context.iterdir())))
    sys.exit("no space left on device" if (here / "broken").exists() else 0)
path, name = (sys.argv[3], sys.argv[4]) if sys.argv[2] == "--output" else (sys.argv[5], sys.argv[6])
pieces = {{}}
def blob(content):
    digest = hashlib.sha256(content).hexdigest()
    pieces["blobs/sha256/" + digest] = content
    return {{"digest": "sha256:" + digest, "size": len(content)}}
layer = blob(name.encode() * 1000)
config = blob(json.dumps({{"os": "linux", "architecture": name.rpartition("-")[2]}}).encode())
manifest = blob(json.dumps({{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": config, "layers": [layer]}}).encode())
pieces["index.json"] = json.dumps({{"manifests": [
    {{"mediaType": "application/vnd.oci.image.manifest.v1+json", **manifest}}]}}).encode()
with tarfile.open(path, "w") as archive:
    for name, content in pieces.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
"""


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a docker of ours on the PATH; returns its folder."""
    import sys

    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker"
    program.write_text(BUILDER.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def told(builder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (builder / "told").read_text().splitlines()]


def test_build_gives_the_builder_the_dockerfile_the_packages_and_the_agents_wheel_alone(
    builder: Path, here: Path
) -> None:
    built = run(
        "image",
        "build",
        "--platform",
        "linux/amd64",
        "--platform",
        "linux/arm64",
        "--base",
        "b:1",
        "-o",
        "json",
    )
    names = [f"localhost/sd-on-eks/queue-agent:{__version__}-{arch}" for arch in ("amd64", "arm64")]
    assert built.document["builder"] == "docker"
    assert [one["image"] for one in built.document["images"]] == names
    assert json.loads((builder / "context").read_text()) == [
        "Dockerfile",
        "requirements.lock",
        f"sdctl-{__version__}-py3-none-any.whl",
    ]
    for arguments, name in zip(told(builder), names, strict=True):
        assert arguments[:5] == ["build", "--platform", f"linux/{name.rpartition('-')[2]}", "--tag", name]
        assert "BASE=b:1" in arguments
        assert f"VERSION={__version__}" in arguments


def test_a_build_that_fails_says_what_the_builder_said(builder: Path, here: Path) -> None:
    (builder / "broken").touch()
    failed = run("image", "build", "-o", "json")
    assert (failed.code, failed.error["code"]) == (5, "tool")
    assert "no space left on device" in failed.error["message"]


def test_without_a_builder_it_says_which_ones_would_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    failed = run("image", "build", "-o", "json")
    assert failed.code == 5
    assert "docker, podman, finch, buildah" in failed.error["message"]
    assert run("image", "build", "--platform", "linux/mips").code == 2


def test_a_builder_without_its_daemon_is_passed_over_where_another_one_is(builder: Path, here: Path) -> None:
    works = (builder / "docker").read_text()
    (builder / "buildah").write_text(
        works.replace(
            "import hashlib", 'import sys\nif sys.argv[1:] == ["version"]: sys.exit()\nimport hashlib'
        )
    )
    (builder / "buildah").chmod(0o755)
    built = run("image", "build", "-o", "json")
    assert built.document["builder"] == "buildah", (
        "the docker here knows no `version`, as one without a daemon"
    )
    assert run("image", "build", "--builder", "docker", "-o", "json").document["builder"] == "docker"
    (builder / "buildah").write_text("#!/bin/false\n")
    assert run("image", "build", "-o", "json").document["builder"] == "docker", "the first says what is wrong"


@pytest.mark.parametrize(
    ("wanted", "said"), [("skopeo", "it builds nothing"), ("ls", "is not one of docker")]
)
def test_a_program_that_builds_no_images_is_refused(wanted: str, said: str, here: Path) -> None:
    failed = run("image", "build", "--builder", wanted, "-o", "json")
    assert (failed.code, failed.error["code"]) == (2, "usage")
    assert said in failed.error["message"]


def test_push_sends_both_platforms_under_one_tag_and_tells_no_program_a_password(
    builder: Path, here: Path, registry: OciRegistry
) -> None:
    words = (
        "--platform",
        "linux/amd64",
        "--platform",
        "linux/arm64",
        "--to",
        f"{registry.host}/mirror",
        "-o",
        "json",
    )
    pushed = run("image", "push", *words)
    assert pushed.document["image"] == f"{registry.host}/{AGENT}"
    assert pushed.document["action"] == "pushed"
    repository, _, tag = AGENT.partition(":")
    index = json.loads(registry.manifests[repository, tag][1])
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    assert registry.is_whole(repository, tag)
    assert {arguments[0] for arguments in told(builder)} == {"save"}
    assert run("image", "push", *words).document["action"] == "present"


def test_an_image_that_was_saved_in_another_form_is_an_error_with_the_fix(
    builder: Path, here: Path, registry: OciRegistry
) -> None:
    program = builder / "docker"
    program.write_text('#!/bin/sh\n/bin/echo old >"$3"\n')
    failed = run("image", "push", "--to", f"{registry.host}/mirror", "-o", "json")
    assert (failed.code, failed.error["hint"]) == (5, "docker is needed in version 25 or newer")


# ---- ECR ---------------------------------------------------------------------------------------
def test_a_repository_is_scanned_encrypted_immutable_and_forgets_what_has_no_tag() -> None:
    aws = Aws(AwsAccess("cn-northwest-1"))
    with Stubber(aws.client("ecr")) as stub:
        made: dict[str, Any] = {
            "registryId": "123456789012",
            "repositoryName": "sdctl/a", "imageTagMutability": "IMMUTABLE",
            "imageScanningConfiguration": {"scanOnPush": True},
            "encryptionConfiguration": {"encryptionType": "KMS", "kmsKey": "arn:key"},
            "tags": [{"Key": "sdctl", "Value": "images"}],
        }  # fmt: skip
        stub.add_response("create_repository", {}, made)
        lifecycle = {"rules": [{
            "rulePriority": 1, "description": "What no tag means any more",
            "selection": {
                "tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days",
                "countNumber": 14,
            },
            "action": {"type": "expire"},
        }]}  # fmt: skip
        stub.add_response(
            "put_lifecycle_policy",
            {},
            {
                "registryId": "123456789012",
                "repositoryName": "sdctl/a",
                "lifecyclePolicyText": json.dumps(lifecycle),
            },
        )
        assert Ecr(aws, HOST).ensure("sdctl/a", kms_key_arn="arn:key") is True
        stub.add_client_error("create_repository", "RepositoryAlreadyExistsException")
        assert Ecr(aws, HOST).ensure("sdctl/a") is False
        stub.assert_no_pending_responses()


# ---- Mirroring ---------------------------------------------------------------------------------
def test_what_a_deployment_needs_is_everything_that_its_charts_name(tmp_path: Path) -> None:
    path = tmp_path / "sdctl.yaml"
    path.write_text(yaml.safe_dump({
        "gpuMetricsExporter": True,
        "modelsRuntime": [
            {"name": "a", "type": "sdwebui"}, {"name": "b", "type": "comfyui"},
            {"name": "c", "type": "comfyui"},
            {"name": "d", "type": "sdwebui", "extraValues": {"runtime": {"inferenceApi": {
                "image": {"repository": "ghcr.io/me/webui", "tag": "7"}}}}},
        ],
    }))  # fmt: skip
    found = needed(load_config(path, Overrides(), {}).config)
    by_path = {one.path: one for one in found}
    assert by_path.keys() >= third_party_sources(has_gpu_exporter=True).keys()
    assert len(found) == len(by_path) == len(third_party_sources(has_gpu_exporter=True)) + 3
    assert not by_path["bingjiao/sd-on-eks/sdwebui"].is_versioned
    assert by_path["me/webui"] == Needed("ghcr.io/me/webui:7", "me/webui", "7", runtime="d")
    assert by_path["kedacore/charts/keda"].chart == "keda"
    assert all(Reference.parse(one.source) for one in found if not one.chart)


@pytest.fixture
def sources(
    registry: OciRegistry, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OciRegistry]:
    """A public registry and a chart repository in the place of those of the world."""
    with (
        oci_registry() as public,
        chart_registry({"x/small": SMALL}, tmp_path, needs_login=False) as charts,
    ):
        public.put_image("karpenter/controller", "1.14.1", b"controller")
        public.put_image("bingjiao/sd-on-eks/sdwebui", "latest", b"webui of today")
        listed = {
            "karpenter/controller": f"{public.host}/karpenter/controller:1.14.1",
            "kedacore/charts/small": f"http://{charts.host}/charts#small:{SMALL.about['version']}",
        }
        monkeypatch.setattr(needed_module, "third_party_sources", lambda **options: listed)
        monkeypatch.setitem(
            needed_module.EVALUATION_IMAGES, "sdwebui", f"{public.host}/bingjiao/sd-on-eks/sdwebui"
        )
        (here / "sdctl.yaml").write_text("# mine\nstackName: farm # the farm\n")
        yield public


def mirror(registry: OciRegistry, *more: str) -> Any:
    return run("image", "mirror", "--to", f"{registry.host}/mirror", "-o", "json", *more)


def test_mirror_brings_everything_and_configures_it(
    sources: OciRegistry, registry: OciRegistry, here: Path
) -> None:
    done = mirror(registry)
    assert done.code == 0, done.stderr
    actions = {one["target"].removeprefix("oci://"): one["action"] for one in done.document["images"]}
    pinned = registry.manifests["mirror/bingjiao/sd-on-eks/sdwebui", "latest"][1]
    tag = f"sha256-{hashlib.sha256(pinned).hexdigest()[:16]}"
    webui = f"{registry.host}/mirror/bingjiao/sd-on-eks/sdwebui"
    assert set(actions.values()) == {"copied"}
    assert {f"{webui}:latest", f"{webui}:{tag}"} <= actions.keys()
    for repository, asked in (("karpenter/controller", "1.14.1"), ("bingjiao/sd-on-eks/sdwebui", tag)):
        assert registry.is_whole(f"mirror/{repository}", asked)
    assert (here / "sdctl.yaml").read_text() == (
        f"# mine\nstackName: farm # the farm\nimageRegistry: {registry.host}/mirror\n"
    )
    assert done.document["config"] == {"imageRegistry": f"{registry.host}/mirror"}
    assert done.document["missing"] == [f"{registry.host}/{AGENT}"]
    assert "image build" in done.stderr
    again = mirror(registry)
    assert {one["action"] for one in again.document["images"]} == {"present"}


def test_repositories_are_made_before_and_only_what_has_no_version_may_change(
    sources: OciRegistry, registry: OciRegistry, here: Path
) -> None:
    registry.repositories = set()
    made: dict[str, bool] = {}

    def ensure(name: str, is_mutable: bool) -> None:
        made[name] = is_mutable
        assert registry.repositories is not None
        registry.repositories.add(name)

    wanted = needed(load_config(here / "sdctl.yaml", Overrides(), {}).config)
    with Hosts(lambda host: None, {}) as hosts:
        mirror_all(wanted, f"{registry.host}/m", hosts, ensure=ensure, tell=lambda progress: None)
    assert made == {
        "m/karpenter/controller": False,
        "m/kedacore/charts/small": False,
        "m/bingjiao/sd-on-eks/sdwebui": True,
    }


def test_an_image_of_todays_tag_stays_when_the_tag_moves_on(
    sources: OciRegistry, registry: OciRegistry, here: Path
) -> None:
    mirror(registry)
    before = registry.manifests["mirror/bingjiao/sd-on-eks/sdwebui", "latest"][1]
    sources.put_image("bingjiao/sd-on-eks/sdwebui", "latest", b"webui of tomorrow")
    assert mirror(registry).code == 0
    kept = {
        tag: content for (name, tag), (_, content) in registry.manifests.items() if name.endswith("sdwebui")
    }
    assert kept["latest"] != before
    assert before in [content for tag, content in kept.items() if tag.startswith("sha256-")]


def test_an_interrupted_mirror_goes_on_and_configures_nothing_before_its_end(
    sources: OciRegistry, registry: OciRegistry, here: Path
) -> None:
    sources.faults.append(Fault("GET", "/blobs/", times=99, status=403))
    failed = mirror(registry)
    assert (failed.code, failed.error["code"]) == (5, "registry")
    assert "imageRegistry" not in (here / "sdctl.yaml").read_text()
    sources.faults.clear()
    assert mirror(registry).code == 0


def test_mirror_plans_without_asking_anybody(sources: OciRegistry, registry: OciRegistry, here: Path) -> None:
    planned = mirror(registry, "--plan")
    assert len(planned.document["images"]) == 3
    assert (sources.requests, registry.requests) == ([], [])
    assert "imageRegistry" not in (here / "sdctl.yaml").read_text()
    assert all(one["target"].startswith(f"{registry.host}/") for one in planned.document["images"])
    assert all(":" in one["target"].rpartition("/")[2] for one in planned.document["images"])
    assert run("image", "mirror", "--to", "no host", "--plan").code == 2
    assert run("image", "mirror", "--to", "nohost/path", "--plan").code == 2
    assert run("image", "mirror", "--to", "localhost:5000/path", "--plan").code == 0


def test_the_registry_is_set_in_place_and_the_rest_stays() -> None:
    assert (
        with_registry("a: 1\nimageRegistry: old # why\nb: 2\n", "new/x")
        == "a: 1\nimageRegistry: new/x\nb: 2\n"
    )
    assert (
        with_registry("# imageRegistry: example\na: 1", "n/x")
        == "# imageRegistry: example\na: 1\nimageRegistry: n/x\n"
    )
    assert with_registry("", "n/x") == "imageRegistry: n/x\n"


# ---- The chart ---------------------------------------------------------------------------------
@pytest.fixture(params=[3, 4])
def helm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = helm_tools.helm(request.param)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_the_chart_is_packed_the_same_each_time_and_indexed(helm: Path, here: Path) -> None:
    first = Path(run("chart", "package", "--destination", "one", "-o", "json").document["archive"])
    second = Path(run("chart", "package", "--destination", "two", "-o", "json").document["archive"])
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        assert "sd-on-eks/values.schema.json" in archive.getnames()
    index = run("chart", "index", "one", "--url", "https://charts.example.com", "-o", "json").document[
        "index"
    ]
    [entry] = yaml.safe_load(Path(index).read_text())["entries"]["sd-on-eks"]
    assert entry["urls"] == [f"https://charts.example.com/{first.name}"]
    assert run("chart", "index", "three").code == 4


def test_helm_installs_from_where_the_chart_was_pushed(helm: Path, here: Path, registry: OciRegistry) -> None:
    small = str(ROOT / "tests/support/charts/small")
    pushed = run("chart", "push", f"oci://{registry.host}/charts", "--chart", small, "-o", "json").document
    assert pushed["action"] == "pushed"
    chart = Chart(pushed["chart"], pushed["version"])
    with Helm(helm, environment=os.environ) as runner:
        rendered = runner.template(Release("a", "b", chart), kubernetes_version="1.36")
    assert "kind:" in rendered
    again = run("chart", "push", f"oci://{registry.host}/charts", "--chart", small, "-o", "json").document
    assert (again["action"], again["digest"]) == ("present", pushed["digest"])


def test_another_chart_under_the_same_version_is_a_conflict(
    helm: Path, here: Path, registry: OciRegistry
) -> None:
    for text, code in (("one", 0), ("two", 8)):
        chart = here / "mine"
        (chart / "templates").mkdir(parents=True, exist_ok=True)
        (chart / "Chart.yaml").write_text(
            f"apiVersion: v2\nname: mine\nversion: 1.0.0+a\ndescription: {text}\n"
        )
        assert run("chart", "push", f"oci://{registry.host}/charts", "--chart", str(chart)).code == code
    assert ("charts/mine", "1.0.0_a") in registry.manifests
    assert run("chart", "push", "https://example.com").code == 2


def test_a_chart_that_is_not_what_its_index_says_is_refused(tmp_path: Path) -> None:
    with chart_registry({"x/small": SMALL}, tmp_path, needs_login=False) as charts:
        base, version = f"http://{charts.host}/charts", SMALL.about["version"]
        assert fetch_chart(base, "small", version, environment={}).about["name"] == "small"
        for name, asked, problem in (("small", "9.9.9", "has no small"), ("other", version, "has no other")):
            with pytest.raises(Exception, match=problem):
                fetch_chart(base, name, asked, environment={})
    with pytest.raises(Exception, match="not an https address"):
        fetch_chart("http://192.0.2.1/charts", "small", version, environment={})
