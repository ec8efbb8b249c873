"""Embeddings by an endpoint, against a real one that misbehaves on request. The keys are made up."""

import logging
import sys

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from embeddings_endpoint import KEY, running_endpoint, vector_of
from flexrec.errors import InputError
from flexrec.fingerprint import leaves
from flexrec.retrieval.embedders import EmbedderSettings, embed_texts
from flexrec.retrieval.embedding_api import ApiSettings, VectorCache, embed_by_api, find_key

TEXTS = ["the matrix", "toy story", "the matrix", "été 2003"]


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("FLEXREC_TEST_KEY", KEY)
    with running_endpoint() as running:
        yield running


@pytest.fixture
def settings(endpoint, tmp_path):
    return ApiSettings(
        model="tiny-embedding",
        base_url=f"{endpoint.address}/",
        key_variable="FLEXREC_TEST_KEY",
        credentials=tmp_path / "credentials.yml",
        cache=tmp_path / "cache" / "vectors.sqlite",
        batch_size=2,
        retries=2,
        price_per_million_tokens=0.5,
    )


def test_texts_become_unit_vectors_in_their_order(endpoint, settings):
    vectors = embed_texts(TEXTS, settings)
    expected = np.array([vector_of(text, 8) for text in TEXTS])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)
    assert vectors.dtype == np.float32
    # three different texts in batches of two; the second "the matrix" is not asked for
    assert [request["input"] for request in endpoint.requests] == [["the matrix", "toy story"], ["été 2003"]]
    assert all(request["model"] == "tiny-embedding" for request in endpoint.requests)
    assert all("dimensions" not in request for request in endpoint.requests)


def test_nothing_is_paid_for_twice(endpoint, settings):
    first = embed_texts(TEXTS, settings)
    endpoint.requests.clear()
    np.testing.assert_array_equal(embed_texts(TEXTS, settings), first)
    assert endpoint.requests == []
    embed_texts(["new", *TEXTS], settings)
    assert endpoint.texts == ["new"]


def test_another_model_or_length_is_another_vector(endpoint, settings):
    embed_texts(TEXTS[:1], settings)
    assert embed_texts(TEXTS[:1], settings.model_copy(update={"dimensions": 4})).shape == (1, 4)
    assert endpoint.requests[-1]["dimensions"] == 4
    embed_texts(TEXTS[:1], settings.model_copy(update={"model": "other"}))
    assert len(endpoint.requests) == 3


def test_a_busy_and_a_broken_endpoint_are_asked_again(endpoint, settings):
    endpoint.failures = [429, 500]
    assert embed_texts(TEXTS, settings).shape == (4, 8)
    assert len(endpoint.requests) == 2


def test_what_was_answered_before_an_error_is_kept(endpoint, settings):
    # the first batch is answered, the second is refused three times
    endpoint.change = lambda answer: endpoint.failures.extend([500, 500, 500]) or answer
    with pytest.raises(InputError, match="model tiny-embedding: no embeddings: Error code: 500"):
        embed_texts(TEXTS, settings)
    endpoint.change, endpoint.failures = lambda answer: answer, []
    embed_texts(TEXTS, settings)
    assert endpoint.texts == ["the matrix", "toy story", "été 2003"]


def test_cost_is_told(endpoint, settings, caplog):
    with caplog.at_level(logging.INFO):
        embed_texts(TEXTS, settings)
    # 3 texts of 10 tokens; 30 / 1e6 * 0.5
    assert "tiny-embedding: 4 texts, 3 of them new: 30 tokens, price 0.0000" in caplog.text
    point = next(record for record in caplog.records if record.name == "flexrec.curves")
    assert point.curve == "embedder"
    assert point.values == {"texts": 4, "new_texts": 3, "tokens": 30, "price": pytest.approx(1.5e-5)}


def test_long_texts_are_cut_and_counted(endpoint, settings, caplog):
    vectors = embed_texts(["a" * 99, "b"], settings.model_copy(update={"max_characters": 10}))
    assert endpoint.texts == ["a" * 10, "b"]
    assert len(vectors) == 2
    assert "1 of 2 texts are cut to 10 characters" in caplog.text


def drop_one(answer):
    return {**answer, "data": answer["data"][1:]}


def of_length(length):
    def change(answer):
        answer["data"][0]["embedding"] = [1.0] * length
        return answer

    return change


def value(number):
    def change(answer):
        answer["data"][0]["embedding"] = [number] * 8
        return answer

    return change


@pytest.mark.parametrize(
    ("change", "dimensions", "message"),
    [
        (drop_one, None, "1 vectors for 2 texts"),
        (of_length(5), None, "a vector has 5 dimensions, expected 8"),
        (of_length(5), 8, "a vector has 5 dimensions, expected 8; correct `dimensions`"),
        (of_length(0), None, "a vector is empty, zero or not finite"),
        (value(0.0), None, "a vector is empty, zero or not finite"),
        (lambda answer: {**answer, "data": []}, None, "0 vectors for 2 texts"),
    ],
)
def test_answers_that_do_not_fit(endpoint, settings, change, dimensions, message):
    endpoint.change = change
    with pytest.raises(InputError, match=message) as caught:
        embed_texts(["one", "two"], settings.model_copy(update={"dimensions": dimensions}))
    assert settings.base_url in str(caught.value)
    endpoint.change = lambda answer: answer
    embed_texts(["one", "two"], settings.model_copy(update={"dimensions": dimensions}))  # nothing wrong was kept


@pytest.mark.parametrize("change", [lambda _: "<html>hello</html>", lambda _: ["A"], lambda _: {"detail": "?"}])
def test_what_is_no_list_of_embeddings(endpoint, settings, change):
    endpoint.change = change
    with pytest.raises(InputError, match="what was answered is no list of embeddings; look at base_url"):
        embed_texts(["one", "two"], settings)


def test_an_endpoint_may_change_its_lengths_only_with_the_cache(endpoint, settings):
    embed_texts(["one"], settings)
    endpoint.change = of_length(5)
    with pytest.raises(InputError, match=r"different lengths \[5, 8\]"):
        embed_texts(["one", "two"], settings)


def test_an_answer_without_usage(endpoint, settings):
    endpoint.change = lambda answer: {name: value for name, value in answer.items() if name != "usage"}
    assert embed_texts(TEXTS, settings).shape == (4, 8)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused_before_anything_is_asked(endpoint, settings, text):
    with pytest.raises(InputError, match="text 1 is empty"):
        embed_texts(["fine", text], settings)
    assert endpoint.requests == []


def test_nobody_there(settings):
    away = settings.model_copy(update={"base_url": "http://127.0.0.1:9/v1", "retries": 0})
    with pytest.raises(InputError, match=r"127.0.0.1:9/v1, model tiny-embedding: no embeddings: Connection error"):
        embed_texts(TEXTS, away)


def test_a_damaged_cache_is_said(settings):
    settings.cache.parent.mkdir()
    settings.cache.write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match=r"vectors.sqlite cannot be used as a cache"):
        embed_texts(TEXTS, settings)


def test_the_cache_keeps_bytes(tmp_path):
    cache = VectorCache(tmp_path / "c.sqlite")
    vector = np.random.default_rng(0).normal(size=384).astype(np.float32)
    cache.put({"a": vector})
    cache.close()
    again = VectorCache(tmp_path / "c.sqlite")
    np.testing.assert_array_equal(again.get(["a", "b"])["a"], vector)
    assert again.get(["b"]) == {}
    again.close()


# --- The key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_found_in_the_environment_or_in_the_credentials(settings, monkeypatch):
    assert find_key(settings) == KEY
    monkeypatch.delenv("FLEXREC_TEST_KEY")
    with pytest.raises(InputError, match="set the environment variable FLEXREC_TEST_KEY, or write") as caught:
        find_key(settings)
    assert str(settings.credentials) in str(caught.value)
    settings.credentials.write_text("FLEXREC_TEST_KEY: from-the-file\n")
    assert find_key(settings) == "from-the-file"
    settings.credentials.write_text("FLEXREC_TEST_KEY: ${oc.env:OTHER_KEY}\n")
    with pytest.raises(InputError, match="refers to something that is not set"):
        find_key(settings)
    monkeypatch.setenv("OTHER_KEY", "by-reference")
    assert find_key(settings) == "by-reference"
    settings.credentials.write_text("FLEXREC_TEST_KEY: {secret-part: [\n")
    with pytest.raises(InputError) as caught:
        find_key(settings)
    assert "secret-part" not in str(caught.value)
    monkeypatch.setenv("FLEXREC_TEST_KEY", "sk-abc…")
    with pytest.raises(InputError, match="FLEXREC_TEST_KEY holds a character that no key has"):
        find_key(settings)
    assert find_key(settings.model_copy(update={"key_variable": None})) == "none"


def test_the_key_stays_between_the_client_and_the_endpoint(endpoint, settings, caplog, capfd, monkeypatch):
    """Not in logs at any level, errors, settings, what is fingerprinted and tracked, nor in the cache."""
    with caplog.at_level(logging.DEBUG):
        embed_texts(TEXTS, settings)
        monkeypatch.setenv("FLEXREC_TEST_KEY", KEY[::-1])
        with pytest.raises(InputError, match=r"the header Bearer \[key\] is wrong.*look at the key in") as caught:
            embed_texts(["new"], settings)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    told = caplog.text + "".join(capfd.readouterr()) + str(caught.value) + repr(settings)
    told += "".join(text for _, text in leaves("retrieve.embedder", settings)) + settings.model_dump_json()
    told += settings.cache.read_bytes().decode("latin-1")
    for key in (KEY, KEY[::-1]):
        assert key not in told
    assert "FLEXREC_TEST_KEY" in told


@pytest.mark.parametrize(
    "change",
    [
        {"key_variable": "sk-abc"},
        {"key": KEY},
        {"base_url": f"https://x?key={KEY}", "key_variable": None},
        {"base_url": "https://me:secret@host/v1", "key_variable": None},
        {"base_url": "ftp://host", "key_variable": None},
        {"base_url": "host/v1", "key_variable": None},
        {"base_url": "https://host/v1"},
    ],
)
def test_settings_hold_no_key(change):
    with pytest.raises(ValidationError):
        ApiSettings.model_validate({"model": "m", **change})


def test_the_kind_chooses_the_embedder():
    made = TypeAdapter(EmbedderSettings).validate_python({"kind": "api", "model": "m"})
    assert made == ApiSettings(model="m")


def test_without_the_client(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[api\]'"):
        embed_by_api(TEXTS, settings)
