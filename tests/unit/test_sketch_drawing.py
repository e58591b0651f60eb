"""What sketch draws: the same from the same wish, something else from another, always a proper file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdctl.local.sketch.drawing import Wish, draw
from sdctl.local.sketch.fields import Dice
from sdctl.local.sketch.images import BadImageError, decode_image, masked, repaint, unfinished
from sdctl.local.sketch.motifs import MOTIFS
from sdctl.local.sketch.palette import LIGHTS, read_scene
from sdctl.local.sketch.png import encode_png
from support.sketch import picture, png

PROMPTS = [
    "", "A dog", "a cat at night", "sea with a boat", "cyberpunk city", "dark forest", "galaxy",
    "abstract swirl",
    "portrait of a woman", "horse in the desert", "flowers", "a house in snow", "birds", "hot air balloon",
    "一只狗",
]  # fmt: skip


def wish(prompt: str = "A dog", **changes: object) -> Wish:
    values = {"negative_prompt": "", "seed": 1, "width": 96, "height": 64, "model": "m", **changes}
    return Wish(prompt=prompt, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("size", [(64, 64), (512, 64), (72, 400)])
def test_every_scene_fills_every_size(prompt: str, size: tuple[int, int]) -> None:
    pixels = draw(wish(prompt, width=size[0], height=size[1]))
    assert (pixels.shape, pixels.dtype) == ((size[1], size[0], 3), np.uint8)
    assert pixels.std() > 8, "a picture, not a plain"


def test_other_seeds_prompts_negatives_and_models_give_other_pictures() -> None:
    wishes = [wish(), wish(seed=2), wish("A cat"), wish(negative_prompt="ugly"), wish(model="n")]
    assert len({draw(one).tobytes() for one in wishes}) == len(wishes)


def test_the_same_wish_gives_the_same_bytes_in_another_process() -> None:
    code = """
import hashlib
from sdctl.local.sketch.drawing import Wish, draw
from sdctl.local.sketch.png import encode_png
prompts = "a cat at night", "galaxy", "city"
data = b"".join(encode_png(draw(Wish(prompt, "x", 7, 128, 96, "m"))) for prompt in prompts)
print(hashlib.sha256(data).hexdigest())
"""
    root = Path(__file__).resolve().parents[2]
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    prompts = "a cat at night", "galaxy", "city"
    here = b"".join(encode_png(draw(Wish(prompt, "x", 7, 128, 96, "m"))) for prompt in prompts)
    assert runs == {hashlib.sha256(here).hexdigest() + "\n"}


def test_random_numbers_are_those_of_shake_256_for_ever() -> None:
    assert Dice(b"key").octets("label", 4).tobytes() == hashlib.shake_256(b"keylabel").digest(4)


@pytest.mark.parametrize(
    ("prompt", "place", "light", "motifs"),
    [
        ("a dog and a cat by the sea at night", "sea", "night", ("dog", "cat")),
        ("cats in a cyberpunk city", "city", "neon", ("cat",)),
        ("夜里的猫", None, "night", ("cat",)),
        ("a catalogue", None, None, ()),
    ],
)
def test_words_choose_place_light_and_motifs(
    prompt: str, place: str | None, light: str | None, motifs: tuple[str, ...]
) -> None:
    scene = read_scene(prompt, "", Dice(b""))
    assert scene.motifs == motifs
    assert place is None or scene.place == place
    assert light is None or scene.light is LIGHTS[light]


def test_what_the_negative_prompt_names_is_left_out() -> None:
    assert read_scene("a dog and a cat", "dog", Dice(b"")).motifs == ("cat",)


def test_every_motif_can_be_asked_for() -> None:
    for name in MOTIFS:
        asked = {"portrait": "portrait"}.get(name, name)
        assert read_scene(asked, "", Dice(b"")).motifs[0] == name


@pytest.mark.parametrize(
    "pixels", [draw(wish()), np.full((64, 64, 3), 9, np.uint8), np.zeros((64, 64, 4), np.uint8)]
)
def test_a_png_reads_back_as_the_same_pixels_and_is_no_placeholder(pixels: np.ndarray) -> None:
    data = encode_png(pixels, {"parameters": "a\nb", "title": "猫"})
    image = picture(data)
    assert np.array_equal(np.asarray(image), pixels)
    assert image.text == {"parameters": "a\nb", "title": "猫"}  # type: ignore[attr-defined]
    assert len(data) > 10 * 1024


def test_img2img_changes_more_the_stronger_it_is_and_nothing_at_0() -> None:
    source = np.asarray(Image.radial_gradient("L").resize((96, 64)).convert("RGB"))
    change = [np.abs(repaint(source, wish(), part).astype(int) - source).mean() for part in (0, 0.2, 0.6, 1)]
    assert change[0] == 0
    assert change[0] < change[1] < change[2] < change[3]


def test_a_mask_keeps_what_is_black() -> None:
    before, after = np.zeros((64, 96, 3), np.uint8), np.full((64, 96, 3), 200, np.uint8)
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (48, 0, 96, 64))
    mixed = masked(after, before, mask, 0)
    assert (mixed[:, :40].max(), mixed[:, 56:].min()) == (0, 200)


def test_an_unfinished_picture_comes_nearer_with_every_step() -> None:
    final = draw(wish())
    away = [np.abs(unfinished(final, part).astype(int) - final).mean() for part in (0.1, 0.5, 0.9, 1)]
    assert away == sorted(away, reverse=True)
    assert away[-1] == 0


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", png(Image.new("RGB", (8, 8)))[:45]])
def test_broken_pictures_are_refused(data: bytes) -> None:
    with pytest.raises(BadImageError):
        decode_image(data)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = png(Image.new("1", (9000, 9000)))
    assert len(bomb) < 100_000
    with pytest.raises(BadImageError, match="more than"):
        decode_image(bomb)
