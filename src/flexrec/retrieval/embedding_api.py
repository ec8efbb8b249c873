"""Embeddings by an OpenAI-compatible endpoint, each text paid for once: answers are kept in a file.

The key is looked up when it is needed and handed to the client alone. It is no setting, so that it is in no parameter,
log, fingerprint or artifact; and it is cut out of whatever a server answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float
from pydantic import Field, field_validator

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.progress import emit, track

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

_CHARACTERS_PER_TOKEN = 4  # of English; for the estimate before anything is asked


class ApiSettings(Settings):
    """An embeddings endpoint as OpenAI's, which Gemini and most servers of models have too."""

    kind: Literal["api"] = "api"
    model: str = Field(min_length=1, description="Name of the model at the endpoint.")
    base_url: str = Field(default="https://api.openai.com/v1", description="Address up to `/embeddings`.")
    key_variable: str | None = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="Environment variable that holds the key; None for an endpoint without keys.",
    )
    credentials: Path = Field(
        default=Path("conf/local/credentials.yml"),
        description="YAML file with the key under the variable's name, where the environment does not have it.",
    )
    dimensions: int | None = Field(default=None, ge=1, description="Length of a vector; None: as the model has it.")
    batch_size: int = Field(default=100, ge=1, le=2048, description="Texts per request.")
    max_characters: int = Field(default=8000, ge=1, description="Longer texts are cut, and counted in the log.")
    price_per_million_tokens: float | None = Field(default=None, ge=0, description="For the log; in your currency.")
    retries: int = Field(default=6, ge=0, description="Further attempts where the endpoint is busy, broken or away.")
    timeout_seconds: float = Field(default=60.0, gt=0, description="Patience for an answer.")
    cache: Path = Field(
        default=Path("data/06_models/embedding_cache.sqlite"), description="File that keeps what was answered."
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as https://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must not contain a key or password; name its environment variable in key_variable")
        return value.rstrip("/")


class VectorCache:
    """Vectors by the digest of what made them, in one SQLite file; what is put in stays, whatever is killed later."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            InputError: It is something else, or damaged.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = sqlite3.connect(path, timeout=60)
            self._file.execute("CREATE TABLE IF NOT EXISTS vectors (digest TEXT PRIMARY KEY, vector BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def get(self, digests: Iterable[str]) -> dict[str, np.ndarray]:
        """The float32 vectors that are there, by digest."""
        try:
            rows = [
                row
                for digest in digests
                for row in self._file.execute("SELECT digest, vector FROM vectors WHERE digest = ?", (digest,))
            ]
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error
        return {digest: np.frombuffer(vector, dtype="<f4") for digest, vector in rows}

    def put(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep vectors, all or none of them."""
        rows = [(digest, vector.astype("<f4").tobytes()) for digest, vector in vectors.items()]
        try:
            with self._file:
                self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> InputError:
        return InputError(f"{self.path} cannot be used as a cache of embeddings ({error}); move it away")


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
    with _client(key, settings) as client:
        for batch in track(batches, description="asking for embeddings"):
            answered, billed = _request(client, key, [missing[digest] for digest in batch], settings)
            fresh = dict(zip(batch, answered, strict=True))
            cache.put(fresh)
            vectors.update(fresh)
            tokens += billed
    return tokens


def find_key(settings: ApiSettings) -> str:
    """The endpoint's key, from the environment or else from the file of credentials.

    Raises:
        InputError: It is in neither.
    """
    name = settings.key_variable
    if name is None:
        return "none"
    key = os.environ.get(name, "")
    if not key and settings.credentials.is_file():
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        try:
            found = OmegaConf.select(OmegaConf.load(settings.credentials), name)
        except (OmegaConfBaseException, YAMLError, OSError):
            # the cause would quote the file
            raise InputError(
                f"{settings.credentials} cannot be read, or {name} there refers to something that is not set; repair it"
            ) from None
        key = found if isinstance(found, str) else ""
    if not key.strip():
        raise InputError(
            f"there is no key for {settings.base_url}: set the environment variable {name}, or write `{name}: <key>` "
            f"into {settings.credentials}"
        )
    return key.strip()


def _client(key: str, settings: ApiSettings) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise InputError("embedders of the kind api need the openai client: pip install 'flexrec[api]'") from error

    # the client repeats 408, 409, 429, 5xx and lost connections, ever later, and waits as long as a server asks it to
    return OpenAI(
        base_url=settings.base_url, api_key=key, max_retries=settings.retries, timeout=settings.timeout_seconds
    )


def _request(client: OpenAI, key: str, texts: list[str], settings: ApiSettings) -> tuple[list[np.ndarray], int]:
    from openai import OpenAIError

    options: dict[str, Any] = {} if settings.dimensions is None else {"dimensions": settings.dimensions}
    where = f"{settings.base_url}, model {settings.model}"
    try:
        # not every endpoint knows the client's own choice, base64
        answer = client.embeddings.create(model=settings.model, input=texts, encoding_format="float", **options)
    except OpenAIError as error:
        status = getattr(error, "status_code", None)
        text = " ".join(str(error).split())
        if settings.key_variable is not None:
            text = text.replace(key, "[key]")
        hint = f"; look at the key in {settings.key_variable}" if status in (401, 403) else ""
        # no cause: its traceback may show the request
        raise InputError(f"{where}: no embeddings: {text[:300]}{hint}") from None
    data = sorted(answer.data or [], key=lambda entry: entry.index)
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
