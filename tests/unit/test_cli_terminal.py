"""Which way a picture is drawn, and that the way draws it."""

from __future__ import annotations

import base64
import re

import pytest

from sdctl.cli import terminal
from support.task_api_server import png

pytest.importorskip("PIL")


@pytest.mark.parametrize(
    ("env", "how"),
    [
        ({}, ""),
        ({"TERM": "dumb"}, ""),
        ({"TERM": "linux"}, ""),
        ({"TERM": "xterm", "NO_COLOR": "1"}, ""),
        ({"TERM": "xterm-256color"}, terminal.BLOCKS),
        ({"TERM": "xterm-kitty"}, terminal.KITTY),
        ({"TERM": "xterm", "KITTY_WINDOW_ID": "1"}, terminal.KITTY),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, terminal.BLOCKS),
        ({"TERM": "xterm", "TERM_PROGRAM": "WezTerm"}, terminal.ITERM2),
        ({"TERM": "xterm", "LC_TERMINAL": "iTerm2"}, terminal.ITERM2),
        ({"TERM": "foot-extra"}, terminal.SIXEL),
        ({"TERM": "xterm-sixel"}, terminal.SIXEL),
    ],
)
def test_the_terminal_says_what_it_can(env: dict[str, str], how: str) -> None:
    assert terminal.protocol(env) == how


def test_half_blocks_have_two_pixels_a_cell_and_never_exceed_the_width() -> None:
    text = terminal.render(png(64, 32), terminal.BLOCKS, 20, is_true_color=True)
    lines = text.split("\n")
    assert len(lines) == 5
    assert all(line.count("▀") == 20 and line.endswith("\x1b[0m") for line in lines)
    assert "38;2;" in text
    assert "38;5;" in terminal.render(png(64, 32), terminal.BLOCKS, 20, is_true_color=False)


def test_kitty_gets_the_whole_png_in_chunks() -> None:
    text = terminal.render(png(300, 300), terminal.KITTY, 40, is_true_color=True)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert parts[0][0].startswith("a=T,f=100,q=2,c=40")
    assert [one.rpartition("m=")[2] for one, _ in parts] == ["1"] * (len(parts) - 1) + ["0"]
    assert all(len(data) <= 4096 for _, data in parts)
    assert base64.b64decode("".join(data for _, data in parts)).startswith(b"\x89PNG")


def decode_sixel(text: str) -> list[list[int]]:
    """Draw a sixel stream into rows of colour numbers."""
    header = re.match(r'\x1bPq"1;1;(\d+);(\d+)', text)
    assert header is not None
    width, height = int(header[1]), int(header[2])
    body = re.sub(r"#\d+;2;\d+;\d+;\d+", "", text[header.end() : -2])
    rows = [[-1] * width for _ in range(height)]
    for band, line in enumerate(body.split("-")):
        for color, bits in re.findall(r"#(\d+)([^#$]*)\$", line):
            plain = re.sub(r"!(\d+)(.)", lambda run: run[2] * int(run[1]), bits)
            for x, char in enumerate(plain):
                for y in range(6):
                    if ord(char) - 63 >> y & 1:
                        rows[band * 6 + y][x] = int(color)
    return rows


def test_sixel_draws_every_pixel() -> None:
    rows = decode_sixel(terminal.render(png(20, 13), terminal.SIXEL, 40, is_true_color=True))
    assert (len(rows), len(rows[0])) == (13, 20)
    assert all(color >= 0 for row in rows for color in row)
    assert len({color for row in rows for color in row}) > 10


@pytest.mark.parametrize("how", [terminal.BLOCKS, terminal.SIXEL, terminal.KITTY])
def test_what_is_no_picture_is_left_out(how: str) -> None:
    assert terminal.render(b"no picture", how, 40, is_true_color=True) == ""
    header = png(4, 4)[:16] + (60_000).to_bytes(4, "big") * 2 + png(4, 4)[24:]
    assert terminal.render(header, terminal.BLOCKS, 40, is_true_color=True) == ""
