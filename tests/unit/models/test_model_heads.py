"""What a file's head tells, and which hostile files are refused."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.models.head import MAX_HEADER_BYTES, BadModelError, UnsafeModelError, read_head
from sdctl.models.identify import identify
from support.model_files import (
    KINDS,
    Held,
    kind,
    raw_safetensors,
    safetensors,
    torch_legacy,
    torch_pickle,
    torch_zip,
)

EXPECTED = {
    "sd1": ("checkpoint", "SD1", "Stable-diffusion"),
    "sd2": ("checkpoint", "SD2", "Stable-diffusion"),
    "sdxl": ("checkpoint", "SDXL", "Stable-diffusion"),
    "sd3": ("checkpoint", "SD3", "Stable-diffusion"),
    "flux": ("checkpoint", "Flux", "Stable-diffusion"),
    "lora-sd1": ("lora", "SD1", "Lora"),
    "lora-sdxl": ("lora", "SDXL", "Lora"),
    "lora-flux": ("lora", "Flux", "Lora"),
    "vae": ("vae", "SD1, SD2 or SDXL", "VAE"),
    "controlnet": ("controlnet", "SD1", "ControlNet"),
    "controlnet-diffusers": ("controlnet", "SDXL", "ControlNet"),
    "embedding": ("embedding", "SD1", "embeddings"),
    "embedding-sdxl": ("embedding", "SDXL", "embeddings"),
    "esrgan": ("upscaler", "", "ESRGAN"),
    "swinir": ("upscaler", "", "SwinIR"),
    "scunet": ("upscaler", "", "ScuNET"),
    "codeformer": ("face-restorer", "", "Codeformer"),
    "clip": ("text-encoder", "", "CLIP"),
    "sd1-inpainting": ("checkpoint", "SD1", "Stable-diffusion"),
    "sdxl-refiner": ("checkpoint", "SDXL refiner", "Stable-diffusion"),
    "svd": ("checkpoint", "SVD", "Stable-diffusion"),
    "flux-whole": ("checkpoint", "Flux", "Stable-diffusion"),
    "flux-nf4": ("checkpoint", "Flux", "Stable-diffusion"),
    "flux2": ("checkpoint", "Flux.2", "Stable-diffusion"),
    "hunyuan-video": ("unknown", "", ""),
    "unet": ("diffusion-model", "SDXL", "diffusion_models"),
    "unet-diffusers": ("diffusion-model", "SD1", "diffusion_models"),
    "flux-diffusers": ("diffusion-model", "Flux", "diffusion_models"),
    "sd3-diffusers": ("diffusion-model", "SD3", "diffusion_models"),
    "lora-sd2": ("lora", "SD2", "Lora"),
    "lora-sd1-text": ("lora", "SD1", "Lora"),
    "lora-diffusers-old": ("lora", "SD1", "Lora"),
    "lora-diffusers": ("lora", "SDXL", "Lora"),
    "lora-peft": ("lora", "SD1", "Lora"),
    "lora-sd3": ("lora", "SD3", "Lora"),
    "lora-sd3-kohya": ("lora", "SD3", "Lora"),
    "lora-flux-kohya": ("lora", "Flux", "Lora"),
    "lora-flux-xlabs": ("lora", "Flux", "Lora"),
    "loha": ("lora", "SD1", "Lora"),
    "lokr": ("lora", "SDXL", "Lora"),
    "lycoris-full": ("lora", "", "Lora"),
    "ia3": ("lora", "", "Lora"),
    "vae-16": ("vae", "SD3 or Flux", "VAE"),
    "vae-video": ("vae", "", "VAE"),
    "taesd": ("vae", "", "VAE-approx"),
    "controlnet-flux": ("controlnet", "Flux", "ControlNet"),
    "controlnet-xlabs": ("controlnet", "Flux", "ControlNet"),
    "controlnet-sd3": ("controlnet", "SD3", "ControlNet"),
    "controlnet-lllite": ("controlnet", "SDXL", "ControlNet"),
    "control-lora": ("controlnet", "SDXL", "ControlNet"),
    "t2i-adapter": ("controlnet", "", "ControlNet"),
    "ip-adapter": ("ip-adapter", "SD1", "ControlNet"),
    "embedding-diffusers": ("embedding", "SD2", "embeddings"),
    "hypernetwork": ("hypernetwork", "", "hypernetworks"),
    "esrgan-old": ("upscaler", "", "ESRGAN"),
    "realesrgan-compact": ("upscaler", "", "ESRGAN"),
    "ldsr": ("upscaler", "", "LDSR"),
    "gfpgan": ("face-restorer", "", "GFPGAN"),
    "t5": ("text-encoder", "", "CLIP"),
    "clip-vision": ("clip-vision", "", "clip_vision"),
    "unknown": ("unknown", "", ""),
}


def told(data: bytes) -> tuple[str, str, str]:
    head = read_head(Held(data))
    assert head is not None
    what = identify(head)
    return what.type, what.base, what.folder


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_kind_is_told_from_safetensors(name: str) -> None:
    assert told(kind(name)) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("wrap", [torch_zip, torch_legacy])
def test_each_kind_is_told_from_a_pickle_without_unpickling_it(name: str, wrap: object) -> None:
    assert told(wrap(torch_pickle(KINDS[name]))) == EXPECTED[name]  # type: ignore[operator]


def test_a_loras_base_is_what_its_trainer_wrote() -> None:
    shapes = {"lora_unet_x.lora_down.weight": (4, 4)}
    assert told(safetensors(shapes, {"ss_base_model_version": "sdxl_base_v1-0"}))[1] == "SDXL"
    assert told(safetensors(shapes, {"modelspec.architecture": "flux-1-dev/lora"}))[1] == "Flux"


def test_what_is_no_model_has_no_head() -> None:
    assert read_head(Held(b"just some text, long enough")) is None
    assert read_head(Held(b"")) is None


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><p>", b"\n <HTML><body>", b'<?xml version="1.0"?><Error/>']
)
def test_a_page_is_named_as_one(page: bytes) -> None:
    with pytest.raises(BadModelError, match="web page"):
        read_head(Held(page))


def test_a_pointer_of_git_lfs_is_named_as_one() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(BadModelError, match="Git LFS") as raised:
        read_head(Held(pointer))
    assert "git lfs pull" in raised.value.hint
    assert read_head(Held(b"version 1 of it")) is None


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "I8", "U8", "F4"])
def test_quantised_tensors_are_measured_by_their_type(dtype: str) -> None:
    count = 16 if dtype == "F4" else 8
    shaped = {"dtype": dtype, "shape": [count], "data_offsets": [0, 8]}
    head = read_head(Held(raw_safetensors({"a": shaped}, 8)))
    assert head is not None
    assert head.shapes == {"a": (count,)}


def entry(begin: int, end: int, shape: list[object] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


ENTRY = json.dumps(entry(0, 8)).encode()
HOSTILE_HEADERS = {
    "longer than the file": (raw_safetensors({}, 0, header_bytes=2**40), "header says that it has"),
    "as long as can be": (raw_safetensors({}, 0, header_bytes=2**64 - 1), "header says that it has"),
    "overlapping tensors": (raw_safetensors({"a": entry(0, 8), "b": entry(4, 12)}, 12), "overlap"),
    "a gap": (raw_safetensors({"a": entry(0, 4), "b": entry(8, 12)}, 12), "gap"),
    "cut short": (raw_safetensors({"a": entry(0, 12)}, 8), "cut short"),
    "appended bytes": (raw_safetensors({"a": entry(0, 8)}, 12), "appended"),
    "a shape that is not its size": (raw_safetensors({"a": entry(0, 8, [9])}, 8), "wrongly"),
    "a negative shape": (raw_safetensors({"a": entry(0, 8, [-8, -1])}, 8), "wrongly"),
    "a shape without end": (raw_safetensors({"a": entry(0, 8, [2**62] * 64)}, 8), "wrongly"),
    "a boolean shape": (raw_safetensors({"a": entry(0, 1, [True])}, 1), "wrongly"),
    "an unknown type": (raw_safetensors({"a": entry(0, 8, dtype="F128")}, 8), "wrongly"),
    "offsets backwards": (raw_safetensors({"a": entry(8, 0, [0])}, 8), "wrongly"),
    "a name twice": (raw_safetensors(b'{"a":%b,"a":%b}' % (ENTRY, ENTRY), 8), "twice"),
    "lists without end": (raw_safetensors(b'{"a":[' + b"[]," * 600_000 + b"0]}", 0), "more than 100000"),
    "nested without end": (raw_safetensors(b'{"a":' + b"[" * 200_000, 0), "not JSON"),
    "not UTF-8": (raw_safetensors(b'{"\xff":1}', 0), "not JSON"),
    "metadata of numbers": (raw_safetensors({"__metadata__": {"a": 1}}, 0), "metadata"),
    "an entry that is a text": (raw_safetensors({"a": "b"}, 0), "wrongly"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE_HEADERS))
def test_a_hostile_header_is_refused_with_its_reason(name: str) -> None:
    data, reason = HOSTILE_HEADERS[name]
    with pytest.raises(BadModelError, match=reason):
        read_head(Held(data))


def test_a_header_of_100_mb_is_refused_before_it_is_read() -> None:
    class Huge(Held):
        size_bytes = 10**10

        def read(self, start: int, length: int) -> bytes:
            assert length <= 16, "the header was read"
            return struct.pack("<Q", 100_000_000) + b'{"a": "'

    with pytest.raises(BadModelError, match=str(MAX_HEADER_BYTES)):
        read_head(Huge(b""))


@given(st.binary(min_size=0, max_size=300))
def test_no_bytes_at_all_break_the_reader(tail: bytes) -> None:
    for start in (b"", struct.pack("<Q", len(tail)) + b"{", b"PK\x03\x04", b"\x80\x02"):
        with contextlib.suppress(BadModelError, UnsafeModelError):
            read_head(Held(start + tail))


class Evil:
    """Pickles into a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [torch_zip, torch_legacy, bytes])
def test_a_pickle_that_calls_something_is_refused_by_name(protocol: int, wrap: object) -> None:
    import os

    text = pickle.dumps({"state_dict": Evil(os.system, "echo owned")}, protocol=protocol)
    if wrap is bytes and protocol < 2:
        assert read_head(Held(text)) is None  # it does not even begin as a pickle that torch would take
        return
    with pytest.raises(UnsafeModelError, match=r"(posix|nt)\.system: (GLOBAL|STACK_GLOBAL)"):
        read_head(Held(wrap(text)))  # type: ignore[operator]


TRICKS = {
    "getattr by a nested name": b"cbuiltins\ngetattr\n",
    "eval": b"cbuiltins\neval\n",
    "an instance": b"(iposix\nsystem\n",
    "a name from the memo": b"\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93",
    "a name from a tuple": b"\x8c\x05posix\x85\x8c\x06system\x93",
    "an extension": b"\x82\x01",
    "torch's own loader": b"ctorch.storage\n_load_from_bytes\n",
    "a space in the module": b"ctorch FloatStorage\nx\n",
}


@pytest.mark.parametrize("name", sorted(TRICKS))
def test_a_hidden_call_is_refused(name: str) -> None:
    with pytest.raises(UnsafeModelError):
        read_head(Held(torch_zip(torch_pickle(KINDS["sd1"], TRICKS[name] + b"0"))))


def test_a_second_pickle_in_the_zip_is_examined_too() -> None:
    evil = pickle.dumps(Evil(print, "x"), protocol=2)
    with pytest.raises(UnsafeModelError, match=r"print"):
        read_head(Held(torch_zip(evil, names=("archive/constants.pkl", "archive/data.pkl"))))


def test_lightning_checkpoints_name_their_callback_and_pass() -> None:
    extra = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n0cnumpy\ndtype\n0"
    assert told(torch_zip(torch_pickle(KINDS["sd1"], extra)))[1] == "SD1"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("archive/data.pkl", "../../etc/passwd"), "leads out"),
        (("archive/data.pkl", "/etc/passwd"), "leads out"),
        (("archive/data.pkl", "a\\..\\b"), "leads out"),
        (("archive/data.pkl", "archive/code/__torch__.py"), "TorchScript"),
    ],
)
def test_a_zip_with_dangerous_names_is_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UnsafeModelError, match=reason):
        read_head(Held(torch_zip(torch_pickle(KINDS["sd1"]), names=names)))


def test_a_zip_with_two_entries_of_one_name_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = torch_zip(torch_pickle(KINDS["sd1"]), names=("archive/data.pkl", "archive/data.pkl"))
    with pytest.raises(UnsafeModelError, match="two entries"):
        read_head(Held(data))


def test_a_zip_bomb_is_refused_without_being_unpacked() -> None:
    bomb = torch_zip(bytes(200 * 1024**2), compressed=True)
    assert len(bomb) < 1024**2
    with pytest.raises(BadModelError, match="larger than"):
        read_head(Held(bomb))


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(100), torch_zip(b"x", names=("other/file",))])
def test_a_zip_that_torch_did_not_save_is_refused(data: bytes) -> None:
    with pytest.raises(BadModelError):
        read_head(Held(data))


def test_a_pickle_without_end_is_refused() -> None:
    with pytest.raises(BadModelError, match="cannot be read"):
        read_head(Held(torch_zip(torch_pickle(KINDS["sd1"])[:-1])))


# What a part of a model has: any of its names will do, whatever the shapes.
PARTS = {
    ("checkpoint", "SD1"): (
        "model.diffusion_model.time_embed.0.weight", "cond_stage_model.transformer.text_model.embeddings.x",
    ),
    ("checkpoint", "SD2"): (
        "model.diffusion_model.out.2.weight", "cond_stage_model.model.transformer.resblocks.0.ln_1.weight",
    ),
    ("checkpoint", "SDXL"): (
        "model.diffusion_model.label_emb.0.0.weight", "conditioner.embedders.1.model.text_projection",
    ),
    ("checkpoint", "SD3"): ("model.diffusion_model.joint_blocks.5.x_block.attn.qkv.weight",),
    ("checkpoint", "Flux"): ("double_blocks.3.img_mod.lin.weight",),
    ("vae", ""): ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"),
    ("controlnet", ""): ("control_model.zero_convs.0.0.weight", "control_model.time_embed.0.weight"),
    ("upscaler", ""): ("conv_first.weight", "body.3.rdb2.conv1.weight", "conv_body.weight"),
    ("lora", ""): ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",),
}  # fmt: skip


@pytest.mark.parametrize(("what", "names"), PARTS.items())
@pytest.mark.parametrize("shape", [(1,), (2, 2)])
def test_names_alone_tell_a_model(
    what: tuple[str, str], names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    head = read_head(Held(safetensors(dict.fromkeys(names, shape))))
    assert head is not None
    found = identify(head)
    assert (found.type, found.base) == what
