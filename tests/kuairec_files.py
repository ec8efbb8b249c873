"""KuaiRec's two side tables by hand, and where the real files are."""

import os
from pathlib import Path

import pytest

REAL = Path(os.environ.get("FLEXREC_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "kuairec"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real KuaiRec files are not here (FLEXREC_REAL_DATA names their folder)"
)

CATEGORIES_TEXT = 'video_id,feat\n10,[8]\n20,"[27, 9]"\n30,[0]\n40,[]\n'
CAPTIONS_HEADER = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name\n"
)
CAPTIONS_TEXT = CAPTIONS_HEADER + (
    '10,UNKNOWN,#热门 @小舞(O1356604272) 你好\r世界,"[热门,好]",8,颜值,673,颜值随拍,-124,UNKNOWN\n'
    "20,UNKNOWN,,[],27,高新数码,-124,UNKNOWN,-124,UNKNOWN\n"
    '30,盖,"a, ""b""",[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n'
    "40,UNKNOWN,UNKNOWN,[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN\n"
)
