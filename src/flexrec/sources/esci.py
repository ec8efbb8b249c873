"""Amazon's Shopping Queries, ESCI (Reddy et al., 2022, arXiv 2206.06588; Apache-2.0): queries and judged products.

A query stands where other datasets have a user: it has no history, its context is its text, and its engagement with a
product is the gain of the judgment. Written against the published layout and README; the whole files have not been
seen, so what may be odd in them is resolved by a rule and counted, and what cannot be right is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.ranking.columns import Columns
from flexrec.sources.engine import count_where, first_broken, reading, require_columns
from flexrec.sources.fabricator.esci import EXAMPLES_FILE, PRODUCTS_FILE, write_esci
from flexrec.sources.fetch import fetch_url
from flexrec.sources.tables import Tables
from flexrec.tabular import kept, ranked

if TYPE_CHECKING:
    import ibis
    import pandas as pd
    from ibis.backends import BaseBackend

# the makers keep the files in git-LFS; digests and sizes are those of its pointers at this commit
_ADDRESS = (
    "https://media.githubusercontent.com/media/amazon-science/esci-data/"
    "7e0e3073f5ca36c0b5ff79e847cf99a74597645d/shopping_queries_dataset"
)
FILES = {
    EXAMPLES_FILE: "4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",  # 51,286,808 bytes
    PRODUCTS_FILE: "25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",  # 1,108,857,465 bytes
}

GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
"""Exact, Substitute, Complement, Irrelevant: the gains of the makers' task 1."""

EXAMPLES = {
    "example_id": "whole",
    "query": "text",
    "query_id": "whole",
    "product_id": "text",
    "product_locale": "text",
    "esci_label": "text",
    "small_version": "whole",
    "split": "text",
}
PRODUCTS = {
    "product_id": "text",
    "product_title": "text",
    "product_bullet_point": "text",
    "product_brand": "text",
    "product_color": "text",
    "product_locale": "text",
}
_ADVICE = "move it away so that it is fetched again"


class Esci(Settings):
    """Which of the judgments are taken."""

    small_version: bool = Field(default=True, description="The makers' harder subset (48,300 of 130,652 queries).")
    locale: Literal["us", "es", "jp"] = Field(default="us", description="Shop that queries and products belong to.")

    fewest_judged: int = Field(
        default=1,
        ge=1,
        description="Queries with fewer judged products are left out. K of the task gives every request K candidates; "
        "less gives some requests fewer, which are ranked whole and which training leaves out.",
    )

    def fetch(self, raw_folder: Path) -> Path:
        """Return `raw_folder/esci` with the two official files in it, each fetched unless it is there.

        Raises:
            InputError: A file has another digest, or cannot be fetched.
        """
        folder = raw_folder / "esci"
        for name, digest in FILES.items():
            fetch_url(f"{_ADDRESS}/{name}", digest, folder)
        return folder

    def read(self, raw: Path, connection: BaseBackend) -> Tables:
        """Read the two files of a folder lazily.

        `user_id` is the query's id and `item_id` the place of (locale, product_id) among all products of the file in
        their order, so that it does not depend on the settings; `source_id` is the product's id. There is no time:
        every timestamp is 0. The official test queries are the test split, all others are dealt by the seed.

        Resolved and counted: blank queries are dropped, and judgments of products that are not in the products' file; a
        pair judged again keeps its first judgment; a query with several texts keeps the first; one with judgments in
        both splits is a test query; a product without a title is called by its id.

        Raises:
            InputError: A broken file, a missing column, a missing id, a judgment or split that is none, a product that
                occurs twice, or nothing left.
        """
        import ibis
        from ibis import _

        examples, dropped = self._examples(raw / EXAMPLES_FILE, connection)
        products = _products(raw / PRODUCTS_FILE, connection)
        with reading(raw, _ADVICE):
            known = products.filter(products["product_locale"] == self.locale)
            found = examples.inner_join(known.select("product_id", Columns.ITEM_ID), "product_id")
            found = found.drop("product_id", "product_locale", "small_version")
            again = ibis.row_number().over(group_by=["query_id", Columns.ITEM_ID], order_by=["example_id"])
            # once, for all that follows
            found = kept(found.mutate(again=again))
            first = found.filter(_["again"] == 0)
            judged = first.group_by("query_id").aggregate(judged=_.count())
            deep = first.semi_join(judged.filter(_["judged"] >= self.fewest_judged), "query_id")
            rows, known_products, once, enough = (
                int(connection.to_pandas(table.count())) for table in (examples, found, first, deep)
            )
            if not enough:
                raise InputError(
                    f"{raw}: no judgment is left for locale {self.locale} and queries with {self.fewest_judged} judged "
                    "products or more; take another locale or version, or fewer"
                )
            fewer = f"of queries with fewer than {self.fewest_judged} judged products, left out"
            dropped["judgments of a product that is not in the products' file, dropped"] = rows - known_products
            dropped["judgments of a pair judged before, dropped"] = known_products - once
            dropped[f"judgments {fewer}"] = once - enough
            queries, odd = _queries(found.semi_join(deep, "query_id"), connection)
            taken = known.semi_join(deep, Columns.ITEM_ID).order_by(Columns.ITEM_ID)
            items, untitled = _items(connection.to_pandas(taken))
            interactions = _interactions(deep, connection)
        return Tables(
            interactions=interactions,
            items=items,
            queries=queries,
            dropped={rule: count for rule, count in {**dropped, **odd, **untitled}.items() if count},
        )

    def _examples(self, path: Path, connection: BaseBackend) -> tuple[ibis.Table, dict[str, int]]:
        """The judgments of the chosen locale and version, without blank queries."""
        if not path.is_file():
            raise InputError(f"{path}: no such file; the folder of ESCI holds {EXAMPLES_FILE} and {PRODUCTS_FILE}")
        with reading(path, _ADVICE):
            table = connection.read_parquet(path)
            require_columns(table, EXAMPLES, path)
            table = table.select(*EXAMPLES)
            ids = table["example_id"]
            total, missing, different = connection.to_pandas(
                table.aggregate(n=table.count(), missing=table.count(where=ids.isnull()), different=ids.nunique())
            ).iloc[0]
            if total != different + missing or missing:
                problem = "is missing" if missing else "occurs twice"
                raise InputError(f"{path}: an example_id {problem} ({total} rows, {different} ids); {_ADVICE}")
            known = {"esci_label": tuple(GAINS), "split": ("train", "test"), "small_version": (0, 1)}
            rules = {f"{name} is missing": table[name].isnull() for name in EXAMPLES if name != "query"}
            for name, values in known.items():
                words = f"{name} {{{name}}} is none of {', '.join(str(value) for value in values)}"
                rules[words] = ~table[name].isin(values)
            if broken := first_broken(connection, table, "example_id", rules):
                problem, row = broken
                raise InputError(
                    f"{path}, example {row['example_id']} (query {row['query_id']}, product {row['product_id']}): "
                    f"{problem.format(**row)}; {_ADVICE}"
                )
            elsewhere = table["product_locale"] != self.locale
            blank = table["query"].isnull() | (table["query"].strip() == "")
            outside = ~elsewhere & ~blank & (table["small_version"] == 0)
            conditions = {
                f"judgments of other locales than {self.locale}, left out": elsewhere,
                "judgments with a blank query, dropped": ~elsewhere & blank,
            }
            chosen = ~elsewhere & ~blank
            if self.small_version:
                conditions["judgments outside the small version, left out"] = outside
                chosen = chosen & ~outside
            return table.filter(chosen), count_where(connection, table, conditions)


class FabricatedEsci(Esci):
    """The same of a made-up world in the official layout: no query of it was asked, no product sold, by anybody."""

    scale: float = Field(default=0.01, gt=0, le=10, description="Times the published number of queries.")
    seed: int = Field(default=0, ge=0, description="Of everything in the world.")

    def fetch(self, raw_folder: Path) -> Path:
        """Write the files into a folder of their own; the same settings give the same tables."""
        return write_esci(raw_folder / f"fabricated-esci-{self.scale:g}-{self.seed}", self.scale, self.seed)


def _products(path: Path, connection: BaseBackend) -> ibis.Table:
    """All products with their `item_id`."""
    import ibis

    if not path.is_file():
        raise InputError(f"{path}: no such file; the folder of ESCI holds {EXAMPLES_FILE} and {PRODUCTS_FILE}")
    with reading(path, _ADVICE):
        table = connection.read_parquet(path)
        require_columns(table, PRODUCTS, path)
        table = table.select(*PRODUCTS)
        key = [table["product_locale"], table["product_id"]]
        twice = table.group_by("product_locale", "product_id").aggregate(n=table.count())
        twice = twice.filter((twice["n"] > 1) | twice["product_id"].isnull() | twice["product_locale"].isnull())
        if len(found := connection.to_pandas(twice.order_by("product_locale", "product_id").limit(1))):
            row = found.iloc[0]
            name = f"product {row['product_id']} of locale {row['product_locale']}"
            raise InputError(f"{path}: {name} has no id or occurs more than once ({row['n']} rows); {_ADVICE}")
        # Spark numbers rows with 32 bits; a cast to what Ibis takes them for alone would be none
        place = ibis.row_number().over(order_by=key).cast("int32").cast("int64")
        return table.mutate(**{Columns.ITEM_ID: place})


def _interactions(first: ibis.Table, connection: BaseBackend) -> ibis.Table:
    import ibis

    label = first["esci_label"]
    # by way of text and of fewer bits: a literal's type is the engine's choice
    gain = ibis.cases(*((label == name, str(value)) for name, value in GAINS.items())).cast("float64")
    table = first.select(
        first["query_id"].cast("int64").name(Columns.USER_ID),
        Columns.ITEM_ID,
        ibis.literal(0, type="int32").cast("int64").name(Columns.TIMESTAMP),
        gain.name(Columns.ENGAGEMENT),
        "example_id",
    )
    return ranked(table, [Columns.TIMESTAMP, "example_id"], Columns.EVENT_ID, connection).drop("example_id")


def _queries(found: ibis.Table, connection: BaseBackend) -> tuple[pd.DataFrame, dict[str, int]]:
    test = found["split"] == "test"
    table = found.group_by("query_id").aggregate(
        query=found["query"].argmin(found["example_id"]),
        texts=found["query"].nunique(),
        test=test.any(),
        train=(~test).any(),
    )
    frame = connection.to_pandas(table.order_by("query_id"))
    queries = frame[["query_id", "query"]].rename(columns={"query_id": Columns.USER_ID})
    queries[Columns.USER_ID] = queries[Columns.USER_ID].astype(np.int64)
    queries[Columns.SPLIT] = [("test" if test else None) for test in frame["test"]]
    odd = {
        "queries with several texts, called by the first": int((frame["texts"] > 1).sum()),
        "queries with judgments in both splits, taken for testing": int((frame["test"] & frame["train"]).sum()),
    }
    return queries, odd


def _items(products: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Items out of judged products; the embedded text is title, bullet points, brand and colour, as far as known."""
    import pandas as pd

    titles, texts, topics = [], [], []
    untitled = 0
    for row in products[list(PRODUCTS)].itertuples(index=False):
        title, bullets, brand, colour = (
            _line(value)
            for value in (row.product_title, row.product_bullet_point, row.product_brand, row.product_color)
        )
        untitled += not title
        title = title or str(row.product_id)
        parts = [title, bullets, f"Brand: {brand}" if brand else "", f"Colour: {colour}" if colour else ""]
        titles.append(title)
        texts.append(". ".join(part for part in parts if part))
        topics.append([name for name in (brand, colour) if name])
    items = pd.DataFrame(
        {
            Columns.ITEM_ID: products[Columns.ITEM_ID].to_numpy(dtype=np.int64),
            Columns.SOURCE_ID: products["product_id"].astype(str).tolist(),
            Columns.TITLE: titles,
            Columns.TEXT: texts,
            Columns.TOPICS: topics,
            Columns.RELEASED: np.full(len(products), np.nan),
        }
    )
    return items, {"products without a title, called by their id": untitled}


def _line(value: Any) -> str:
    """A field of a product as one line; a missing one is empty."""
    return " ".join(value.split()) if isinstance(value, str) else ""
