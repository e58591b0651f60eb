"""Pictures on the terminal: kitty's and iTerm2's protocols, sixel, or half-blocks in colour.

Which one is taken from what the terminal says of itself in the environment; it is never asked, since
an answer that comes late would end up in the user's shell. Pillow draws where it is installed.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import context, output
from sdctl.errors import ApiError

if TYPE_CHECKING:
    from sdctl.tasks.answers import RemoteTask
    from sdctl.tasks.api import TaskApi

KITTY = "kitty"
ITERM2 = "iterm2"
SIXEL = "sixel"
BLOCKS = "blocks"

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_MAX_COLUMNS: Final = 72
_SIXEL_PIXELS: Final = 512
_SIXEL_COLORS: Final = 128
_SIXEL_CHARACTERS: Final = bytes(63 + value % 64 for value in range(256))
_RUN: Final = re.compile(r"(.)\1{3,}")
# https://sw.kovidgoyal.net/kitty/graphics-protocol/#remote-client
_KITTY_CHUNK: Final = 4096


def protocol(env: Mapping[str, str]) -> str:
    """Name the way to draw on this terminal; empty where there is none."""
    term, program = env.get("TERM", ""), env.get("TERM_PROGRAM", "")
    if term in ("", "dumb", "linux") or env.get("NO_COLOR"):
        return ""
    if env.get("TMUX") or term.startswith(("screen", "tmux")):
        return BLOCKS  # a multiplexer passes no pictures on
    if env.get("KITTY_WINDOW_ID") or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return KITTY
    if program in ("iTerm.app", "WezTerm") or env.get("LC_TERMINAL") == "iTerm2":
        return ITERM2
    if "sixel" in term or term.startswith(("foot", "mlterm", "contour")):
        return SIXEL
    return BLOCKS


def can_draw(env: Mapping[str, str]) -> bool:
    """Tell whether a picture makes sense: text for a person at a terminal that can show one."""
    options = context.current()
    return not options.is_json and not options.quiet and sys.stdout.isatty() and bool(protocol(env))


def draw_outputs(task: RemoteTask, api: TaskApi, env: Mapping[str, str]) -> None:
    """Fetch a task's first output for the moment, and draw it."""
    from sdctl.tasks.files import download_outputs

    first = dataclasses.replace(task, image_url=task.image_url[:1], links=task.links[:1])
    with tempfile.TemporaryDirectory(prefix="sdctl-") as folder:
        try:
            (name,) = download_outputs(first, Path(folder), api.transport)
        except ApiError as error:
            output.warn(f"no picture: {error.message}")
            return
        draw_file(Path(name), env)


def draw_file(path: Path, env: Mapping[str, str]) -> None:
    """Draw a picture file; what is no picture, or is too large, is left out."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return
    data = path.read_bytes()
    columns = min(_MAX_COLUMNS, shutil.get_terminal_size().columns - 1)
    text = render(data, protocol(env), columns, is_true_color=env.get("COLORTERM") in ("truecolor", "24bit"))
    if text:
        output.draw_result(f"{text}\n")


def render(data: bytes, how: str, columns: int, *, is_true_color: bool) -> str:
    """Return the control sequences that draw a picture `columns` wide; empty where it cannot be drawn."""
    if how == ITERM2:
        encoded = base64.b64encode(data).decode()
        # https://iterm2.com/documentation-images.html
        return f"\x1b]1337;File=inline=1;size={len(data)};width={columns}:{encoded}\x07"
    image = _open(data)
    if image is None:
        is_png = data.startswith(b"\x89PNG\r\n\x1a\n")
        return _kitty(data, columns) if how == KITTY and is_png else ""
    if how == KITTY:
        return _kitty(_png(image), columns)
    if how == SIXEL:
        image.thumbnail((_SIXEL_PIXELS, _SIXEL_PIXELS))
        return _sixel(image)
    return _half_blocks(image, columns, is_true_color=is_true_color)


def _open(data: bytes) -> Any:
    """Decode a picture; None without Pillow, or where the data is no sound picture of a sane size."""
    try:
        from PIL import Image
    except ImportError:
        return None
    import io
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _png(image: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _kitty(png: bytes, columns: int) -> str:
    encoded = base64.b64encode(png).decode()
    chunks = [encoded[at : at + _KITTY_CHUNK] for at in range(0, len(encoded), _KITTY_CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks, start=1):
        more = int(number < len(chunks))
        control = f"a=T,f=100,q=2,c={columns},m={more}" if number == 1 else f"m={more}"
        parts.append(f"\x1b_G{control};{chunk}\x1b\\")
    return "".join(parts)


def _sixel(image: Any) -> str:
    """Encode as DEC sixel, six rows at a time: https://vt100.net/docs/vt3xx-gp/chapter14.html."""
    small = image.quantize(_SIXEL_COLORS)
    palette: list[int] = small.getpalette()
    width: int = small.width
    height: int = small.height
    pixels: bytes = small.tobytes()
    parts = [f'\x1bPq"1;1;{width};{height}']
    for color in range(len(palette) // 3):
        red, green, blue = (value * 100 // 255 for value in palette[color * 3 : color * 3 + 3])
        parts.append(f"#{color};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + 6, height))]
        for color in sorted(set(b"".join(band))):
            parts.append(f"#{color}{_sixel_row(band, color)}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _sixel_row(band: list[bytes], color: int) -> str:
    """Encode where a colour stands in up to six rows: a character per column, runs shortened."""
    bits = 0
    for y, row in enumerate(band):
        mask = bytearray(256)
        mask[color] = 1 << y
        bits |= int.from_bytes(row.translate(mask), "big")
    columns = bits.to_bytes(len(band[0]), "big").translate(_SIXEL_CHARACTERS).decode("ascii")
    return _RUN.sub(lambda run: f"!{len(run[0])}{run[1]}", columns)


def _half_blocks(image: Any, columns: int, *, is_true_color: bool) -> str:
    width = max(1, min(columns, image.width))
    height = max(2, round(image.height * width / image.width) // 2 * 2)
    data = image.resize((width, height)).tobytes()
    lines = []
    for y in range(0, height, 2):
        cells = []
        for x in range(width):
            upper, lower = ((row * width + x) * 3 for row in (y, y + 1))
            front = _color(data[upper : upper + 3], is_true_color=is_true_color)
            back = _color(data[lower : lower + 3], is_true_color=is_true_color)
            cells.append(f"\x1b[38;{front};48;{back}m\N{UPPER HALF BLOCK}")
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _color(rgb: bytes, *, is_true_color: bool) -> str:
    if is_true_color:
        return f"2;{rgb[0]};{rgb[1]};{rgb[2]}"
    red, green, blue = (value * 6 // 256 for value in rgb)
    return f"5;{16 + 36 * red + 6 * green + blue}"
