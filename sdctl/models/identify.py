"""What kind of model a file is, from the names and shapes of its tensors.

The names are those of the published architectures; each rule says which. A file that no rule knows is
`unknown`, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sdctl.models.head import Head

UNKNOWN: Final = "unknown"

CHECKPOINT, LORA, VAE, CONTROLNET, EMBEDDING, UPSCALER, FACE_RESTORER, TEXT_ENCODER = (
    "checkpoint", "lora", "vae", "controlnet", "embedding", "upscaler", "face-restorer", "text-encoder",
)  # fmt: skip
# A diffusion model without text encoder and VAE, as ComfyUI alone loads it; and relatives of the above.
DIFFUSION_MODEL, IP_ADAPTER, CLIP_VISION, HYPERNETWORK = (
    "diffusion-model", "ip-adapter", "clip-vision", "hypernetwork",
)  # fmt: skip
SD1, SD2, SDXL, SDXL_REFINER, SD3, FLUX, FLUX2, SVD = (
    "SD1", "SD2", "SDXL", "SDXL refiner", "SD3", "Flux", "Flux.2", "SVD",
)  # fmt: skip

CHECKPOINT_FOLDER: Final = "Stable-diffusion"
# The guide's tree of the bucket.
FOLDERS: Final = (
    "CLIP", "Codeformer", "ControlNet", "ESRGAN", "GFPGAN", "LDSR", "Lora", "RealESRGAN", "ScuNET",
    CHECKPOINT_FOLDER, "SwinIR", "VAE", "VAE-approx", "embeddings", "hypernetworks",
)  # fmt: skip
# The last two are no folders of the guide; the chart gives them to ComfyUI under these names.
_FOLDER_OF: Final = {
    CHECKPOINT: CHECKPOINT_FOLDER, LORA: "Lora", VAE: "VAE", CONTROLNET: "ControlNet",
    EMBEDDING: "embeddings", TEXT_ENCODER: "CLIP", IP_ADAPTER: "ControlNet", HYPERNETWORK: "hypernetworks",
    DIFFUSION_MODEL: "diffusion_models", CLIP_VISION: "clip_vision",
}  # fmt: skip

# Which base model an attention to the text is of, by the width of the text's vectors.
_BY_TEXT_WIDTH: Final = {768: SD1, 1024: SD2, 1280: SDXL_REFINER, 2048: SDXL}
# Which transformer a LoRA is of, by its width: SD3 medium, SD3.5 large, Flux.
_BY_WIDTH: Final = {1536: SD3, 2432: SD3, 3072: FLUX}
_DOWNS: Final = (
    ".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", ".lora.down.weight", "_lora.down.weight",
    ".lora_linear_layer.down.weight", "lora1.down.weight",
)  # fmt: skip
_LORA_MARKS: Final = (
    *_DOWNS, ".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight",
    ".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".oft_diag", ".dora_scale",
)  # fmt: skip
_LORA_STARTS: Final = (
    "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_transformer_", "lycoris_",
)  # fmt: skip
_CONTROLNET_STARTS: Final = (
    "input_hint_block.", "control_model.", "zero_convs.", "controlnet_cond_embedding.",
    "controlnet_down_blocks.", "controlnet_mid_block.", "lllite_unet", "controlnet_x_embedder.weight",
    "controlnet_blocks.0.", "adapter.body.0.", "body.0.block1.weight",
)  # fmt: skip
_ESRGAN: Final = re.compile(r"(model\.1\.sub\.\d+\.RDB\d|body\.\d+\.rdb\d|RRDB_trunk\.\d+\.RDB\d)\.")
_SWINIR: Final = re.compile(r"layers\.\d+\.residual_group\.blocks\.")
_DECODER: Final = re.compile(
    r"((first_stage_model|vae)\.)?decoder\.(conv_in|conv_out|mid|mid_block|up|up_blocks)\."
)
_HYPERNETWORK: Final = re.compile(r"linear(\.\d+|1|2)\.(weight|bias)")
_UNET: Final = "model.diffusion_model."
_UNET_PARTS: Final = tuple(
    f"{_UNET}{part}."
    for part in ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
)
_FLUX_BLOCK: Final = re.compile(r"double_blocks\.\d+\.(img|txt)_(attn|mlp|mod)\.")
_FIRST_CONVOLUTION: Final = "input_blocks.0.0.weight"
# Of the latent diffusion that scales pictures up: its channels, and the picture beside the latents.
_LDSR_CONVOLUTION: Final = (160, 6)
_TRAINED_ON: Final = (("sdxl", SDXL), ("sd_v1", SD1), ("sd_v2", SD2), ("sd3", SD3), ("flux", FLUX))
_ARCHITECTURES: Final = (
    ("stable-diffusion-xl-v1-refiner", SDXL_REFINER), ("stable-diffusion-xl", SDXL),
    ("stable-diffusion-v1", SD1), ("stable-diffusion-v2", SD2), ("stable-diffusion-3", SD3), ("flux", FLUX),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model is: `base` is the base model that it is or belongs to, empty where that is unknown."""

    type: str
    base: str
    folder: str
    format: str


def identify(head: Head) -> Identity:
    """Tell what kind of model a head is of."""
    shapes = head.shapes
    for rule in _RULES:
        found = rule(shapes, head.metadata)
        if found is not None:
            kind, base, folder = found
            return Identity(kind, base, folder or _FOLDER_OF[kind], head.format)
    return Identity(UNKNOWN, "", "", head.format)


Shapes = Mapping[str, tuple[int, ...]]
Metadata = Mapping[str, str]
Found = tuple[str, str, str] | None


def _ip_adapter(shapes: Shapes, _metadata: Metadata) -> Found:
    """An IP-Adapter; some hold a LoRA as well."""
    for name, shape in shapes.items():
        if name.endswith(".to_k_ip.weight"):
            return IP_ADAPTER, _BY_TEXT_WIDTH.get(shape[-1], "") if shape else "", ""
    return None


def _lora(shapes: Shapes, metadata: Metadata) -> Found:
    """LoRA and its relatives: of kohya's scripts (`lora_unet_…`), LyCORIS, diffusers and PEFT."""
    if not any(name.endswith(_LORA_MARKS) or name.startswith(_LORA_STARTS) for name in shapes):
        return None
    return LORA, _declared(metadata) or _lora_base(shapes), ""


def _declared(metadata: Metadata) -> str:
    """Read the base model from what trainers write into the metadata."""
    version = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    for mark, base in _TRAINED_ON:
        if version.startswith(mark):
            return base
    return next((base for mark, base in _ARCHITECTURES if architecture.startswith(mark)), "")


def _lora_base(shapes: Shapes) -> str:
    if _has(shapes, "double_blocks", "single_blocks", "single_transformer_blocks"):
        return FLUX
    if _has(shapes, "joint_blocks"):
        return SD3
    # SDXL alone has a second text encoder, several transformer blocks in a row, and these names in LoRAs.
    marks = ("lora_te2_", "text_encoder_2.", "lora_unet_input_blocks_", "lora_unet_output_blocks_")
    if any(name.startswith(marks) for name in shapes):
        return SDXL
    if any("attentions" in name and re.search(r"transformer_blocks[._]1[._]", name) for name in shapes):
        return SDXL
    for name, shape in shapes.items():
        if len(shape) < 2 or not name.endswith((*_DOWNS, ".hada_w1_b")):
            continue
        if ("attn2" in name and "to_k" in name) or (name.startswith("lora_te_") and "self_attn" in name):
            return _BY_TEXT_WIDTH.get(shape[1], "")
        if "transformer.transformer_blocks." in name and ".attn.to_q." in name:
            return _BY_WIDTH.get(shape[1], "")
    return ""


def _controlnet(shapes: Shapes, _metadata: Metadata) -> Found:
    """ControlNet as its authors publish it, cut down to the network alone, of diffusers, and T2I-Adapter."""
    if not any(name.startswith(_CONTROLNET_STARTS) for name in shapes):
        return None
    if _has(shapes, "controlnet_x_embedder", "double_blocks."):
        return CONTROLNET, FLUX, ""
    if any(name.startswith(("pos_embed_input.", "joint_blocks.")) for name in shapes):
        return CONTROLNET, SD3, ""
    return CONTROLNET, SDXL if _has(shapes, "lllite_unet") else _text_base(shapes), ""


def _text_base(shapes: Shapes) -> str:
    """Read the base model from any attention to the text."""
    for name, shape in shapes.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_k.down")) and len(shape) == 2:
            return _BY_TEXT_WIDTH.get(shape[1], "")
    return ""


def _checkpoint(shapes: Shapes, metadata: Metadata) -> Found:
    """A whole checkpoint, or a newer one's diffusion model alone, as its authors name it.

    SD WebUI's relatives take Flux's and SD3's diffusion model alone for a checkpoint.
    """
    bare = {
        name.removeprefix(_UNET)
        for name in shapes
        if name.startswith((_UNET, "double_blocks.", "joint_blocks.", "double_stream_modulation", "txt_in."))
    }
    if any(_FLUX_BLOCK.match(name) for name in bare):
        if any(name.startswith("txt_in.individual_token_refiner.") for name in bare):
            return None  # Hunyuan's video model
        return CHECKPOINT, FLUX2 if _has(bare, "double_stream_modulation") else FLUX, ""
    if any(name.startswith("joint_blocks.") for name in bare):
        return CHECKPOINT, SD3, ""
    if not any(name.startswith(_UNET_PARTS) for name in shapes):
        return None
    if shapes.get(_UNET + _FIRST_CONVOLUTION, ())[:2] == _LDSR_CONVOLUTION:
        return UPSCALER, "", "LDSR"
    return CHECKPOINT, _unet_base(shapes) or _declared(metadata), ""


def _diffusion_model(shapes: Shapes, metadata: Metadata) -> Found:
    """A diffusion model alone: SD's as its authors name it, and those that diffusers writes."""
    if _FIRST_CONVOLUTION in shapes:
        return DIFFUSION_MODEL, _unet_base(shapes) or _declared(metadata), ""
    if {"conv_in.weight", "time_embedding.linear_1.weight"} <= shapes.keys() and _has(shapes, "attn2.to_k."):
        return DIFFUSION_MODEL, _unet_base(shapes), ""
    if "transformer_blocks.0.attn.add_k_proj.weight" not in shapes:
        return None
    if "pos_embed.proj.weight" in shapes:
        return DIFFUSION_MODEL, SD3, ""
    is_flux = {"x_embedder.weight", "context_embedder.weight"} <= shapes.keys()
    if is_flux and _has(shapes, "single_transformer_blocks.0."):
        return DIFFUSION_MODEL, FLUX, ""
    return None


def _unet_base(shapes: Shapes) -> str:
    """SD's first attention tells it; a pickle may tell no shapes, but the text encoder's names."""
    if _has(shapes, ".time_stack.", "temporal_transformer_blocks."):
        return SVD
    widths = _text_base(shapes)
    if widths:
        return widths
    if _has(shapes, "conditioner.embedders.1."):
        return SDXL
    if _has(shapes, "conditioner.embedders.0."):
        return SDXL_REFINER
    if _has(shapes, "cond_stage_model.model."):
        return SD2
    return SD1 if _has(shapes, "cond_stage_model.transformer.") else ""


def _vae(shapes: Shapes, _metadata: Metadata) -> Found:
    """An autoencoder alone; the channels of its latents tell the newer ones apart."""
    if any(_DECODER.match(name) for name in shapes):
        found = (
            shapes.get(f"{prefix}decoder.conv_in.weight") for prefix in ("", "first_stage_model.", "vae.")
        )
        shape = next((one for one in found if one), ())
        # SD1's, SD2's and SDXL's look the same, as do SD3's and Flux's.
        bases = {4: "SD1, SD2 or SDXL", 16: "SD3 or Flux", 32: FLUX2}
        return VAE, bases.get(shape[1], "") if len(shape) == 4 else "", ""
    if "decoder.layers.1.weight" in shapes or {"decoder.1.weight", "encoder.0.weight"} <= shapes.keys():
        return VAE, "", "VAE-approx"  # TAESD
    return None


def _embedding(shapes: Shapes, _metadata: Metadata) -> Found:
    """A textual inversion: of the SD WebUI, of diffusers, or the two vectors of SDXL."""
    if {"clip_l", "clip_g"} <= shapes.keys():
        return EMBEDDING, SDXL, ""
    if len(shapes) > 8:
        return None
    for name, shape in shapes.items():
        is_named = name in ("emb_params", "string_to_param", "*") or (
            name.startswith("<") and name.endswith(">")
        )
        if is_named:
            return EMBEDDING, _BY_TEXT_WIDTH.get(shape[-1], "") if shape else "", ""
    return None


def _hypernetwork(shapes: Shapes, _metadata: Metadata) -> Found:
    """A hypernetwork of the SD WebUI: a few linear layers and nothing else."""
    is_one = bool(shapes) and all(_HYPERNETWORK.fullmatch(name) for name in shapes)
    return (HYPERNETWORK, "", "") if is_one else None


def _upscaler(shapes: Shapes, _metadata: Metadata) -> Found:
    """Upscalers and face restorers, by the first names of their networks; some lie below `params`."""
    names = {name.removeprefix("params_ema.").removeprefix("params.") for name in shapes}
    if any(_ESRGAN.match(name) for name in names) or {"conv_first.weight", "conv_body.weight"} <= names:
        return UPSCALER, "", "ESRGAN"
    if {"body.0.weight", "body.1.weight"} <= names and not any(name.startswith("conv") for name in names):
        # Real-ESRGAN's compact network. From its own folder the SD WebUI takes only files that it knows by
        # name; from this one, any.
        return UPSCALER, "", "ESRGAN"
    if any(_SWINIR.match(name) for name in names):
        return UPSCALER, "", "SwinIR"
    if "m_head.0.weight" in names and "m_tail.0.weight" in names:
        return UPSCALER, "", "ScuNET"
    if "quantize.embedding.weight" in names and any(name.startswith("fuse_convs_dict.") for name in names):
        return FACE_RESTORER, "", "Codeformer"
    if any(name.startswith("stylegan_decoder.") for name in names):
        return FACE_RESTORER, "", "GFPGAN"
    return None


def _encoder(shapes: Shapes, _metadata: Metadata) -> Found:
    """A CLIP or T5 text encoder alone, or CLIP's half for pictures, as ComfyUI loads them."""
    texts = (
        "text_model.encoder.layers.0.", "transformer.text_model.encoder.layers.0.",
        "encoder.block.0.layer.0.SelfAttention.",
    )  # fmt: skip
    if any(name.startswith(texts) for name in shapes):
        return TEXT_ENCODER, "", ""
    is_vision = any(name.startswith("vision_model.encoder.layers.0.") for name in shapes)
    return (CLIP_VISION, "", "") if is_vision else None


# In this order: an IP-Adapter may hold a LoRA, a ControlNet a whole checkpoint, a checkpoint a VAE.
_RULES: Final = (
    _ip_adapter, _lora, _controlnet, _checkpoint, _diffusion_model, _vae, _embedding, _hypernetwork,
    _upscaler, _encoder,
)  # fmt: skip


def _has(names: Iterable[str], *parts: str) -> bool:
    return any(part in name for name in names for part in parts)
