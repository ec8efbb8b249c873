"""Embeddings by an OpenAI-compatible endpoint, each text paid for once: answers are kept in a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field

from flexrec.endpoints import DigestCache, EndpointSettings, find_key, open_client, refused
from flexrec.errors import InputError
from flexrec.progress import emit, track

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

_CHARACTERS_PER_TOKEN = 4  # of English; for the estimate before anything is asked


class ApiSettings(EndpointSettings):
    """An embeddings endpoint as OpenAI's, which Gemini and most servers of models have too."""

    kind: Literal["api"] = "api"
    dimensions: int | None = Field(default=None, ge=1, description="Length of a vector; None: as the model has it.")
    batch_size: int = Field(default=100, ge=1, le=2048, description="Texts per request.")
    max_characters: int = Field(default=8000, ge=1, description="Longer texts are cut, and counted in the log.")
    price_per_million_tokens: float | None = Field(default=None, ge=0, description="For the log; in your currency.")
    cache: Path = Field(
        default=Path("data/06_models/embedding_cache.sqlite"), description="File that keeps what was answered."
    )


class VectorCache:
    """float32 vectors by the digest of what made them, in one file."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            InputError: It is something else, or damaged.
        """
        self._rows = DigestCache(path, table="vectors", column="vector", holds="embeddings")

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def get(self, digests: Iterable[str]) -> dict[str, np.ndarray]:
        """The vectors that are there, by digest."""
        return {digest: np.frombuffer(vector, dtype="<f4") for digest, vector in self._rows.get(digests).items()}

    def put(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep vectors, all or none of them."""
        self._rows.put({digest: vector.astype("<f4").tobytes() for digest, vector in vectors.items()})


def embed_by_api(texts: Sequence[str], settings: ApiSettings) -> Float[np.ndarray, "n d"]:
    """Embed texts by the endpoint, as it answers (not normalised), in the order given.

    A text is asked for once: in this call, and in all calls that share the cache, the endpoint, the model and the
    dimensions. What was answered before an error or a kill is kept.

    Args:
        texts: n texts with at least one character that is no space.
        settings: Endpoint, model, cache.

    Raises:
        InputError: An empty text, no key, no client installed, an endpoint that refuses or stays away, or an answer
            that does not fit what was asked.
    """
    empty = next((at for at, text in enumerate(texts) if not text.strip()), None)
    if empty is not None:
        raise InputError(f"text {empty} is empty; an endpoint embeds no empty text, give the item a text with words")
    cut = sum(len(text) > settings.max_characters for text in texts)
    if cut:
        logger.warning("%d of %d texts are cut to %d characters", cut, len(texts), settings.max_characters)
    asked = [text[: settings.max_characters] for text in texts]
    digests = [_digest(text, settings) for text in asked]
    by_digest = dict(zip(digests, asked, strict=True))
    with closing(VectorCache(settings.cache)) as cache:
        vectors = cache.get(by_digest)
        missing = [digest for digest in by_digest if digest not in vectors]
        tokens = _ask({digest: by_digest[digest] for digest in missing}, settings, cache, vectors) if missing else 0
    values: dict[str, float] = {"texts": len(texts), "new_texts": len(missing), "tokens": tokens}
    price = ""
    if settings.price_per_million_tokens is not None:
        values["price"] = tokens / 1e6 * settings.price_per_million_tokens
        price = f", price {values['price']:.4f}"
    logger.info("%s: %d texts, %d of them new: %d tokens%s", settings.model, len(texts), len(missing), tokens, price)
    emit("embedder", 0, values)
    sizes = sorted({len(vector) for vector in vectors.values()})
    if len(sizes) > 1:
        raise InputError(f"{settings.model} gave vectors of different lengths {sizes}; move {settings.cache} away")
    return np.stack([vectors[digest] for digest in digests])


def _digest(text: str, settings: ApiSettings) -> str:
    made_by = [settings.base_url, settings.model, settings.dimensions, text]
    return hashlib.sha256(json.dumps(made_by, ensure_ascii=True).encode()).hexdigest()


def _ask(missing: Mapping[str, str], settings: ApiSettings, cache: VectorCache, vectors: dict[str, np.ndarray]) -> int:
    """Ask for the missing texts, adding the answers to the cache and to `vectors`; returns the tokens billed."""
    characters = sum(len(text) for text in missing.values())
    logger.info(
        "asking %s at %s for %d texts, about %d tokens",
        settings.model,
        settings.base_url,
        len(missing),
        characters // _CHARACTERS_PER_TOKEN,
    )
    key = find_key(settings)
    digests, tokens = list(missing), 0
    batches = [digests[at : at + settings.batch_size] for at in range(0, len(digests), settings.batch_size)]
    with open_client(key, settings, needed_by="embedders of the kind api") as client:
        for batch in track(batches, description="asking for embeddings"):
            answered, billed = _request(client, key, [missing[digest] for digest in batch], settings)
            fresh = dict(zip(batch, answered, strict=True))
            cache.put(fresh)
            vectors.update(fresh)
            tokens += billed
    return tokens


def _request(client: OpenAI, key: str, texts: list[str], settings: ApiSettings) -> tuple[list[np.ndarray], int]:
    from openai import OpenAIError

    options: dict[str, Any] = {} if settings.dimensions is None else {"dimensions": settings.dimensions}
    where = f"{settings.base_url}, model {settings.model}"
    other = InputError(f"{where}: what was answered is no list of embeddings; look at base_url")
    try:
        # not every endpoint knows the client's own choice, base64
        answer = client.embeddings.create(model=settings.model, input=texts, encoding_format="float", **options)
    except OpenAIError as error:
        raise refused(error, key, settings, "embeddings") from None
    except ValueError:
        # no JSON
        raise other from None
    if not isinstance(found := getattr(answer, "data", None), list):
        raise other
    data = sorted(found, key=lambda entry: entry.index)
    if [entry.index for entry in data] != list(range(len(texts))):
        raise InputError(f"{where}: {len(data)} vectors for {len(texts)} texts; try a smaller batch_size")
    vectors = [np.asarray(entry.embedding, dtype=np.float32) for entry in data]
    for vector in vectors:
        if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
            raise InputError(f"{where}: a vector is empty, zero or not finite")
        if len(vector) != (settings.dimensions or len(vectors[0])):
            raise InputError(
                f"{where}: a vector has {len(vector)} dimensions, expected {settings.dimensions or len(vectors[0])}; "
                "correct `dimensions`, or leave it out"
            )
    return vectors, int(answer.usage.total_tokens or 0) if answer.usage else 0
