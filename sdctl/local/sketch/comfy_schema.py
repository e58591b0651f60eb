"""The core nodes that sketch knows by their inputs: what /object_info shows and validation checks.

Names, defaults and bounds as ComfyUI 0.33 gives them. Nodes that are not here are taken as they come: users'
workflows have custom nodes that no one but their own server knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SAMPLERS = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde",
    "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip
SCHEDULERS = [
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
]  # fmt: skip
_IMAGE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
_LATENT_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
_CROPS = ["disabled", "center"]
_SEED = ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}]
_PREFIX = ["STRING", {"default": "ComfyUI"}]
CHECKPOINTS: list[str] = []  # stands for the list that is filled in at each request
Input = list[Any]


@dataclass(frozen=True, slots=True)
class NodeClass:
    """One node class: its inputs as /object_info gives them, and the types that it returns."""

    required: dict[str, Input]
    output: tuple[str, ...]
    category: str
    is_output: bool = False


def _side(default: int = 512, low: int = 16, step: int = 8) -> Input:
    return ["INT", {"default": default, "min": low, "max": 16384, "step": step}]


def _number(kind: str, default: float, low: float, high: float, **more: Any) -> Input:
    return [kind, {"default": default, "min": low, "max": high, **more}]


def _node(category: str, output: str, **required: Input) -> NodeClass:
    return NodeClass(required, tuple(output.split()), category)


def _output_node(category: str, output: str, **required: Input) -> NodeClass:
    return NodeClass(required, tuple(output.split()), category, is_output=True)


_LATENT_SIZE = {"width": _side(), "height": _side(), "batch_size": _number("INT", 1, 1, 4096)}
_SAMPLING = {
    "steps": _number("INT", 20, 1, 10000), "cfg": _number("FLOAT", 8.0, 0.0, 100.0, step=0.1, round=0.01),
    "sampler_name": [SAMPLERS], "scheduler": [SCHEDULERS], "positive": ["CONDITIONING"],
    "negative": ["CONDITIONING"], "latent_image": ["LATENT"],
}  # fmt: skip
NODES: dict[str, NodeClass] = {
    "CheckpointLoaderSimple": _node("model/loaders", "MODEL CLIP VAE", ckpt_name=[CHECKPOINTS, {}]),
    "CLIPTextEncode": _node("conditioning", "CONDITIONING", text=["STRING", {"multiline": True}],
    clip=["CLIP"]),
    "CLIPSetLastLayer": _node(
        "conditioning", "CLIP", clip=["CLIP"], stop_at_clip_layer=_number("INT", -1, -24, -1, step=1)
    ),
    "EmptyLatentImage": _node("latent", "LATENT", **_LATENT_SIZE),
    "EmptySD3LatentImage": _node("latent/sd3", "LATENT", **{**_LATENT_SIZE, "width": _side(1024, step=16),
                                                            "height": _side(1024, step=16)}),
    "KSampler": _node("sampling", "LATENT", model=["MODEL"], seed=_SEED, **_SAMPLING,
                      denoise=_number("FLOAT", 1.0, 0.0, 1.0, step=0.01)),
    "KSamplerAdvanced": _node(
        "sampling", "LATENT", model=["MODEL"], add_noise=[["enable", "disable"]], noise_seed=_SEED,
        **_SAMPLING,
        start_at_step=_number("INT", 0, 0, 10000), end_at_step=_number("INT", 10000, 0, 10000),
        return_with_leftover_noise=[["disable", "enable"]],
    ),
    "VAEDecode": _node("latent", "IMAGE", samples=["LATENT"], vae=["VAE"]),
    "VAEEncode": _node("latent", "LATENT", pixels=["IMAGE"], vae=["VAE"]),
    "VAEEncodeForInpaint": _node("latent/inpaint", "LATENT", pixels=["IMAGE"], vae=["VAE"], mask=["MASK"],
                                 grow_mask_by=_number("INT", 6, 0, 64, step=1)),
    "SetLatentNoiseMask": _node("latent/inpaint", "LATENT", samples=["LATENT"], mask=["MASK"]),
    "LatentUpscale": _node("latent", "LATENT", samples=["LATENT"], upscale_method=[_LATENT_METHODS],
                           width=_side(low=0), height=_side(low=0), crop=[_CROPS]),
    "LatentUpscaleBy": _node("latent", "LATENT", samples=["LATENT"], upscale_method=[_LATENT_METHODS],
                             scale_by=_number("FLOAT", 1.5, 0.01, 8.0, step=0.01)),
    "RepeatLatentBatch": _node("latent/batch", "LATENT", samples=["LATENT"], amount=_number("INT", 1, 1, 64)),
    "LoadImage": _node("image", "IMAGE MASK", image=[[], {"image_upload": True}]),
    "LoadImageMask": _node("mask", "MASK", image=[[], {"image_upload": True}],
                           channel=[["alpha", "red", "green", "blue"]]),
    "EmptyImage": _node("image", "IMAGE", width=_side(low=1, step=1), height=_side(low=1, step=1),
                        batch_size=_number("INT", 1, 1, 4096), color=_number("INT", 0, 0, 0xFFFFFF, step=1)),
    "ImageScale": _node("image/upscaling", "IMAGE", image=["IMAGE"], upscale_method=[_IMAGE_METHODS],
                        width=_side(low=0, step=1), height=_side(low=0, step=1), crop=[_CROPS]),
    "ImageScaleBy": _node("image/upscaling", "IMAGE", image=["IMAGE"], upscale_method=[_IMAGE_METHODS],
                          scale_by=_number("FLOAT", 1.0, 0.01, 8.0, step=0.01)),
    "ImageInvert": _node("image", "IMAGE", image=["IMAGE"]),
    "ImageBatch": _node("image", "IMAGE", image1=["IMAGE"], image2=["IMAGE"]),
    "SaveImage": _output_node("image", "IMAGE", images=["IMAGE"], filename_prefix=_PREFIX),
    "PreviewImage": _output_node("image", "IMAGE", images=["IMAGE"]),
    "SaveImageWebsocket": _output_node("api/image", "", images=["IMAGE"]),
    "SaveAnimatedWEBP": _output_node("image/animation", "IMAGE", images=["IMAGE"], filename_prefix=_PREFIX,
        fps=_number("FLOAT", 6.0, 0.01, 1000.0, step=0.01), lossless=["BOOLEAN", {"default": True}],
        quality=_number("INT", 80, 0, 100), method=[["default", "fastest", "slowest"]],
    ),
    "SaveAnimatedPNG": _output_node("image/animation", "IMAGE", images=["IMAGE"], filename_prefix=_PREFIX,
        fps=_number("FLOAT", 6.0, 0.01, 1000.0, step=0.01), compress_level=_number("INT", 4, 0, 9),
    ),
    "PreviewAny": _output_node("utils", "STRING", source=["*", {}]),
}  # fmt: skip

# Output nodes of others: whatever saves, shows or combines something.
_OUTPUT_NAME = re.compile(r"(^|[^a-z])(save|preview|show|display|combine)", re.IGNORECASE)
_NOT_OUTPUT = re.compile(r"conditioning|mask|latent|lora|model|string|text.?combine|prompt", re.IGNORECASE)
_KNOWN_OUTPUTS = ("VHS_VideoCombine", "SaveVideo", "SaveWEBM", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus",
"SaveLatent",
                  "PreviewAudio", "ImageCompare", "SaveImageAdvanced", "SaveText", "MaskPreview")  # fmt: skip
# What only the editor knows; the real server refuses them too.
_EDITOR_ONLY = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_output_class(name: str) -> bool:
    """Say whether nodes of a class are where a run ends."""
    if name in NODES:
        return NODES[name].is_output
    if name in _KNOWN_OUTPUTS:
        return True
    return bool(_OUTPUT_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))) and not _NOT_OUTPUT.search(
        name
    )


def is_class_name(name: object) -> bool:
    """Say whether something could be the name of a node class on some server."""
    if not isinstance(name, str) or not 0 < len(name) <= 200 or name in _EDITOR_ONLY:
        return False
    return name.isprintable() and name.strip() == name and not _UUID.fullmatch(name)


def object_info(checkpoints: list[str], images: list[str], name: str | None = None) -> dict[str, Any]:
    """Return the answer of /object_info, or of one class of it; nothing for a class that is not known."""
    wanted = NODES if name is None else {name: NODES[name]} if name in NODES else {}
    return {key: _described(key, node, checkpoints, images) for key, node in wanted.items()}


def input_config(class_name: str, config: Input, checkpoints: list[str], images: list[str]) -> Input:
    """Return an input's configuration with the lists that change while the server runs."""
    if config and config[0] is CHECKPOINTS:
        return [checkpoints, *config[1:]]
    if class_name.startswith("LoadImage") and config[:1] == [[]]:
        return [images, *config[1:]]
    return config


def _described(name: str, node: NodeClass, checkpoints: list[str], images: list[str]) -> dict[str, Any]:
    required = {key: input_config(name, value, checkpoints, images) for key, value in node.required.items()}
    inputs = {"required": required}
    return {
        "input": inputs, "input_order": {key: list(value) for key, value in inputs.items()},
        "is_input_list": False,
        "output": list(node.output), "output_is_list": [False] * len(node.output),
        "output_name": list(node.output),
        "name": name, "display_name": name, "description": "", "python_module": "nodes",
        "category": node.category, "output_node": node.is_output, "has_intermediate_output": False,
    }  # fmt: skip
