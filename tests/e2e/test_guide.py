"""The guide's sample requests, all task types and both API versions: from HTTP to file and notification."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.farm import Farm, Results

REQUESTS = Path(__file__).parent.parent / "contract" / "requests"


@pytest.fixture(scope="module")
def results(farm: Farm) -> Results:
    return farm.subscribe()


@pytest.fixture(scope="module")
def cat_url(farm: Farm) -> str:
    """Upload an input image as a user without AWS credentials does."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((320, 256)).convert("RGB").save(buffer, "PNG")
    data = buffer.getvalue()
    answer = farm.call(
        "POST", "v1alpha2/uploads", {"filename": "cat.png", "content_type": "image/png", "bytes": len(data)}
    )
    assert answer.status == 200
    assert answer.body["input_url"].startswith("s3://")
    import urllib.request

    put = urllib.request.Request(
        answer.body["upload_url"], data=data, method="PUT", headers={"content-type": "image/png"}
    )
    with urllib.request.urlopen(put, timeout=20) as response:
        assert response.status == 200
    return str(answer.body["input_url"])


def stored_images(farm: Farm, urls: list[str]) -> list[Image.Image]:
    images = []
    for url in urls:
        bucket, key = url.removeprefix("s3://").split("/", 1)
        assert bucket == farm.outputs["OutputS3Bucket"]
        data = farm.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        assert len(data) > 10 * 1024
        images.append(Image.open(io.BytesIO(data)))
    return images


@pytest.mark.parametrize("path", sorted(REQUESTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_request_comes_back_as_files_and_a_notification(
    farm: Farm, results: Results, cat_url: str, path: Path
) -> None:
    version, _, kind = path.stem.partition("-")
    text = path.read_text().replace("https://images.example.com/cat.png", cat_url)
    document: Any = json.loads(text)
    answer = farm.call("POST", version, document)
    assert answer.status == 200, answer.body
    if version == "v1alpha2":
        metadata = document["task"]["metadata"]
        task_id, runtime, prefix = metadata["id"], metadata["runtime"], metadata["prefix"]
        assert answer.body == {
            "id_task": task_id, "id": task_id, "runtime": runtime, "status": "queued",
            "output_location": f"s3://{farm.outputs['OutputS3Bucket']}/{prefix}/{task_id}", "replayed": False,
        }  # fmt: skip
    else:
        task_id, prefix = document["alwayson_scripts"]["id_task"], "outputs"
        assert answer.body == {
            "id_task": task_id, "sd_model_checkpoint": "v1-5-pruned-emaonly.safetensors",
            "output_location": f"s3://{farm.outputs['OutputS3Bucket']}/{prefix}/{task_id}",
        }  # fmt: skip
    task = farm.ended(task_id)
    assert (task["status"], task["error"]) == ("completed", None), task
    told = results.of(task_id)
    assert (told["result"], told["status"], told["image_url"]) == (True, "completed", task["image_url"])
    assert told["output_url"] == task["output_url"]
    sizes = {"extra-single-image": [(1280, 1024)], "extra-batch-images": [(640, 512), (640, 512)]}
    images = stored_images(farm, told["image_url"])
    assert [image.size for image in images] == sizes.get(kind, [(512, 512)])
    stem = f"{prefix}/{task_id}/{task_id}-"
    assert all(url.split("/", 3)[3].startswith(stem) for url in task["image_url"])
    key = told["output_url"].split("/", 3)[3]
    stored = farm.client("s3").get_object(Bucket=farm.outputs["OutputS3Bucket"], Key=key)["Body"].read()
    assert len(stored) < 100_000, "the stored answer holds no image bytes"
    assert json.loads(stored)


def test_a_batch_comes_back_as_that_many_numbered_files(farm: Farm) -> None:
    content = {"prompt": "three dogs", "batch_size": 3, "width": 256, "height": 256, "steps": 2}
    metadata = {"id": "three", "runtime": "sdruntime", "tasktype": "text-to-image", "prefix": "a/b"}
    assert farm.submit({"metadata": metadata, "content": content}).status == 200
    task = farm.ended("three")
    names = [url.rsplit("/", 1)[1] for url in task["image_url"]]
    assert [name.rsplit("-", 1)[1] for name in names] == ["1.png", "2.png", "3.png"]


def test_a_model_of_a_dynamic_runtime_is_switched_to(farm: Farm) -> None:
    content = {
        "prompt": "x",
        "steps": 2,
        "override_settings": {"sd_model_checkpoint": "sdxl-base.safetensors"},
    }
    metadata = {"id": "switch", "runtime": "Dynamic", "tasktype": "text-to-image"}
    assert farm.submit({"metadata": metadata, "content": content}).status == 200
    task = farm.ended("switch")
    assert task["status"] == "completed", task
    (image,) = stored_images(farm, task["image_url"])
    assert "sdxl-base" in str(image.info["parameters"])


def test_a_body_over_the_message_limit_travels_through_storage(farm: Farm) -> None:
    content = {"prompt": "x", "steps": 2, "comment": [str(number) * 20 for number in range(30_000)]}
    metadata = {"id": "large", "runtime": "sdruntime", "tasktype": "text-to-image"}
    assert farm.submit({"metadata": metadata, "content": content}).status == 200
    assert farm.ended("large")["status"] == "completed"


def test_a_message_published_directly_is_worked_off_without_an_id(farm: Farm, results: Results) -> None:
    message = {"metadata": {"tasktype": "text-to-image"}, "content": {"prompt": "x", "steps": 1}}
    sent = farm.client("sns").publish(
        TopicArn=farm.outputs["sdNotificationLambdaARN"],
        Message=json.dumps(message),
        MessageAttributes={"runtime": {"DataType": "String", "StringValue": "SDRuntime"}},
    )
    told = results.of(sent["MessageId"])
    assert told["status"] == "completed"
    assert farm.ended(sent["MessageId"])["tasktype"] == "text-to-image"


def test_a_task_is_listed_newest_first_with_working_links(farm: Farm) -> None:
    import urllib.request

    for number in range(3):
        metadata = {"id": f"list-{number}", "runtime": "sdruntime", "tasktype": "text-to-image"}
        assert farm.submit({"metadata": metadata, "content": {"prompt": "x", "steps": 1}}).status == 200
    for number in range(3):
        farm.ended(f"list-{number}")
    page = farm.call("GET", "v1alpha2/tasks?runtime=sdruntime&status=completed&limit=2").body
    rest = farm.call("GET", f"v1alpha2/tasks?runtime=sdruntime&limit=1&cursor={page['cursor']}").body
    assert [task["id"] for task in [*page["tasks"], *rest["tasks"]]] == ["list-2", "list-1", "list-0"]
    links = farm.call("GET", "v1alpha2/tasks/list-0").body
    for link in (*links["image_links"], links["output_link"]):
        with urllib.request.urlopen(link, timeout=10) as response:
            assert response.read(16)
