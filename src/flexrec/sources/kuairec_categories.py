"""The first-level categories of KuaiRec's videos in both languages, and what its tags stand for.

The Chinese names are all 39 that `kuairec_caption_category.csv` has: 38 categories and `UNKNOWN`, its word for a
missing one. The English ones are a fixed translation, short because they stand in prompts. The other levels and the
captions have no translation here.
"""

from typing import NamedTuple

MISSING_ID, MISSING_NAME = -124, "UNKNOWN"


class Name(NamedTuple):
    """A name in both languages."""

    original: str
    english: str


CATEGORIES: dict[int, Name] = {
    MISSING_ID: Name(MISSING_NAME, "Video"),
    1: Name("舞蹈", "Dance"),
    2: Name("音乐", "Music"),
    3: Name("游戏", "Games"),
    4: Name("美妆", "Make-up"),
    5: Name("时尚", "Fashion"),
    6: Name("明星娱乐", "Celebrities"),
    7: Name("运动", "Sports"),
    8: Name("颜值", "Good looks"),
    9: Name("喜剧", "Comedy"),
    10: Name("旅游", "Travel"),
    11: Name("生活", "Daily life"),
    12: Name("美食", "Food"),
    13: Name("三农", "Farming"),
    14: Name("教育", "Education"),
    15: Name("艺术", "Art"),
    16: Name("健康", "Health"),
    17: Name("宠物", "Pets"),
    18: Name("汽车", "Cars"),
    19: Name("情感", "Relationships"),
    20: Name("二次元", "Anime"),
    21: Name("人文", "Culture"),
    22: Name("财经", "Finance"),
    23: Name("时政资讯", "Politics"),
    24: Name("星座命理", "Astrology"),
    25: Name("亲子", "Parenting"),
    26: Name("摄影", "Photography"),
    27: Name("高新数码", "Technology"),
    28: Name("民生资讯", "Social news"),
    29: Name("科学与法律", "Science and law"),
    31: Name("健身", "Fitness"),
    32: Name("短剧", "Short drama"),
    33: Name("自拍", "Selfies"),
    34: Name("其他", "Other"),
    35: Name("军事", "Military"),
    36: Name("房产家居", "Home"),
    37: Name("奇人异象", "Curiosities"),
    38: Name("读书", "Books"),
    39: Name("影视综", "Film and TV"),
}
"""`first_level_category_id` -> name. There is no 30."""

UNNAMED_TAGS = frozenset({0, 23, 30})
"""Tags of `item_categories.csv` that are not named after a category.

The makers publish no names of the 31 tags (0 to 30). In their own tables tag `t` goes with the first-level category of
the same id: every tag but 0, 23 and 30 has that category among its two most frequent ones (tag 1 with 舞蹈 in 379 of
463 videos, say). No category has the ids 0 and 30; no video with tag 23 has category 23, nearly all have 21.
"""


def tag_name(tag: int) -> Name:
    """The name of a tag: that of the category with its id, or its number."""
    if tag in CATEGORIES and tag not in UNNAMED_TAGS:
        return CATEGORIES[tag]
    return Name(f"标签{tag}", f"Tag {tag}")
