"""The ComfyUI side of sketch over real HTTP and web sockets: shapes, orders, errors as in ComfyUI 0.33."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.sketch import Sketch, events, picture, png, sketch, text_to_image

TROUBLE = b"500 Internal Server Error\n\nServer got itself in trouble"


@pytest.fixture(scope="module")
def comfy() -> Iterator[Sketch]:
    with sketch("comfyui", "--checkpoint", "other.safetensors") as server:
        yield server


@pytest.fixture(scope="module")
def slow() -> Iterator[Sketch]:
    with sketch("comfyui", "--seconds-per-image", "20") as server:
        yield server


def without_states(found: list[tuple[str, Any]]) -> list[str]:
    return [kind for kind, _ in found if kind not in ("progress_state", "status")]


def outputs(entry: dict[str, Any], node: str = "9") -> list[dict[str, str]]:
    assert entry["status"]["status_str"] == "success", entry["status"]
    rows: list[dict[str, str]] = entry["outputs"][node]["images"]
    return rows


def test_a_run_tells_its_client_everything_in_the_real_order(comfy: Sketch) -> None:
    with comfy.socket("order") as socket:
        hello = json.loads(socket.recv(timeout=5))
        assert hello == {
            "type": "status",
            "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "order"},
        }
        graph = text_to_image(seed=101)
        answer = comfy.post("/prompt", {"prompt": graph, "client_id": "order"}).json
        assert set(answer) == {"prompt_id", "number", "node_errors"}
        found = events(socket, answer["prompt_id"])
    assert without_states(found)[:2] == ["execution_start", "execution_cached"]
    assert without_states(found)[-4:] == ["executing", "executed", "execution_success", "executing"]
    executing = [data["node"] for kind, data in found if kind == "executing"]
    assert executing[-3:] == ["8", "9", None]
    assert set(executing[:-3]) == {"3", "4", "5", "6", "7"}
    assert executing[-4] == "3"
    statuses = [data["status"]["exec_info"]["queue_remaining"] for kind, data in found if kind == "status"]
    assert statuses == [1, 1, 0]
    kinds = [kind for kind, _ in found]
    assert kinds.index("execution_success") < len(kinds) - 1 - kinds[::-1].index("status") < len(kinds) - 1
    progress = [data for kind, data in found if kind == "progress"]
    assert progress[-1] == {"value": 4, "max": 4, "prompt_id": answer["prompt_id"], "node": "3"}
    state = next(data for kind, data in found if kind == "progress_state")
    (node,) = state["nodes"].values()
    assert set(node) == {
        "value",
        "max",
        "state",
        "node_id",
        "prompt_id",
        "display_node_id",
        "parent_node_id",
        "real_node_id",
    }
    row = next(data for kind, data in found if kind == "executed")
    entry = comfy.get(f"/history/{answer['prompt_id']}").json[answer["prompt_id"]]
    assert entry["outputs"] == {"9": row["output"]}
    assert entry["prompt"][:3] == [answer["number"], answer["prompt_id"], graph]
    assert entry["prompt"][3]["client_id"] == "order"
    assert entry["prompt"][4] == ["9"]
    assert [name for name, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert entry["meta"] == {
        "9": {"node_id": "9", "display_node": "9", "parent_node": None, "real_node_id": "9"}
    }


def test_an_identical_workflow_is_answered_from_the_cache_with_the_old_file(comfy: Sketch) -> None:
    graph = text_to_image(seed=102)
    first = comfy.run(graph)
    with comfy.socket("cached") as socket:
        answer = comfy.post("/prompt", {"prompt": graph, "client_id": "cached"}).json
        found = events(socket, answer["prompt_id"])
    cached = next(data for kind, data in found if kind == "execution_cached")
    assert set(cached["nodes"]) == set(graph)
    assert without_states(found) == [
        "execution_start",
        "execution_cached",
        "executed",
        "execution_success",
        "executing",
    ]
    assert comfy.ended(answer["prompt_id"])["outputs"] == first["outputs"]
    graph["3"]["inputs"]["seed"] = 103
    assert outputs(comfy.run(graph)) != outputs(first)


def test_a_picture_carries_its_workflow_and_says_what_drew_it(comfy: Sketch) -> None:
    graph = text_to_image(seed=104)
    extra = {"extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    (row,) = outputs(comfy.run(graph, **extra))
    data = comfy.view(row)
    text = picture(data).text  # type: ignore[attr-defined]
    assert json.loads(text["prompt"])["3"]["inputs"]["seed"] == 104
    assert json.loads(text["workflow"]) == {"nodes": []}
    assert text["runtime"] == "sketch"
    assert "not Stable Diffusion" in text["Comment"]
    assert len(data) > 10 * 1024


def test_a_batch_of_three_has_three_files_of_three_pictures(comfy: Sketch) -> None:
    rows = outputs(comfy.run(text_to_image(seed=105, batch=3)))
    names = [row["filename"] for row in rows]
    assert names == sorted(names)
    assert names[0].startswith("ComfyUI_")
    assert names[0].endswith("_.png")
    assert len({picture(comfy.view(row)).tobytes() for row in rows}) == 3


def image_graph(name: str, **sampler: Any) -> dict[str, Any]:
    graph = text_to_image(**sampler)
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": name, "upload": "image"}}
    graph["11"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}}
    graph["3"]["inputs"] |= {"latent_image": ["11", 0], "denoise": 0.5}
    del graph["5"]
    return graph


def test_img2img_starts_from_the_uploaded_picture(comfy: Sketch) -> None:
    source = Image.radial_gradient("L").resize((128, 64)).convert("RGB")
    assert comfy.upload("start.png", png(source)).json == {
        "name": "start.png",
        "subfolder": "",
        "type": "input",
    }
    graph = image_graph("start.png", seed=106)
    (row,) = outputs(comfy.run(graph))
    changed = np.asarray(picture(comfy.view(row))).astype(int)
    assert changed.shape == (64, 128, 3)
    graph["3"]["inputs"]["denoise"] = 0.0
    (row,) = outputs(comfy.run(graph))
    assert np.array_equal(np.asarray(picture(comfy.view(row))), np.asarray(source))
    assert np.abs(changed - np.asarray(source)).mean() > 5


def test_a_changed_upload_of_the_same_name_is_not_taken_from_the_cache(comfy: Sketch) -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "same.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "same"}},
    }
    names = set()
    for shade in (10, 200):
        comfy.upload("same.png", png(Image.new("RGB", (64, 64), (shade, 0, 0))), overwrite="true")
        (row,) = outputs(comfy.run(graph), "2")
        assert picture(comfy.view(row)).getpixel((0, 0)) == (shade, 0, 0)
        names.add(row["filename"])
    assert len(names) == 2


@pytest.mark.parametrize(
    ("node", "size"),
    [
        (
            {
                "class_type": "ImageScale",
                "inputs": {"upscale_method": "lanczos", "width": 100, "height": 0, "crop": "disabled"},
            },
            (100, 100),
        ),
        (
            {
                "class_type": "ImageScale",
                "inputs": {"upscale_method": "area", "width": 90, "height": 40, "crop": "center"},
            },
            (90, 40),
        ),
        ({"class_type": "ImageScaleBy", "inputs": {"upscale_method": "bicubic", "scale_by": 1.5}}, (96, 96)),
        ({"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["20", 0]}}, (128, 128)),
        ({"class_type": "SomeoneElsesSharpen", "inputs": {"amount": 2}}, (64, 64)),
    ],
)
def test_scaling_nodes_really_scale_and_unknown_ones_hand_on(comfy: Sketch, node: Any, size: Any) -> None:
    graph = text_to_image(seed=107)
    graph["20"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "2x-Something.pth"}}
    graph["21"] = {**node, "inputs": {"image": ["8", 0], **node["inputs"]}}
    graph["9"]["inputs"]["images"] = ["21", 0]
    (row,) = outputs(comfy.run(graph))
    assert picture(comfy.view(row)).size == size


def test_latents_are_upscaled_and_sampled_again(comfy: Sketch) -> None:
    graph = text_to_image(seed=108)
    graph["30"] = {
        "class_type": "LatentUpscaleBy",
        "inputs": {"samples": ["3", 0], "upscale_method": "bislerp", "scale_by": 2.0},
    }
    graph["31"] = {
        "class_type": "KSampler",
        "inputs": {**graph["3"]["inputs"], "latent_image": ["30", 0], "denoise": 0.4},
    }
    graph["8"]["inputs"]["samples"] = ["31", 0]
    (row,) = outputs(comfy.run(graph))
    assert picture(comfy.view(row)).size == (128, 128)


def test_workflows_of_newer_and_foreign_nodes_give_a_picture(comfy: Sketch) -> None:
    flux = {
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["13", 0], "vae": ["10", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "flux", "images": ["8", 0]}},
        "10": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
        "11": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b",
         "type": "flux"}},
        "12": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors",
         "weight_dtype": "default"}},
        "13": {"class_type": "SamplerCustomAdvanced", "inputs": {
            "noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0],
            "latent_image": ["27", 0]}},
        "16": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "17": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 3, "denoise": 1,
         "model": ["12", 0]}},
        "22": {"class_type": "BasicGuider", "inputs": {"model": ["12", 0], "conditioning": ["6", 0]}},
        "25": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
        "27": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 96, "height": 64, "batch_size": 1}},
    }  # fmt: skip
    efficient = {
        "1": {"class_type": "Efficient Loader", "inputs": {
            "ckpt_name": "other.safetensors", "positive": "a bird", "negative": "bad",
            "empty_latent_width": 96, "empty_latent_height": 64, "batch_size": 1}},
        "2": {"class_type": "KSampler (Efficient)", "inputs": {
            "seed": 3, "steps": 3, "model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2],
            "latent_image": ["1", 3]}},
        "9": {"class_type": "Image Save", "inputs": {"images": ["2", 5], "filename_prefix": "eff"}},
    }  # fmt: skip
    first: dict[str, bytes] = {}
    for name, graph in (("flux", flux), ("efficient", efficient)):
        (row,) = outputs(comfy.run(graph))
        image = picture(comfy.view(row))
        assert image.size == (96, 64)
        first[name] = image.tobytes()
    flux["25"]["inputs"]["noise_seed"] = 8  # type: ignore[index]
    flux["9"]["inputs"]["filename_prefix"] = "eff"  # type: ignore[index]
    (row,) = outputs(comfy.run(flux))
    assert picture(comfy.view(row)).tobytes() != first["flux"], "the seed is found through the link"


def test_animations_have_their_frames(comfy: Sketch) -> None:
    graph = text_to_image(seed=109, batch=3)
    image = {"images": ["8", 0], "filename_prefix": "anim/a"}
    graph["40"] = {
        "class_type": "SaveAnimatedWEBP",
        "inputs": {**image, "fps": 6.0, "lossless": True, "quality": 80, "method": "default"},
    }
    graph["41"] = {"class_type": "SaveAnimatedPNG", "inputs": {**image, "fps": 6.0, "compress_level": 4}}
    graph["42"] = {
        "class_type": "VHS_VideoCombine",
        "inputs": {
            **image,
            "frame_rate": 8,
            "loop_count": 0,
            "format": "image/gif",
            "pingpong": False,
            "save_output": True,
        },
    }
    entry = comfy.run(graph)
    assert entry["outputs"]["40"]["animated"] == [True]
    (gif,) = entry["outputs"]["42"]["gifs"]
    assert (gif["format"], gif["frame_rate"], gif["subfolder"]) == ("image/gif", 8.0, "anim")
    for row in (outputs(entry, "40")[0], outputs(entry, "41")[0], gif):
        answer = comfy.get("/view", filename=row["filename"], subfolder=row["subfolder"], type=row["type"])
        assert answer.headers["Content-Type"].startswith(f"image/{row['filename'].rsplit('.', 1)[1]}")
        shown = picture(answer.body)
        assert shown.n_frames == 3  # type: ignore[attr-defined]


def test_previews_go_to_temp_text_to_text_and_websocket_pictures_to_the_socket(comfy: Sketch) -> None:
    graph = text_to_image(seed=110)
    graph["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    graph["50"] = {"class_type": "PrimitiveString", "inputs": {"value": "hello"}}
    graph["51"] = {"class_type": "PreviewAny", "inputs": {"source": ["50", 0]}}
    graph["52"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["8", 0]}}
    with comfy.socket("sockets") as socket:
        answer = comfy.post("/prompt", {"prompt": graph, "client_id": "sockets"}).json
        found = events(socket, answer["prompt_id"])
    (binary,) = [data for kind, data in found if kind == "binary"]
    assert binary[:8] == bytes([0, 0, 0, 1, 0, 0, 0, 2])
    assert picture(binary[8:]).size == (64, 64)
    entry = comfy.ended(answer["prompt_id"])
    assert outputs(entry)[0]["type"] == "temp"
    assert outputs(entry)[0]["filename"].startswith("ComfyUI_temp_")
    assert entry["outputs"]["51"] == {"text": ["hello"]}
    assert "52" not in entry["outputs"]


def broken(**changes: Any) -> dict[str, Any]:
    graph = text_to_image(seed=111)
    for place, value in changes.items():
        node, _, name = place.removeprefix("n").partition("_")
        if name:
            graph[node]["inputs"][name] = value
        else:
            graph[node] = value
    return graph


def no_input(node: str, name: str) -> dict[str, Any]:
    graph = text_to_image()
    del graph[node]["inputs"][name]
    return graph


@pytest.mark.parametrize(
    ("graph", "node", "kind", "details"),
    [
        (no_input("3", "seed"), "3", "required_input_missing", "seed"),
        (broken(n4_ckpt_name="none.safetensors"), "4", "value_not_in_list",
         "ckpt_name: 'none.safetensors' not in ['v1-5-pruned-emaonly.safetensors', 'other.safetensors']"),
        (broken(n5_width=3), "5", "value_smaller_than_min", "width"),
        (broken(n3_steps=100000), "3", "value_bigger_than_max", "steps"),
        (broken(n3_cfg="abc"), "3", "invalid_input_type",
         "cfg, abc, could not convert string to float: 'abc'"),
        (broken(n3_sampler_name="nosuch"), "3", "value_not_in_list",
         "sampler_name: 'nosuch' not in (list of length 44)"),
        (broken(n9_images=["99", 0]), "9", "exception_during_validation", "'99'"),
        (broken(n8_samples=["99", 0]), "8", "exception_during_inner_validation", "'99'"),
        (broken(n9_images=["8"]), "9", "bad_linked_input", "images"),
        (broken(n9_images=["8", 7]), "9", "exception_during_validation", "tuple index out of range"),
        (broken(n9_images=["3", 0]), "9", "return_type_mismatch",
         "images, received_type(LATENT) mismatch input_type(IMAGE)"),
        (broken(n9={"class_type": "SaveImage"}), "9", "exception_during_validation", "'inputs'"),
        (image_graph("nosuch.png"), "10", "custom_validation_failed",
         "image - Invalid image file: nosuch.png"),
        (image_graph("../../etc/passwd"), "10", "custom_validation_failed",
         "image - Invalid image file: ../../etc/passwd"),
        (broken(n8={"class_type": "Mine", "inputs": {"image": ["60", 0]}}, n60={"class_type": "Mine",
         "inputs": {"image": ["8", 0]}}),
         "60", "dependency_cycle", "9 -> 8 -> 60 -> 8"),
    ],
)  # fmt: skip
def test_what_is_surely_wrong_is_refused_in_the_real_words(
    comfy: Sketch, graph: Any, node: str, kind: str, details: str
) -> None:
    answer = comfy.post("/prompt", {"prompt": graph})
    assert answer.status == 400
    assert answer.json["error"]["type"] == "prompt_outputs_failed_validation"
    problems = answer.json["node_errors"][node]
    (problem,) = problems["errors"]
    assert (problem["type"], problem["details"]) == (kind, details)
    assert (problems["dependent_outputs"], problems["class_type"]) == (["9"], graph[node]["class_type"])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "no_prompt"), ([1], "no_prompt"), ({"prompt": {}}, "prompt_no_outputs"),
        ({"prompt": {"1": {"inputs": {}}}}, "missing_node_type"),
        ({"prompt": {"1": {"class_type": "5b3c1c0e-6b0e-4c69-9b8a-0d1a4c6f2d11", "inputs": {}}}},
         "missing_node_type"),
        ({"prompt": {"1": {"class_type": "Note", "inputs": {}}}}, "missing_node_type"),
        ({"prompt": {"4": text_to_image()["4"]}}, "prompt_no_outputs"),
        ({"prompt": text_to_image(), "prompt_id": "not-a-uuid"}, "invalid_prompt_id"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_run_are_400(comfy: Sketch, body: Any, kind: str) -> None:
    answer = comfy.post("/prompt", body)
    assert (answer.status, answer.json["error"]["type"], answer.json["node_errors"]) == (400, kind, {})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{bad",
        b'{"prompt": []}',
        b'{"prompt": "x"}',
        b'{"prompt": {"nodes": [], "version": 0.4}}',
        b"[" * 99999,
    ],
)
def test_what_the_real_server_stumbles_over_is_a_bare_500(comfy: Sketch, raw: bytes) -> None:
    answer = comfy.call("POST", "/prompt", raw=raw)
    assert (answer.status, answer.body) == (500, TROUBLE)


def test_one_bad_output_does_not_stop_the_others(comfy: Sketch) -> None:
    graph = text_to_image(seed=112)
    graph["70"] = {"class_type": "LoadImage", "inputs": {"image": "nosuch.png"}}
    graph["71"] = {"class_type": "PreviewImage", "inputs": {"images": ["70", 0]}}
    answer = comfy.post("/prompt", {"prompt": graph})
    assert answer.status == 200
    assert answer.json["node_errors"]["70"]["dependent_outputs"] == ["71"]
    assert set(comfy.ended(answer.json["prompt_id"])["outputs"]) == {"9"}


@pytest.mark.parametrize(
    ("changes", "node", "kind"),
    [
        ({"n9_filename_prefix": "../../evil"}, "9", "Exception"),
        ({"n5_width": 16384}, "5", "OutOfMemoryError"),
        (
            {"n9": {"class_type": "SaveAudio", "inputs": {"audio": ["8", 0], "filename_prefix": "a"}}},
            "9",
            "NotImplementedError",
        ),
    ],
)
def test_a_failing_node_ends_the_run_with_its_reason(
    comfy: Sketch, changes: Any, node: str, kind: str
) -> None:
    with comfy.socket("fail") as socket:
        answer = comfy.post("/prompt", {"prompt": broken(**changes), "client_id": "fail"}).json
        found = events(socket, answer["prompt_id"])
    assert [name for name, _ in found][-3:] == ["execution_error", "status", "executing"]
    error = next(data for name, data in found if name == "execution_error")
    assert (error["node_id"], error["exception_type"]) == (node, kind)
    assert set(error) >= {
        "node_type",
        "executed",
        "exception_message",
        "traceback",
        "current_inputs",
        "current_outputs",
    }
    status = comfy.ended(answer["prompt_id"])["status"]
    assert (status["status_str"], status["completed"], status["messages"][-1][0]) == (
        "error",
        False,
        "execution_error",
    )


def test_a_broken_upload_fails_in_its_node(comfy: Sketch) -> None:
    comfy.upload("corrupt.png", b"hello")
    entry = comfy.run(image_graph("corrupt.png"))
    assert entry["status"]["messages"][-1][1]["exception_type"] == "PIL.UnidentifiedImageError"


def test_uploads_are_named_as_the_real_server_names_them(comfy: Sketch) -> None:
    one, other = b"first", b"second"
    assert comfy.upload("in.png", one).json["name"] == "in.png"
    assert comfy.upload("in.png", one).json["name"] == "in.png"
    assert comfy.upload("in.png", other).json["name"] == "in (1).png"
    assert comfy.upload("in.png", other, overwrite="true").json["name"] == "in.png"
    assert comfy.upload("in.png", one, subfolder="a/b").json == {
        "name": "in.png",
        "subfolder": "a/b",
        "type": "input",
    }
    assert comfy.upload("in.png", one, type="temp").json["type"] == "temp"
    assert comfy.upload("..%2Fevil.png", one).json["name"] == "..%2Fevil.png"
    assert comfy.get("/view", filename="in.png", type="input").body == other


def test_uploads_that_lead_elsewhere_are_refused(comfy: Sketch) -> None:
    assert comfy.upload("in.png", b"x", subfolder="../../x").status == 400
    assert comfy.upload("../evil.png", b"x").status == 400
    assert comfy.upload("in.png", b"x", type="bogus").status == 500
    empty = comfy.call(
        "POST", "/upload/image", raw=b"--x--\r\n", content_type="multipart/form-data; boundary=x"
    )
    assert (empty.status, empty.body) == (400, b"")


def test_a_mask_becomes_the_alpha_of_the_picture(comfy: Sketch) -> None:
    comfy.upload("base.png", png(Image.new("RGB", (64, 64), (1, 2, 3))))
    reference = json.dumps({"filename": "base.png", "type": "input", "subfolder": ""})
    alpha = Image.new("RGBA", (64, 64), (0, 0, 0, 77))
    stored = comfy.upload(
        "masked.png", png(alpha), route="mask", original_ref=reference, subfolder="clipspace"
    ).json
    assert stored == {"name": "masked.png", "subfolder": "clipspace", "type": "input"}
    data = comfy.get("/view", filename="masked.png", subfolder="clipspace", type="input").body
    assert picture(data).getpixel((0, 0)) == (1, 2, 3, 77)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 404), ({"filename": "nosuch.png"}, 404), ({"filename": "../x.png"}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "x.png", "type": "bogus"}, 400), ({"filename": "x.png", "subfolder": "../.."}, 403),
        ({"filename": "x.png", "subfolder": "/etc"}, 403),
    ],
)  # fmt: skip
def test_view_shows_nothing_but_its_own_files(comfy: Sketch, query: dict[str, str], status: int) -> None:
    answer = comfy.get("/view", **query)
    assert (answer.status, answer.body) == (status, b"")


def test_an_upload_is_never_shown_as_a_page(comfy: Sketch) -> None:
    comfy.upload("page.html", b"<script>alert(1)</script>")
    assert (
        comfy.get("/view", filename="page.html", type="input").headers["Content-Type"]
        == "application/octet-stream"
    )


@pytest.mark.parametrize(
    "path", ["/system_stats", "/object_info", "/object_info/KSampler", "/queue", "/history", "/prompt",
     "/features",
             "/embeddings", "/models", "/models/checkpoints", "/extensions"],
)  # fmt: skip
def test_every_route_answers_below_api_too(comfy: Sketch, path: str) -> None:
    assert comfy.get(path).status == 200
    assert comfy.get("/api" + path).status == 200


def test_the_lists_hold_the_checkpoints_and_unknown_things_are_as_in_the_real_one(comfy: Sketch) -> None:
    assert comfy.get("/models/checkpoints").json == ["v1-5-pruned-emaonly.safetensors", "other.safetensors"]
    info = comfy.get("/object_info/CheckpointLoaderSimple").json["CheckpointLoaderSimple"]
    assert info["input"]["required"]["ckpt_name"][0] == [
        "v1-5-pruned-emaonly.safetensors",
        "other.safetensors",
    ]
    assert comfy.get("/object_info/NoSuch").json == {}
    assert (comfy.get("/models/nosuch").status, comfy.get("/nosuch").status, comfy.get("/jobs").status) == (
        404,
        404,
        404,
    )
    assert comfy.get("/system_stats").json["system"]["runtime"] == "sketch"
    assert comfy.get("/api/jobs/00000000-0000-0000-0000-000000000000").json == {"error": "Job not found"}
    assert comfy.call("POST", "/interrupt").status == 200
    assert (comfy.call("POST", "/queue").status, comfy.call("POST", "/free").status) == (500, 500)
    assert comfy.post("/free", {"unload_models": True}).status == 200


def test_history_is_paged_and_cleared(comfy: Sketch) -> None:
    graph = text_to_image(seed=113)
    own = "aaaaaaaa-0000-4000-8000-000000000001"
    comfy.run(graph, prompt_id=own)
    assert list(comfy.get("/history", max_items="1").json) == [own]
    assert comfy.post("/history", {"delete": [own]}).status == 200
    assert comfy.get(f"/history/{own}").json == {}
    comfy.post("/history", {"clear": True})
    assert comfy.get("/history").json == {}


def wait_for(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


def test_queued_jobs_are_listed_deleted_cancelled_and_the_running_one_interrupted(slow: Sketch) -> None:
    with slow.socket("queue") as socket:
        body = {"client_id": "queue"}
        ids = [
            slow.post("/prompt", {"prompt": text_to_image(seed=200 + n, steps=200), **body}).json["prompt_id"]
            for n in range(4)
        ]
        wait_for(lambda: slow.get("/queue").json["queue_running"], "the first one runs")
        queue = slow.get("/queue").json
        assert [row[1] for row in queue["queue_running"]] == ids[:1]
        assert [row[1] for row in queue["queue_pending"]] == ids[1:]
        jobs = {job["id"]: job["status"] for job in slow.get("/api/jobs").json["jobs"]}
        assert [jobs[one] for one in ids] == ["in_progress", "pending", "pending", "pending"]
        slow.post("/queue", {"delete": [ids[1]]})
        assert slow.call("POST", f"/api/jobs/{ids[2]}/cancel").json == {"cancelled": True}
        slow.post("/queue", {"clear": True})
        slow.post("/interrupt", {"prompt_id": "somebody-elses"})
        assert slow.get("/queue").json["queue_running"], "another id interrupts nothing"
        wait_for(lambda: any(kind == "progress" for kind in drained(socket)), "progress")
        start = time.monotonic()
        slow.post("/interrupt", {"prompt_id": ids[0]})
        found = events(socket, ids[0])
        assert time.monotonic() - start < 0.5
    names = [kind for kind, _ in found if kind in ("execution_interrupted", "execution_success", "executing")]
    assert names == ["execution_interrupted", "executing"]
    entry = slow.ended(ids[0])
    assert (entry["status"]["status_str"], entry["outputs"]) == ("error", {})
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert slow.get(f"/api/jobs/{ids[0]}").json["status"] == "cancelled"
    assert [slow.get(f"/history/{one}").json for one in ids[1:]] == [{}] * 3
    assert slow.call("POST", "/api/jobs/nosuch/cancel").json == {"cancelled": False}


def drained(socket: Any) -> list[str]:
    message = socket.recv(timeout=5)
    return ["binary"] if isinstance(message, bytes) else [json.loads(message)["type"]]


def test_previews_come_with_metadata_to_those_that_ask_and_not_at_all_if_unwanted(slow: Sketch) -> None:
    with slow.socket("preview") as socket:
        socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        answer = slow.post(
            "/prompt", {"prompt": text_to_image(seed=300, steps=200), "client_id": "preview"}
        ).json
        binary = b""
        while not binary:
            message = socket.recv(timeout=10)
            binary = message if isinstance(message, bytes) else b""
        slow.call("POST", "/interrupt")
        events(socket, answer["prompt_id"])
        length = int.from_bytes(binary[4:8], "big")
        facts = json.loads(binary[8 : 8 + length])
        assert (binary[:4], facts["node_id"], facts["image_type"]) == (b"\0\0\0\4", "3", "image/jpeg")
        assert picture(binary[8 + length :]).format == "JPEG"
        quiet = {
            "prompt": text_to_image(seed=301, steps=200),
            "client_id": "preview",
            "extra_data": {"preview_method": "none"},
        }
        answer = slow.post("/prompt", quiet).json
        while drained(socket) != ["progress"]:
            pass
        slow.call("POST", "/interrupt")
        assert "binary" not in [kind for kind, _ in events(socket, answer["prompt_id"])]


def test_a_run_without_a_client_tells_everybody_only_its_progress(slow: Sketch) -> None:
    with slow.socket("bystander") as socket:
        prompt_id = slow.post("/prompt", {"prompt": text_to_image(seed=302, steps=200)}).json["prompt_id"]
        seen = []
        while "progress" not in seen:
            seen += drained(socket)
        slow.call("POST", "/interrupt")
        slow.ended(prompt_id)
        while "execution_interrupted" not in seen:
            seen += drained(socket)
    assert not {"execution_start", "execution_cached", "executing", "executed"} & set(seen)


def test_a_client_that_reconnects_is_told_where_the_run_is(slow: Sketch) -> None:
    with slow.socket("again") as first:
        answer = slow.post(
            "/prompt", {"prompt": text_to_image(seed=303, steps=200), "client_id": "again"}
        ).json
        while drained(first) != ["progress"]:
            pass
        with slow.socket("again") as second:
            assert json.loads(second.recv(timeout=5))["data"]["sid"] == "again"
            assert json.loads(second.recv(timeout=5)) == {"type": "executing", "data": {"node": "3"}}
            while drained(second) != ["progress"]:
                pass
            slow.call("POST", "/interrupt")
            events(second, answer["prompt_id"])


def test_too_large_a_body_is_413(comfy: Sketch) -> None:
    answer = comfy.upload("big.bin", b"x" * (101 * 1024 * 1024))
    assert answer.status == 413
    assert b"Maximum request body size 104857600 exceeded" in answer.body


def test_comfy_api_simplified_is_satisfied(comfy: Sketch, tmp_path: Path) -> None:
    simplified = pytest.importorskip("comfy_api_simplified")
    path = tmp_path / "workflow.json"
    titles = {"9": "Save Image", "3": "KSampler"}
    graph = text_to_image(seed=400)
    path.write_text(
        json.dumps({k: {**node, "_meta": {"title": titles.get(k, k)}} for k, node in graph.items()})
    )
    workflow = simplified.ComfyWorkflowWrapper(str(path))
    workflow.set_node_param("KSampler", "seed", 401)
    api = simplified.ComfyApiWrapper(comfy.url)
    stored = api.upload_image(str(write_png(tmp_path / "up.png")))
    assert stored["name"] == "up.png"
    found = api.queue_and_wait_images(workflow, "Save Image")
    (data,) = found.values()
    assert picture(data).size == (64, 64)


def write_png(path: Path) -> Path:
    Image.new("RGB", (64, 64)).save(path)
    return path
