"""Model files of every kind for tests: small tensors under the names that the real ones have."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping

UNET = "model.diffusion_model."
Shapes = Mapping[str, tuple[int, ...]]

# A few tensors of each architecture, with the real names and the telling dimensions.
KINDS: dict[str, dict[str, tuple[int, ...]]] = {
    "sd1": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    },
    "sd2": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": (4,),
    },
    "sdxl": {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (16, 2048),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": (1, 77),
        "conditioner.embedders.1.model.ln_final.weight": (4,),
    },
    "sd3": {
        f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": (12, 4),
        f"{UNET}x_embedder.proj.weight": (4, 16, 2, 2),
    },
    "flux": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "single_blocks.0.linear1.weight": (4, 4),
        "img_in.weight": (4, 4),
    },
    "lora-sd1": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 768),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (320, 4),
    },
    "lora-sdxl": {
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 2048),
    },
    "lora-flux": {"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 16)},
    "vae": {
        "decoder.conv_in.weight": (512, 4, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3),
        "quant_conv.weight": (8, 8, 1, 1),
    },
    "controlnet": {
        "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
        "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768),
    },
    "controlnet-diffusers": {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (4, 2048),
    },
    "embedding": {"emb_params": (2, 768)},
    "embedding-sdxl": {"clip_l": (2, 768), "clip_g": (2, 1280)},
    "esrgan": {
        "params_ema.conv_first.weight": (8, 3, 3, 3), "params_ema.body.0.rdb1.conv1.weight": (4, 8, 3, 3),
    },
    "swinir": {"params.layers.0.residual_group.blocks.0.attn.qkv.weight": (12, 4)},
    "scunet": {"m_head.0.weight": (4, 3, 3, 3), "m_tail.0.weight": (3, 4, 3, 3)},
    "codeformer": {"quantize.embedding.weight": (4, 4), "fuse_convs_dict.32.scale.0.weight": (4, 4)},
    "clip": {"text_model.encoder.layers.0.mlp.fc1.weight": (4, 4)},
    # The same names with more beside them, or other ones for the same.
    "sd1-inpainting": {
        f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "sdxl-refiner": {
        f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3),
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 1280),
        "conditioner.embedders.0.model.ln_final.weight": (4,),
    },
    "svd": {
        f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        f"{UNET}input_blocks.1.1.time_stack.0.attn2.to_k.weight": (320, 1024),
    },
    "flux-whole": {
        f"{UNET}double_blocks.0.img_attn.qkv.weight": (12, 4),
        f"{UNET}img_in.weight": (4, 4),
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
        "vae.decoder.conv_in.weight": (8, 16, 3, 3), "vae.encoder.conv_in.weight": (8, 3, 3, 3),
    },
    "flux-nf4": {
        f"{UNET}double_blocks.0.img_attn.qkv.weight": (24, 1),
        f"{UNET}double_blocks.0.img_attn.qkv.weight.absmax": (4,),
        f"{UNET}double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4": (8,),
    },
    "flux2": {
        "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
        "double_stream_modulation_img.lin.weight": (4, 4),
    },
    "hunyuan-video": {
        "double_blocks.0.img_attn.qkv.weight": (12, 4),
        "txt_in.individual_token_refiner.blocks.0.norm1.weight": (4,),
    },
    "unet": {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (4, 2048),
    },
    "unet-diffusers": {
        "conv_in.weight": (320, 4, 3, 3), "time_embedding.linear_1.weight": (4, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (4, 768),
    },
    "flux-diffusers": {
        "transformer_blocks.0.attn.add_k_proj.weight": (4, 4),
        "single_transformer_blocks.0.attn.to_k.weight": (4, 4),
        "x_embedder.weight": (4, 4), "context_embedder.weight": (4, 4),
    },
    "sd3-diffusers": {
        "transformer_blocks.0.attn.add_k_proj.weight": (4, 4), "pos_embed.proj.weight": (4, 16, 2, 2),
        "context_embedder.weight": (4, 4),
    },
    "lora-sd2": {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 1024)},
    "lora-sd1-text": {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 768)},
    "lora-diffusers-old": {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 768)
    },
    "lora-diffusers": {
        "unet.down_blocks.2.attentions.0.transformer_blocks.1.attn1.to_q.lora_A.weight": (4, 1280),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": (4, 768),
    },
    "lora-peft": {
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (4, 768),
    },
    "lora-sd3": {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (4, 1536)},
    "lora-sd3-kohya": {"lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight": (4, 4)},
    "lora-flux-kohya": {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 3072)},
    "lora-flux-xlabs": {"double_blocks.0.processor.qkv_lora1.down.weight": (4, 3072)},
    "loha": {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_a": (4, 4),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.hada_w1_b": (4, 768),
    },
    "lokr": {
        "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_k.lokr_w1": (4, 4),
        "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_k.lokr_w2": (4, 4),
    },
    "lycoris-full": {"lycoris_mid_block_attentions_0_proj_in.diff": (4, 4)},
    "ia3": {"lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2.on_input": (1,)},
    "vae-16": {
        "decoder.conv_in.weight": (512, 16, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3),
    },
    "vae-video": {
        "decoder.conv_in.weight": (8, 16, 3, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3, 3),
    },
    "taesd": {"decoder.1.weight": (4, 4, 3, 3), "encoder.0.weight": (4, 3, 3, 3)},
    "controlnet-flux": {"controlnet_x_embedder.weight": (4, 4), "controlnet_blocks.0.weight": (4, 4)},
    "controlnet-xlabs": {"input_hint_block.0.weight": (4, 3, 3, 3), "double_blocks.0.img_mod.lin.bias": (4,)},
    "controlnet-sd3": {
        "controlnet_blocks.0.weight": (4, 4), "pos_embed_input.proj.weight": (4, 16, 2, 2),
    },
    "controlnet-lllite": {
        "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight": (4, 3, 4, 4),
    },
    "control-lora": {
        "input_hint_block.0.weight": (16, 3, 3, 3), "lora_controlnet": (1,),
        "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down": (4, 2048),
    },
    "t2i-adapter": {"body.0.block1.weight": (4, 4, 3, 3), "conv_in.weight": (4, 64, 3, 3)},
    "ip-adapter": {
        "image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 768),
        "ip_adapter.0.to_q_lora.down.weight": (4, 4),
    },
    "embedding-diffusers": {"<style>": (1024,)},
    "hypernetwork": {"linear.0.weight": (4, 4), "linear.0.bias": (4,), "linear.1.weight": (4, 4)},
    "esrgan-old": {"model.0.weight": (4, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (4, 4, 3, 3)},
    "realesrgan-compact": {"params.body.0.weight": (4, 3, 3, 3), "params.body.1.weight": (4,)},
    "ldsr": {f"{UNET}input_blocks.0.0.weight": (160, 6, 3, 3)},
    "gfpgan": {"params_ema.stylegan_decoder.style_mlp.1.weight": (4, 4)},
    "t5": {"encoder.block.0.layer.0.SelfAttention.k.weight": (4, 4), "shared.weight": (4, 4)},
    "clip-vision": {"vision_model.encoder.layers.0.mlp.fc1.weight": (4, 4)},
    "unknown": {"some.layer.weight": (4, 4)},
}  # fmt: skip


def safetensors(
    shapes: Shapes, metadata: Mapping[str, str] | None = None, *, fill_bytes: int = 0, seed: bytes = b""
) -> bytes:
    """Write a safetensors file; `fill_bytes` adds a tensor of random bytes, `seed` makes files differ."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in {**shapes, **({"fill": (fill_bytes // 2,)} if fill_bytes else {})}.items():
        count = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = (seed + os.urandom(at))[:at] if fill_bytes else (seed + bytes(at))[:at]
    return struct.pack("<Q", len(text)) + text + body


def kind(name: str, *, fill_bytes: int = 0, seed: bytes = b"") -> bytes:
    """Write a safetensors file of one of `KINDS`."""
    return safetensors(KINDS[name], fill_bytes=fill_bytes, seed=seed)


def raw_safetensors(header: object, data_bytes: int, header_bytes: int | None = None) -> bytes:
    """Write a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + bytes(data_bytes)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def torch_pickle(shapes: Shapes, extra: bytes = b"") -> bytes:
    """Write a state dict's pickle, operation by operation as torch does; `extra` stands before its end."""
    out = bytearray(b"\x80\x02}q\x00(")
    for number, (name, shape) in enumerate(shapes.items()):
        out += _text(name) + b"q\x01" if number == 0 else _text(name)
        out += b"ctorch._utils\n_rebuild_tensor_v2\nq\x02((" if number == 0 else b"h\x02(("
        out += _text("storage") + b"q\x03" if number == 0 else b"h\x03"
        out += b"ctorch\nHalfStorage\nq\x04" if number == 0 else b"h\x04"
        out += _text(str(number))
        out += _text("cpu") + b"q\x05" if number == 0 else b"h\x05"
        out += b"J" + struct.pack("<i", math.prod(shape)) + b"tQK\x00("
        out += b"".join(b"M" + struct.pack("<H", one) for one in shape) + b"t("
        out += b"K\x01" * len(shape) + b"t\x89ccollections\nOrderedDict\n)RtR"
    return bytes(out + b"u" + extra + b".")


def torch_zip(
    pickled: bytes, *, names: tuple[str, ...] = ("archive/data.pkl",), compressed: bool = False
) -> bytes:
    """Write the zip that torch saves."""
    file = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", how) as archive:
        for name in names:
            archive.writestr(name, pickled)
        archive.writestr("archive/data/0", bytes(64))
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def torch_zip64(pickled: bytes) -> bytes:
    """Write that zip as torch's own writer does, with the end in both forms."""
    plain = torch_zip(pickled)
    count, size, offset = struct.unpack("<HII", plain[-12:-2])
    at = len(plain) - 22
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    return plain[:at] + end64 + locator + plain[at:]


def torch_legacy(pickled: bytes) -> bytes:
    """Write the older format of torch: five pickles, then the tensors."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    rest = pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)
    return magic + rest + pickled + pickle.dumps(["0"], protocol=2) + bytes(64)


class Held:
    """Bytes in memory as `Content`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def read(self, start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(self._data), "read beyond the end"
        return self._data[start : start + length]
