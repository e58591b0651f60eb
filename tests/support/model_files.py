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
