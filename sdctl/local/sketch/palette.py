"""Which scene a prompt asks for: its place, its light and its motifs, chosen by the words in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sdctl.local.sketch.fields import Dice

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Light:
    """The colours of one time of day: sky from top to horizon, sun, land from far to near, water's tint."""

    sky: tuple[Colour, ...]
    sun: Colour
    far: Colour
    near: Colour
    dark: bool = False


LIGHTS: dict[str, Light] = {
    "day": Light(((38, 98, 178), (112, 170, 220), (222, 236, 238)), (255, 250, 224), (150, 182, 205), (34,
        74, 58)),
    "sunset": Light(((48, 38, 92), (188, 78, 102), (252, 178, 96)), (255, 238, 176), (178, 102, 116), (44,
        26, 52)),
    "dawn": Light(((86, 104, 168), (226, 168, 178), (252, 222, 190)), (255, 246, 220), (176, 160, 188), (62,
        62, 92)),
    "night": Light(((8, 10, 30), (20, 32, 74), (58, 74, 126)), (236, 240, 255), (46, 58, 104), (6, 10, 26),
        dark=True),
    "mist": Light(((150, 170, 178), (196, 208, 208), (232, 232, 222)), (255, 252, 240), (180, 192, 194),
        (52, 72, 74)),
    "ember": Light(((30, 14, 24), (128, 30, 34), (242, 116, 48)), (255, 214, 130), (120, 48, 52), (22, 10,
        18)),
    "mint": Light(((18, 92, 104), (92, 178, 162), (234, 238, 196)), (255, 252, 214), (122, 176, 160), (16,
        62, 70)),
    "rose": Light(((94, 62, 128), (222, 134, 170), (254, 214, 206)), (255, 244, 232), (190, 134, 172), (70,
        40, 88)),
    "winter": Light(((96, 130, 176), (174, 198, 222), (240, 244, 248)), (255, 252, 244), (196, 210, 226),
        (88, 112, 146)),
    "neon": Light(((12, 6, 38), (72, 18, 108), (236, 62, 148)), (255, 180, 240), (88, 36, 132), (10, 6, 30),
        dark=True),
    "autumn": Light(((92, 132, 164), (216, 190, 150), (250, 222, 164)), (255, 246, 210), (196, 134, 84),
        (88, 38, 22)),
    "jade": Light(((24, 62, 74), (72, 134, 128), (206, 222, 188)), (250, 250, 220), (104, 148, 138), (12,
        44, 44)),
}  # fmt: skip
_USUAL_LIGHT = {
    "city": ("sunset", "night", "neon"), "desert": ("autumn", "sunset", "rose"), "sea": ("day", "sunset",
    "mint"),
}  # fmt: skip
_BY_CHANCE = ("day", "sunset", "dawn", "mist", "mint", "rose", "jade", "autumn")

# Words (English at word starts, Chinese anywhere) and what they ask for.
_LIGHT_WORDS = {
    "night": "night moon midnight star 夜 月 星", "sunset": "sunset dusk evening golden warm 夕阳 黄昏 日落",
    "dawn": "dawn sunrise morning pastel 黎明 日出 清晨",
    "mist": "mist misty fog foggy rain rainy grey gray storm 雾 雨",
    "ember": "fire fiery volcano lava dragon hell red 火 龙",
    "winter": "snow snowy winter ice frozen arctic 雪 冬 冰",
    "neon": "cyberpunk neon synthwave futuristic robot 赛博 霓虹 机器人",
    "autumn": "autumn fall wheat harvest 秋",
    "mint": "spring tropical jungle turquoise 春", "rose": "rose pink sakura cherry love 粉 樱 玫瑰",
    "jade": "green jade ink chinese forest 绿 山水 墨", "day": "sunny summer bright blue 夏 晴",
}  # fmt: skip
_PLACE_WORDS = {
    "space": "space galaxy nebula planet cosmos universe astronaut 太空 宇宙 星系 宇航员",
    "city": "city street skyline cyberpunk town building skyscraper 城市 街",
    "sea": "sea ocean beach lake water river boat ship sail island coast fish 海 湖 河 船 水 岛 鱼",
    "desert": "desert dune sand camel egypt 沙漠 沙",
    "forest": "forest tree wood jungle pine 森林 树 林",
    "abstract": "abstract pattern texture fractal marble wallpaper swirl flow 抽象 图案 纹理",
    "mountain": "mountain volcano alp peak valley hill canyon landscape 山 谷 风景",
}
_MOTIF_WORDS = {
    "dog": "dog puppy wolf corgi husky hound 狗 犬 狼", "cat": "cat kitten lion tiger kitty 猫 虎 狮",
    "bird": "bird eagle crow crane owl seagull 鸟 鹰 鹤", "boat": "boat ship sail yacht 船 帆",
    "house": "house cabin hut cottage castle temple 房 屋 城堡 寺", "tree": "tree oak apple sakura 树 樱",
    "flower": "flower garden rose tulip sunflower meadow 花 玫瑰",
    "portrait": "woman man girl boy portrait face person lady king queen 1girl 1boy astronaut people "
    "女 男 人像 肖像 人物 宇航员",
    "horse": "horse unicorn pony deer camel 马 鹿", "balloon": "balloon 气球",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn: a place, its light, and at most two motifs."""

    place: str
    light: Light
    motifs: tuple[str, ...]


def read_scene(prompt: str, negative_prompt: str, dice: Dice) -> Scene:
    """Choose a scene by the words of the prompt, without what the negative prompt names."""
    wanted, unwanted = prompt.lower(), negative_prompt.lower()

    def named(table: dict[str, str]) -> list[str]:
        found = [(_position(words, wanted), name) for name, words in table.items()]
        return [name for at, name in sorted(found) if at >= 0 and _position(table[name], unwanted) < 0]

    motifs = tuple(named(_MOTIF_WORDS)[:2])
    lights = named(_LIGHT_WORDS)
    places = named(_PLACE_WORDS)
    light = lights[0] if lights else _BY_CHANCE[dice.below("light", len(_BY_CHANCE))]
    if places:
        place = places[0]
    elif motifs:
        place = ("meadow", "meadow", "mountain")[dice.below("place", 3)]
    elif wanted.strip():
        place = ("mountain", "sea", "abstract", "desert", "forest")[dice.below("place", 5)]
    else:
        place = "abstract"
    if not lights and place in _USUAL_LIGHT:
        light = _USUAL_LIGHT[place][dice.below("usual light", 3)]
    return Scene(place, LIGHTS[light], motifs)


def _position(words: str, text: str) -> int:
    """Return where the first of some words stands in a text, or -1."""
    starts = [
        match.start()
        for word in words.split()
        if (match := re.search(re.escape(word) if not word.isascii() else rf"\b{word}(e?s)?\b", text))
    ]
    return min(starts, default=-1)
