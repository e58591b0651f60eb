"""The SD WebUI side of sketch over real HTTP: shapes, errors and life cycle as AUTOMATIC1111 has them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.sketch import ROOT, Sketch, b64, picture, sketch

API = "/sdapi/v1/"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "Stable-diffusion" / "sub").mkdir(parents=True)
    (folder / "Stable-diffusion" / "sub" / "anime.safetensors").touch()
    (folder / "Stable-diffusion" / "readme.txt").touch()
    (folder / "ESRGAN").mkdir()
    (folder / "ESRGAN" / "4x-UltraSharp.pth").touch()
    return folder


@pytest.fixture(scope="module")
def webui(models_dir: Path) -> Iterator[Sketch]:
    arguments = ("--checkpoint", "sdxl-base.safetensors", "--models-dir", str(models_dir))
    with sketch("sdwebui", *arguments) as server:
        yield server


@pytest.fixture(scope="module")
def slow() -> Iterator[Sketch]:
    with sketch("sdwebui", "--seconds-per-image", "20") as server:
        yield server


def test_a_size_is_rounded_down_to_eighths_while_the_info_keeps_what_was_asked(webui: Sketch) -> None:
    answer = webui.draw(prompt="A dog", width=63, height=65)
    assert picture(answer["images"][0]).size == (56, 64)
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (63, 65)


@pytest.mark.parametrize("more", [{"width": -64}, {"height": 7}, {"height": 0, "enable_hr": True}])
def test_a_picture_without_a_pixel_fails_as_a_tensor_does(webui: Sketch, more: dict[str, Any]) -> None:
    answer = webui.post("/sdapi/v1/txt2img", {"prompt": "A dog", **more})
    assert (answer.status, answer.json["error"]) == (500, "RuntimeError")


def test_a_picture_comes_with_the_parameters_it_was_made_from(webui: Sketch) -> None:
    answer = webui.draw(
        prompt="A dog", negative_prompt="bad", steps=2, cfg_scale=7, sampler_name="Euler", seed=3
    )
    image = picture(answer["images"][0])
    info = json.loads(answer["info"])
    text = image.text["parameters"]  # type: ignore[attr-defined]
    assert text == info["infotexts"][0]
    lines = text.split("\n")
    assert lines[:2] == ["A dog", "Negative prompt: bad"]
    assert lines[2].startswith(
        "Steps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.0, Seed: 3, "
        "Size: 64x64, Model hash: "
    )
    assert ", Model: v1-5-pruned-emaonly, " in lines[2]
    assert image.text["runtime"] == "sketch"  # type: ignore[attr-defined]
    assert "not Stable Diffusion" in image.text["Comment"]  # type: ignore[attr-defined]
    assert info["sd_model_name"] == "v1-5-pruned-emaonly"
    assert answer["parameters"]["seed"] == 3
    assert set(answer) == {"images", "parameters", "info"}


def test_every_picture_of_a_batch_has_its_own_seed(webui: Sketch) -> None:
    answer = webui.draw(batch_size=2, n_iter=2, seed=10, steps=2)
    assert json.loads(answer["info"])["all_seeds"] == [10, 11, 12, 13]
    assert len(set(answer["images"])) == 4
    assert (
        picture(answer["images"][1]).tobytes() == picture(webui.draw(seed=11, steps=2)["images"][0]).tobytes()
    )


def test_a_random_seed_is_told_and_gives_the_same_picture_again(webui: Sketch) -> None:
    first = webui.draw(seed=-1)
    seed = json.loads(first["info"])["seed"]
    assert seed >= 0
    assert webui.draw(seed=seed)["images"] == first["images"]


def test_sizes_are_cut_to_multiples_of_8_while_the_info_says_what_was_asked_for(webui: Sketch) -> None:
    answer = webui.draw(width=71, height=65)
    assert picture(answer["images"][0]).size == (64, 64)
    assert json.loads(answer["info"])["width"] == 71


def test_hires_fix_enlarges(webui: Sketch) -> None:
    assert picture(webui.draw(enable_hr=True, hr_scale=2)["images"][0]).size == (128, 128)
    assert picture(webui.draw(enable_hr=True, hr_resize_x=192)["images"][0]).size == (192, 192)


def test_no_images_are_sent_where_none_are_wanted(webui: Sketch) -> None:
    answer = webui.draw(send_images=False)
    assert answer["images"] == []
    assert len(json.loads(answer["info"])["infotexts"]) == 1


def test_what_the_real_server_takes_silently_is_taken(webui: Sketch) -> None:
    answer = webui.draw(sampler_name="NoSuch", scheduler="NoSuch", styles=["none"], unknown_field=1)
    assert json.loads(answer["info"])["sampler_name"] == "DPM++ 2M"
    controlnet = {"controlnet": {"args": [{"image": "x"}]}}
    assert webui.draw(alwayson_scripts=controlnet)["images"]


@pytest.mark.parametrize(
    ("fields", "status", "detail"),
    [
        (
            {"steps": "abc"},
            422,
            [{"loc": ["body", "steps"], "msg": "value is not a valid integer", "type": "type_error.integer"}],
        ),
        (
            {"prompt": None},
            422,
            [
                {
                    "loc": ["body", "prompt"],
                    "msg": "none is not an allowed value",
                    "type": "type_error.none.not_allowed",
                }
            ],
        ),
        ({"script_name": "nosuch"}, 422, "Script 'nosuch' not found"),
        ({"alwayson_scripts": {"task": "text-to-image"}}, 422, "Script 'task' not found"),
    ],
)
def test_bad_fields_are_answered_as_the_real_one_does(
    webui: Sketch, fields: Any, status: int, detail: Any
) -> None:
    answer = webui.post(API + "txt2img", {"prompt": "x", "width": 64, "height": 64, **fields})
    assert (answer.status, answer.json["detail"]) == (status, detail)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"steps": 0}, "ZeroDivisionError"),
        ({"n_iter": 0}, "IndexError"),
        ({"n_iter": 100, "width": 2048, "height": 2048}, "OutOfMemoryError"),
    ],
)
def test_failures_of_the_real_one_are_500_with_class_and_text(webui: Sketch, fields: Any, error: str) -> None:
    answer = webui.post(API + "txt2img", {"prompt": "x", "width": 64, "height": 64, **fields})
    assert answer.status == 500
    assert set(answer.json) == {"error", "detail", "body", "errors"}
    assert answer.json["error"] == error


def test_sizes_out_of_bounds_are_422_with_every_problem(webui: Sketch) -> None:
    answer = webui.post(API + "txt2img", {"prompt": "x", "width": 4097, "height": 8192})
    assert answer.status == 422
    assert [problem["loc"] for problem in answer.json["detail"]] == [["body", "width"], ["body", "height"]]


@pytest.mark.parametrize(
    ("raw", "content_type", "kind"),
    [
        (b"", "application/json", "value_error.missing"), (b"{bad", "application/json",
         "value_error.jsondecode"),
        (b"[1]", "application/json", "type_error.dict"), (b"{}", "text/plain", "type_error.dict"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_object_are_422(webui: Sketch, raw: bytes, content_type: str, kind: str) -> None:
    answer = webui.call("POST", API + "txt2img", raw=raw, content_type=content_type)
    assert (answer.status, answer.json["detail"][0]["type"]) == (422, kind)


def test_hostile_json_is_refused(webui: Sketch) -> None:
    for raw in (
        b'{"cfg_scale": NaN}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\xff"}',
    ):
        assert webui.call("POST", API + "txt2img", raw=raw).status in (400, 422)


def test_unknown_paths_and_methods_have_fastapis_answers(webui: Sketch) -> None:
    assert (webui.post(API + "nosuch", {}).status, webui.post(API + "nosuch", {}).json) == (
        404,
        {"detail": "Not Found"},
    )
    answer = webui.get(API + "txt2img")
    assert (answer.status, answer.json) == (405, {"detail": "Method Not Allowed"})


def test_img2img_keeps_the_composition_and_honours_the_mask(webui: Sketch) -> None:
    source = Image.radial_gradient("L").resize((128, 64)).convert("RGB")
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (64, 0, 128, 64))
    fields = {
        "prompt": "sea",
        "seed": 1,
        "width": 128,
        "height": 64,
        "denoising_strength": 0.6,
        "mask_blur": 0,
    }
    data_url = "data:image/png;base64," + b64(source)
    whole = webui.post(API + "img2img", {**fields, "init_images": [data_url]}).json
    part = webui.post(API + "img2img", {**fields, "init_images": [b64(source)], "mask": b64(mask)}).json
    turned = webui.post(
        API + "img2img",
        {**fields, "init_images": [b64(source)], "mask": b64(mask), "inpainting_mask_invert": 1},
    ).json
    before, full, right, left = (
        np.asarray(image).astype(int)
        for image in (source, *(picture(one["images"][0]) for one in (whole, part, turned)))
    )
    assert np.abs(full - before).mean() > 5
    assert np.abs(right - before)[:, :60].max() == 0
    assert np.abs(right - before)[:, 68:].mean() > 5
    assert np.abs(left - before)[:, 68:].max() == 0
    assert whole["parameters"]["init_images"] is None
    assert json.loads(whole["info"])["denoising_strength"] == 0.6


@pytest.mark.parametrize(
    ("body", "status", "error", "text"),
    [
        ({}, 404, "HTTPException", "Init image not found"),
        ({"init_images": []}, 500, "RuntimeError", ""),
        ({"init_images": ["notbase64!!"]}, 500, "HTTPException", "Invalid encoded image"),
        ({"init_images": ["aGVsbG8="]}, 500, "HTTPException", "Invalid encoded image"),
        ({"init_images": [7]}, 500, "HTTPException", "Invalid encoded image"),
        ({"init_images": ["http://127.0.0.1:1/x.png"]}, 500, "HTTPException", "Requests not allowed"),
    ],
)
def test_pictures_that_cannot_be_read(webui: Sketch, body: Any, status: int, error: str, text: str) -> None:
    answer = webui.post(API + "img2img", {"prompt": "x", **body})
    assert (answer.status, answer.json["error"], answer.json["detail"]) == (status, error, text)


@pytest.mark.parametrize(
    ("fields", "size", "html"),
    [
        ({"upscaling_resize": 2, "upscaler_1": "Lanczos"}, (128, 96),
         "<p>Postprocess upscale by: 2.0, Postprocess upscaler: Lanczos</p>"),
        ({"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 90, "upscaler_1": "Nearest"},
         (100, 90),
         "<p>Postprocess upscale to: 100x90, Postprocess crop to: 100x90, Postprocess upscaler: Nearest</p>"),
        ({"upscaler_1": "4x-UltraSharp", "upscaling_resize": 1.5}, (96, 72),
         "<p>Postprocess upscale by: 1.5, Postprocess upscaler: 4x-UltraSharp</p>"),
        ({}, (64, 48), "<p></p>"),
    ],
)  # fmt: skip
def test_extras_really_resize(webui: Sketch, fields: Any, size: tuple[int, int], html: str) -> None:
    source = b64(Image.radial_gradient("L").resize((64, 48)))
    single = webui.post(API + "extra-single-image", {"image": source, **fields}).json
    assert (picture(single["image"]).size, single["html_info"]) == (size, html)
    images = [{"data": source, "name": "a.png"}, {"data": source, "name": "b.png"}]
    batch = webui.post(API + "extra-batch-images", {"imageList": images, **fields}).json
    assert [picture(one).size for one in batch["images"]] == [size, size]


def test_extras_refuse_what_they_cannot_do(webui: Sketch) -> None:
    source = b64(Image.new("RGB", (64, 64)))
    unknown = webui.post(API + "extra-single-image", {"image": source, "upscaler_1": "NoSuch"})
    assert (unknown.status, unknown.json["errors"]) == (500, "could not find upscaler named NoSuch")
    huge = webui.post(
        API + "extra-single-image", {"image": source, "upscaler_1": "Lanczos", "upscaling_resize": 1e6}
    )
    assert (huge.status, huge.json["error"]) == (500, "OutOfMemoryError")
    assert webui.post(API + "extra-batch-images", {}).status == 422


def test_models_are_listed_from_everywhere_and_rescanned(webui: Sketch, models_dir: Path) -> None:
    names = [row["model_name"] for row in webui.get(API + "sd-models").json]
    assert names == ["v1-5-pruned-emaonly", "sdxl-base", "sub_anime"]
    late = models_dir / "Stable-diffusion" / "late.ckpt"
    late.touch()
    assert len(webui.get(API + "sd-models").json) == 3
    answer = webui.call("POST", API + "refresh-checkpoints")
    assert (answer.status, answer.json) == (200, None)
    assert (
        "late.ckpt"
        in webui.get(API + "sd-models").json[-2]["title"] + webui.get(API + "sd-models").json[-1]["title"]
    )


def model_of(answer: Any) -> str:
    return str(json.loads(answer["info"])["sd_model_name"])


def test_a_model_is_switched_to_by_options_and_for_one_job_by_override(webui: Sketch) -> None:
    rows = {row["model_name"]: row for row in webui.get(API + "sd-models").json}
    before = webui.get(API + "options").json["sd_model_checkpoint"]
    for name in ("sdxl-base", "sdxl-base.safetensors", rows["sdxl-base"]["title"], rows["sdxl-base"]["hash"]):
        answer = webui.draw(override_settings={"sd_model_checkpoint": name})
        assert model_of(answer) == "sdxl-base"
        assert webui.get(API + "options").json["sd_model_checkpoint"] == before
    assert model_of(webui.draw(override_settings={"sd_model_checkpoint": "no-such"})) == "v1-5-pruned-emaonly"
    kept = {
        "override_settings": {"sd_model_checkpoint": "sdxl-base"},
        "override_settings_restore_afterwards": False,
    }
    assert (
        webui.draw(**kept)["images"]
        != webui.draw(override_settings={"sd_model_checkpoint": "v1-5"})["images"]
    )
    assert model_of(webui.draw()) == "sdxl-base"
    assert webui.post(API + "options", {"sd_model_checkpoint": before}).json is None
    assert model_of(webui.draw()) == "v1-5-pruned-emaonly"


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        ({"sd_model_checkpoint": "nosuch"}, "RuntimeError", "model 'nosuch' not found"),
        ({"nosuch_option": 1}, "KeyError", "'nosuch_option'"),
    ],
)
def test_options_that_do_not_exist_are_500(webui: Sketch, body: Any, error: str, text: str) -> None:
    answer = webui.post(API + "options", body)
    assert (answer.status, answer.json) == (500, {"error": error, "detail": "", "body": "", "errors": text})


@pytest.mark.parametrize(
    "name",
    [
        "samplers",
        "schedulers",
        "upscalers",
        "sd-vae",
        "loras",
        "embeddings",
        "prompt-styles",
        "cmd-flags",
        "memory",
        "progress",
        "scripts",
        "latent-upscale-modes",
        "face-restorers",
        "hypernetworks",
        "extensions",
        "script-info",
        "realesrgan-models",
    ],
)
def test_every_list_answers(webui: Sketch, name: str) -> None:
    assert webui.get(API + name).status == 200


def test_the_openapi_document_names_every_route(webui: Sketch) -> None:
    paths = webui.get("/openapi.json").json["paths"]
    assert {"/sdapi/v1/txt2img", "/sdapi/v1/progress", "/sdapi/v1/extra-batch-images"} <= set(paths)


def test_idle_controls_answer_as_the_real_one(webui: Sketch) -> None:
    for name, body in (
        ("interrupt", {}),
        ("skip", None),
        ("unload-checkpoint", {}),
        ("reload-checkpoint", {}),
    ):
        answer = webui.call("POST", API + name)
        assert (answer.status, answer.json) == (200, body)
    assert webui.draw()["images"], "an interrupt while idle does not hit the next job"


def in_background(work: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def wait_for_step(server: Sketch, step: int) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        progress = server.get(API + "progress", skip_current_image="true").json
        if progress["state"]["job"] and progress["state"]["sampling_step"] >= step:
            return progress
        time.sleep(0.01)
    raise AssertionError("the job never got that far")


def test_a_running_job_shows_its_progress_and_an_interrupt_returns_it_unfinished(slow: Sketch) -> None:
    fields = {"steps": 100, "width": 128, "height": 128, "n_iter": 3}
    thread, results = in_background(lambda: slow.draw(**fields))
    progress = wait_for_step(slow, 2)
    state = progress["state"]
    assert (state["job"], state["job_count"], state["job_no"], state["sampling_steps"]) == (
        "scripts_txt2img",
        3,
        0,
        100,
    )
    assert 0.01 < progress["progress"] < 0.05
    assert progress["eta_relative"] > 5
    assert progress["current_image"] is None
    shown = picture(slow.get(API + "progress").json["current_image"])
    assert shown.size == (128, 128)
    start = time.monotonic()
    assert slow.call("POST", API + "interrupt").json == {}
    thread.join(5)
    assert time.monotonic() - start < 1, "the interrupted call returns at once"
    (answer,) = results
    assert len(answer["images"]) == 1, "no further picture was begun"
    idle = slow.get(API + "progress").json
    assert (idle["progress"], idle["state"]["job"], idle["state"]["interrupted"]) == (0, "", True)
    assert idle["current_image"] is None


def test_one_job_runs_at_a_time_and_skip_ends_its_batch(slow: Sketch) -> None:
    first, first_results = in_background(lambda: slow.draw(steps=100, seed=1))
    wait_for_step(slow, 1)
    second, second_results = in_background(lambda: slow.draw(steps=50, seed=2))
    time.sleep(0.2)
    assert slow.get(API + "progress").json["state"]["sampling_steps"] == 100, "the second waits"
    slow.call("POST", API + "skip")
    first.join(5)
    deadline = time.monotonic() + 5
    while slow.get(API + "progress").json["state"]["sampling_steps"] != 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    slow.call("POST", API + "interrupt")
    second.join(5)
    assert [len(one["images"]) for one in (*first_results, *second_results)] == [1, 1]


def test_web_pages_of_other_sites_get_nothing(webui: Sketch) -> None:
    assert webui.call("POST", API + "interrupt", Origin="https://example.com").status == 403
    assert webui.call("POST", API + "interrupt", Origin=webui.url).status == 200


@pytest.mark.parametrize(
    "name", ["v1alpha2-text-to-image", "v1alpha2-image-to-image", "v1alpha2-extra-single-image"]
)
def test_the_guides_sample_requests_are_drawn(webui: Sketch, name: str) -> None:
    task = json.loads((ROOT / f"tests/contract/requests/{name}.json").read_text())["task"]
    tasktype = task["metadata"]["tasktype"]
    route = {"text-to-image": "txt2img", "image-to-image": "img2img"}.get(tasktype, tasktype)
    source = b64(Image.radial_gradient("L").convert("RGB"))
    content = {**task["content"]}
    content.pop("alwayson_scripts", None)
    if "init_images" in content:
        content["init_images"] = [source]
    if "image" in content:
        content["image"] = source
    answer = webui.post(API + route, content)
    assert answer.status == 200, answer.body


def test_webuiapi_is_satisfied(webui: Sketch) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    api = webuiapi.WebUIApi(host="127.0.0.1", port=webui.port)
    drawn = api.txt2img(prompt="a dog", width=64, height=64, steps=2, seed=1)
    assert drawn.image.size == (64, 64)
    assert drawn.info["sd_model_name"] == "v1-5-pruned-emaonly"
    changed = api.img2img(images=[drawn.image], prompt="a cat", width=64, height=64, steps=2)
    assert changed.image.size == (64, 64)
    larger = api.extra_single_image(image=drawn.image, upscaler_1="Lanczos", upscaling_resize=2)
    assert larger.image.size == (128, 128)
    both = api.extra_batch_images(images=[drawn.image, drawn.image], upscaler_1="Nearest", upscaling_resize=2)
    assert [image.size for image in both.images] == [(128, 128)] * 2
    assert "sdxl-base" in [row["model_name"] for row in api.get_sd_models()]
    assert "Euler" in [row["name"] for row in api.get_samplers()]
    assert api.get_progress()["progress"] == 0
    api.util_set_model("sdxl-base")
    assert "sdxl-base" in api.util_get_current_model()
    api.util_set_model("v1-5-pruned-emaonly")
