"""What kind of model a file is, from the names and shapes of its tensors.

The names are those of the published architectures; each rule says which. A file that no rule knows is
`unknown`, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sdctl.models.head import Head

UNKNOWN: Final = "unknown"

CHECKPOINT, LORA, VAE, CONTROLNET, EMBEDDING, UPSCALER, FACE_RESTORER, TEXT_ENCODER = (
    "checkpoint", "lora", "vae", "controlnet", "embedding", "upscaler", "face-restorer", "text-encoder",
)  # fmt: skip
SD1, SD2, SDXL, SDXL_REFINER, SD3, FLUX = "SD1", "SD2", "SDXL", "SDXL refiner", "SD3", "Flux"

CHECKPOINT_FOLDER: Final = "Stable-diffusion"
# The guide's tree of the bucket.
FOLDERS: Final = (
    "CLIP", "Codeformer", "ControlNet", "ESRGAN", "GFPGAN", "LDSR", "Lora", "RealESRGAN", "ScuNET",
    CHECKPOINT_FOLDER, "SwinIR", "VAE", "VAE-approx", "embeddings", "hypernetworks",
)  # fmt: skip
_FOLDER_OF: Final = {
    CHECKPOINT: CHECKPOINT_FOLDER, LORA: "Lora", VAE: "VAE", CONTROLNET: "ControlNet",
    EMBEDDING: "embeddings", TEXT_ENCODER: "CLIP",
}  # fmt: skip

# Which base model an attention to the text is of, by the width of the text's vectors.
_BY_TEXT_WIDTH: Final = {768: SD1, 1024: SD2, 1280: SDXL_REFINER, 2048: SDXL}
_DOWNS: Final = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight")
_ESRGAN: Final = {
    "model.1.sub.0.RDB1.conv1.0.weight", "body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight",
}  # fmt: skip
_UNET: Final = "model.diffusion_model."
_TRAINED_ON: Final = (("sdxl", SDXL), ("sd_v1", SD1), ("sd_v2", SD2), ("sd3", SD3), ("flux", FLUX))
_ARCHITECTURES: Final = (
    ("stable-diffusion-xl", SDXL), ("stable-diffusion-v1", SD1), ("stable-diffusion-v2", SD2),
    ("stable-diffusion-3", SD3), ("flux", FLUX),
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
    for rule in (_lora, _controlnet, _checkpoint, _vae, _embedding, _upscaler, _text_encoder):
        found = rule(shapes, head.metadata)
        if found is not None:
            kind, base, folder = found
            return Identity(kind, base, folder or _FOLDER_OF[kind], head.format)
    return Identity(UNKNOWN, "", "", head.format)


Shapes = Mapping[str, tuple[int, ...]]
Metadata = Mapping[str, str]
Found = tuple[str, str, str] | None


def _lora(shapes: Shapes, metadata: Metadata) -> Found:
    """LoRA and its relatives: of kohya's scripts (`lora_unet_…`), LyCORIS, and PEFT (`….lora_A.weight`)."""
    marks = (*_DOWNS, ".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".dora_scale")
    if not any(name.endswith(marks) for name in shapes):
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
    if _has(shapes, "double_blocks", "single_transformer_blocks"):
        return FLUX
    if _has(shapes, "joint_blocks"):
        return SD3
    if any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in shapes):
        return SDXL
    for name, shape in shapes.items():
        if "attn2" in name and "to_k" in name and name.endswith(_DOWNS) and len(shape) >= 2:
            return _BY_TEXT_WIDTH.get(shape[1], "")
    return ""


def _controlnet(shapes: Shapes, _metadata: Metadata) -> Found:
    """ControlNet as its authors publish it, cut down to the network alone, and as diffusers writes it."""
    marks = (
        "input_hint_block.0.weight", "control_model.input_hint_block.0.weight",
        "controlnet_cond_embedding.conv_in.weight", "lllite_unet", "controlnet_x_embedder.weight",
    )  # fmt: skip
    if not any(name.startswith(marks) for name in shapes):
        return None
    return CONTROLNET, FLUX if _has(shapes, "controlnet_x_embedder") else _text_base(shapes), ""


def _text_base(shapes: Shapes) -> str:
    """Read the base model from any attention to the text."""
    for name, shape in shapes.items():
        if name.endswith("attn2.to_k.weight") and len(shape) == 2:
            return _BY_TEXT_WIDTH.get(shape[1], "")
    return ""


def _checkpoint(shapes: Shapes, metadata: Metadata) -> Found:
    """A whole checkpoint, or its diffusion model alone, as Stability AI and Black Forest Labs name it."""
    bare = {
        name.removeprefix(_UNET)
        for name in shapes
        if name.startswith((_UNET, "double_blocks.", "joint_blocks."))
    }
    if any(name.startswith("double_blocks.0.img_attn") for name in bare):
        return CHECKPOINT, FLUX, ""
    if any(name.startswith("joint_blocks.0.") for name in bare):
        return CHECKPOINT, SD3, ""
    if "input_blocks.0.0.weight" in bare:
        return CHECKPOINT, _unet_base(shapes) or _declared(metadata), ""
    return None


def _unet_base(shapes: Shapes) -> str:
    """SD's first attention tells it; a pickle may tell no shapes, but the text encoder's names."""
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
    for prefix in ("", "first_stage_model.", "vae."):
        shape = shapes.get(f"{prefix}decoder.conv_in.weight")
        if shape is not None and f"{prefix}encoder.conv_in.weight" in shapes:
            # SD1's, SD2's and SDXL's look the same; SD3's and Flux's have 16 channels.
            return VAE, "SD3 or Flux" if len(shape) == 4 and shape[1] == 16 else "SD1, SD2 or SDXL", ""
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


def _upscaler(shapes: Shapes, _metadata: Metadata) -> Found:
    """Upscalers and face restorers, by the first names of their networks; some lie below `params`."""
    names = {name.removeprefix("params_ema.").removeprefix("params.") for name in shapes}
    if names & {
        "model.1.sub.0.RDB1.conv1.0.weight",
        "body.0.rdb1.conv1.weight",
        "RRDB_trunk.0.RDB1.conv1.weight",
    }:
        return UPSCALER, "", "ESRGAN"
    if {"body.0.weight", "body.1.weight"} <= names and not any(name.startswith("conv") for name in names):
        return UPSCALER, "", "RealESRGAN"  # its compact network
    if any(name.startswith("layers.0.residual_group.blocks.0.") for name in names):
        return UPSCALER, "", "SwinIR"
    if "m_head.0.weight" in names and "m_tail.0.weight" in names:
        return UPSCALER, "", "ScuNET"
    if "quantize.embedding.weight" in names and any(name.startswith("fuse_convs_dict.") for name in names):
        return FACE_RESTORER, "", "Codeformer"
    if any(name.startswith("stylegan_decoder.") for name in names):
        return FACE_RESTORER, "", "GFPGAN"
    return None


def _text_encoder(shapes: Shapes, _metadata: Metadata) -> Found:
    """A CLIP or T5 text encoder alone, as ComfyUI loads it."""
    marks = ("text_model.encoder.layers.0.", "encoder.block.0.layer.0.SelfAttention.")
    return (TEXT_ENCODER, "", "") if any(name.startswith(marks) for name in shapes) else None


def _has(names: Iterable[str], *parts: str) -> bool:
    return any(part in name for name in names for part in parts)
