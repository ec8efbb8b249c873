"""Shopping queries in the layout of Amazon's ESCI (Reddy et al., 2022, arXiv 2206.06588): two Parquet files.

A product is a noun with two attributes, a colour and a brand; a query asks for a noun with an attribute. The planted
grade follows from the two: the attribute matches (E), only the noun does (S), the product is an accessory of the noun
(C), or none of it (I). A share of the judgments shows another grade than the planted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from flexrec.files import replacing
from flexrec.sources.fabricator.scale import scaled
from flexrec.sources.fabricator.words import words

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES_FILE = "shopping_queries_dataset_examples.parquet"
PRODUCTS_FILE = "shopping_queries_dataset_products.parquet"
TRUTH_FILE = "fabricated_truth.parquet"

# published: of the larger version, all locales
QUERIES = 130_652
JUDGMENTS = 2_621_288
PRODUCTS = 1_814_924
LOCALES = ("us", "es", "jp")
LOCALE_SHARES = (0.745, 0.116, 0.139)
LABELS = ("E", "S", "C", "I")
LABEL_SHARES = (0.652, 0.219, 0.029, 0.100)
SMALL_SHARE = 48_300 / 130_652
TEST_SHARE = 0.231

MISSING = {"product_description": 0.48, "product_bullet_point": 0.15, "product_brand": 0.07, "product_color": 0.33}
FLIPPED = 0.06  # judgments that show another grade than the planted one
FEWEST, MOST = 8, 40  # products judged per query
# products that must be made so that about PRODUCTS of them are judged when judgments fall on them at random
_MADE_PER_PRODUCT = 1.82

_NOUNS = {
    "us": words(
        """
    backpack bottle boots cable chair clock coat desk drill earphones fan gloves guitar hat jacket
    kettle keyboard knife lamp mattress mirror monitor mouse mug notebook pan pillow printer rug scarf
    shelf shoes speaker tent towel wallet
    """
    ),
    "es": words(
        """
    mochila botella botas cable silla reloj abrigo escritorio taladro auriculares ventilador guantes
    guitarra sombrero chaqueta hervidor teclado cuchillo lámpara colchón espejo monitor ratón taza
    cuaderno sartén almohada impresora alfombra bufanda estante zapatos altavoz tienda toalla cartera
    """
    ),
    "jp": words(
        """
    リュック ボトル ブーツ ケーブル 椅子 時計 コート 机 ドリル イヤホン 扇風機 手袋 ギター 帽子
    ジャケット ケトル キーボード 包丁 ランプ マットレス 鏡 モニター マウス マグカップ ノート フライパン
    枕 プリンター ラグ マフラー 棚 靴 スピーカー テント タオル 財布
    """
    ),
}
_ATTRIBUTES = {
    "us": words(
        """
    compact foldable heavy-duty kids leather lightweight portable quiet soft steel waterproof wireless
    """
    ),
    "es": words(
        """
    compacto plegable resistente infantil cuero ligero portátil silencioso suave acero impermeable
    inalámbrico
    """
    ),
    "jp": words(
        """
    コンパクト 折りたたみ 頑丈 子供用 革 軽量 携帯 静音 柔らかい ステンレス 防水 ワイヤレス
    """
    ),
}
_COLOURS = {
    "us": words(
        """
    black blue brown gold gray green orange pink purple red silver white yellow
    """
    ),
    "es": words(
        """
    negro azul marrón dorado gris verde naranja rosa morado rojo plateado blanco amarillo
    """
    ),
    "jp": words(
        """
    黒 青 茶 金 灰 緑 橙 桃 紫 赤 銀 白 黄
    """
    ),
}
_ACCESSORY = {"us": "cover for", "es": "funda para", "jp": "用カバー"}
_SYLLABLES = words(
    """
    ba de fi go ka lu mi no pa ri so ta vu xe yo zan
    """
)


def write_esci(folder: Path, scale: float, seed: int) -> Path:
    """Write the examples, the products and the planted truth of a made-up ESCI.

    Args:
        folder: Where the three files go; made if missing, files of the same name are replaced.
        scale: Times the published size (130,652 queries, about 2.6 million judgments and 1.8 million products).
        seed: Of everything; the same arguments give the same tables.

    Returns:
        The folder with `shopping_queries_dataset_examples.parquet`, `shopping_queries_dataset_products.parquet` and
        `fabricated_truth.parquet` (example_id, true_label, flipped).

    Raises:
        InputError: A scale that is not positive.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng([seed, 4])
    products = _products(scaled(round(PRODUCTS * _MADE_PER_PRODUCT), scale, least=400), rng)
    queries = _queries(scaled(QUERIES, scale, least=20), products, rng)
    query, product, planted = _judgments(queries, products, rng)

    flipped = rng.random(len(query)) < FLIPPED
    shown = np.where(flipped, (planted + rng.integers(1, len(LABELS), len(query))) % len(LABELS), planted)
    kept = np.unique(product)
    example_id = pa.array(np.arange(len(query), dtype=np.int64))
    locale = _taken(LOCALES, queries["locale"][query])
    ids = _asin(products["number"])
    examples = pa.table(
        {
            "example_id": example_id,
            "query": queries["text"].take(pa.array(query)),
            "query_id": pa.array(query.astype(np.int64)),
            "product_id": ids.take(pa.array(product)),
            "product_locale": locale,
            "esci_label": _taken(LABELS, shown),
            "small_version": pa.array(queries["small"][query].astype(np.int64)),
            "large_version": pa.array(np.ones(len(query), dtype=np.int64)),
            "split": _taken(("train", "test"), queries["test"][query].astype(np.int64)),
        }
    )
    truth = pa.table({"example_id": example_id, "true_label": _taken(LABELS, planted), "flipped": pa.array(flipped)})
    texts = _product_texts({name: values[kept] for name, values in products.items()}, ids.take(pa.array(kept)), rng)
    for name, table in ((EXAMPLES_FILE, examples), (PRODUCTS_FILE, texts), (TRUTH_FILE, truth)):
        with replacing(folder / name, "wb") as sink:
            pq.write_table(table, sink)
    return folder


def _products(count: int, rng: np.random.Generator) -> dict[str, Int[np.ndarray, " products"]]:
    """Draw what every product is; small worlds get few nouns and attributes, so that grades of all kinds occur."""
    nouns = int(np.clip(count // 400, 4, len(_NOUNS["us"])))
    attributes = int(np.clip(count // 800, 3, len(_ATTRIBUTES["us"])))
    locale = rng.choice(len(LOCALES), count, p=LOCALE_SHARES)
    number = rng.permutation(count)
    # the makers' ids are unique within a locale only: some products abroad have the id of one at home
    home, abroad = np.flatnonzero(locale == 0), np.flatnonzero(locale != 0)
    shared = abroad[:: max(1, len(abroad) // max(1, count // 100))][: len(home)]
    number[shared] = number[home[: len(shared)]]
    return {
        "locale": locale,
        "number": number,
        "noun": rng.integers(0, nouns, count),
        "attribute": rng.integers(0, attributes, count),
        "second": rng.integers(0, attributes, count),
        "colour": rng.integers(0, len(_COLOURS["us"]), count),
        "brand": (rng.pareto(1.0, count) * 3).astype(np.int64) % 400,
        "accessory": (rng.random(count) < 0.08).astype(np.int64),
    }


def _queries(count: int, products: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    locale = rng.choice(len(LOCALES), count, p=LOCALE_SHARES)
    locale[: len(LOCALES)] = np.arange(len(LOCALES))  # every locale occurs
    noun = rng.integers(0, products["noun"].max() + 1, count)
    attribute = rng.integers(0, products["attribute"].max() + 1, count)
    colour = rng.integers(0, len(_COLOURS["us"]), count)
    with_colour = rng.random(count) < 0.4
    # the first two of each locale are one of each split
    test = rng.random(count) < TEST_SHARE
    test[: len(LOCALES)], test[len(LOCALES) : 2 * len(LOCALES)] = False, True
    locale[len(LOCALES) : 2 * len(LOCALES)] = np.arange(len(LOCALES))
    texts = [
        f"{_ATTRIBUTES[where][a]} {_COLOURS[where][c] + ' ' if hue else ''}{_NOUNS[where][n]}"
        for where, a, c, n, hue in zip(
            np.asarray(LOCALES)[locale].tolist(),
            attribute.tolist(),
            colour.tolist(),
            noun.tolist(),
            with_colour.tolist(),
            strict=True,
        )
    ]
    import pyarrow as pa

    return {
        "locale": locale,
        "noun": noun,
        "attribute": attribute,
        "small": rng.random(count) < SMALL_SHARE,
        "test": test,
        "size": np.clip(np.rint(rng.gamma(4.0, JUDGMENTS / QUERIES / 4.0, count)), FEWEST, MOST).astype(np.int64),
        "text": pa.array(texts),
    }


def _judgments(
    queries: dict[str, np.ndarray], products: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Pick the judged products of every query and their planted grades (0 to 3: E, S, C, I); no pair occurs twice."""
    query = np.repeat(np.arange(len(queries["size"])), queries["size"])
    wanted = rng.choice(len(LABELS), len(query), p=LABEL_SHARES)
    nouns, attributes = products["noun"].max() + 1, products["attribute"].max() + 1
    noun = queries["noun"][query]
    other = (noun + rng.integers(1, nouns, len(query))) % nouns
    attribute = queries["attribute"][query]
    different = (attribute + rng.integers(1, attributes, len(query))) % attributes
    locale = queries["locale"][query]

    def key(locale: np.ndarray, noun: np.ndarray, attribute: np.ndarray, accessory: np.ndarray) -> np.ndarray:
        return ((locale * nouns + noun) * attributes + attribute) * 2 + accessory

    keys = key(products["locale"], products["noun"], products["attribute"], products["accessory"])
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], np.arange(len(LOCALES) * nouns * attributes * 2 + 1))
    target = key(
        locale,
        np.where(wanted == 3, other, noun),
        np.where(wanted == 0, attribute, different),
        (wanted == 2).astype(np.int64),
    )
    low, high = starts[target], starts[target + 1]
    # where nothing fits, a product of the same locale stands in: the grade is read off the product, not off the wish
    by_locale = np.searchsorted(keys[order], np.arange(len(LOCALES) + 1) * nouns * attributes * 2)
    low, high = np.where(high > low, low, by_locale[locale]), np.where(high > low, high, by_locale[locale + 1])
    # from a start of the query's own one after another, so that a product hardly comes twice
    starts_at = np.cumsum(queries["size"]) - queries["size"]
    turn = np.arange(len(query)) - starts_at[query]
    begin = rng.integers(0, len(keys), len(queries["size"]))[query]
    chosen = order[low + (begin + turn) % (high - low)]

    _, first = np.unique(query * len(keys) + chosen, return_index=True)
    first.sort()
    query, product = query[first], chosen[first]
    same = products["noun"][product] == queries["noun"][query]
    accessory = products["accessory"][product] == 1
    match = products["attribute"][product] == queries["attribute"][query]
    return query, product, np.where(~same, 3, np.where(accessory, 2, np.where(match, 0, 1)))


def _product_texts(products: dict[str, np.ndarray], ids: pa.Array, rng: np.random.Generator) -> pa.Table:
    """Write the products' texts in the official columns; fields are missing as often as in the real file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(products["locale"])

    def of_locale(table: dict[str, tuple[str, ...]], values: np.ndarray) -> pa.Array:
        flat = [word for locale in LOCALES for word in table[locale]]
        return _taken(flat, products["locale"] * len(table[LOCALES[0]]) + values)

    def joined(*parts: pa.Array | str, separator: str = " ") -> pa.Array:
        return pc.binary_join_element_wise(*parts, separator)

    def with_holes(column: str, values: pa.Array) -> pa.Array:
        return pc.if_else(pa.array(rng.random(count) < MISSING[column]), pa.scalar(None, pa.string()), values)

    noun, colour = of_locale(_NOUNS, products["noun"]), of_locale(_COLOURS, products["colour"])
    first, second = of_locale(_ATTRIBUTES, products["attribute"]), of_locale(_ATTRIBUTES, products["second"])
    brand = _taken([_brand(number) for number in range(400)], products["brand"])
    accessory = _taken([_ACCESSORY[locale] for locale in LOCALES], products["locale"])
    named = pc.if_else(pa.array(products["accessory"] == 1), joined(accessory, noun), noun)
    model = pc.cast(pa.array(products["number"]), pa.string())
    return pa.table(
        {
            "product_id": ids,
            "product_title": joined(brand, first, named, colour, model),
            "product_description": with_holes(
                "product_description", joined("<p>", first, second, named, "</p><br/>", brand, model)
            ),
            "product_bullet_point": with_holes(
                "product_bullet_point", joined(joined(first, named), joined(second, colour), separator="\n")
            ),
            "product_brand": with_holes("product_brand", brand),
            "product_color": with_holes("product_color", colour),
            "product_locale": _taken(LOCALES, products["locale"]),
        }
    )


def _brand(number: int) -> str:
    size = len(_SYLLABLES)
    return (_SYLLABLES[number % size] + _SYLLABLES[number // size % size] + _SYLLABLES[number * 7 % size]).capitalize()


def _taken(texts: Sequence[str], places: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(list(texts), type=pa.string()).take(pa.array(places))


def _asin(numbers: Int[np.ndarray, " n"]) -> pa.Array:
    """Ten characters like the makers' ids: `B0` and eight digits to the base 36."""
    import pyarrow as pa

    digits = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype="S1")
    # an odd factor modulo a power of two is a bijection: neighbours get ids that look nothing alike
    mixed = (numbers.astype(np.uint64) * np.uint64(2_654_435_761)) % np.uint64(2**41)
    columns = [np.full(len(numbers), b"B", dtype="S1"), np.full(len(numbers), b"0", dtype="S1")]
    columns += [digits[(mixed // np.uint64(36**place)) % np.uint64(36)] for place in range(7, -1, -1)]
    return pa.array(np.stack(columns, axis=1).view("S10").ravel().astype(str).tolist())
