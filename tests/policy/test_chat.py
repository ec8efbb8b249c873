"""Rankings by a chat endpoint, against a real one that serves a tiny model and misbehaves on request."""

import logging
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from chat_endpoint import KEY, LocalModel, Written, running_chat_endpoint
from flexrec.errors import InputError
from flexrec.evaluation.llm import llm_rankings
from flexrec.fingerprint import leaves
from flexrec.policy import chat
from flexrec.policy.chat import ChatRanker, ChatSettings, costs_sentence
from flexrec.policy.models import load_base
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import DecodingSettings
from flexrec.prompting import PromptSettings, build_messages, identifier_tokens, parse_answer
from flexrec.ranking.instances import Candidate, HistoryItem, Instance
from flexrec.ranking.needs import Need
from flexrec.ranking.schemas import Rankings

NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)
PROMPTING = PromptSettings(
    line="{title}, {signals}: {id}", signals={"trend": "count"}, history_line="{title}", system="You rank."
)
LIMIT = 12


def query(number: int, count: int = 4) -> Query:
    trends = np.random.default_rng(number).permutation(count)
    candidates = tuple(Candidate(i, f"Film {i}", (), {"trend": float(t)}) for i, t in enumerate(trends))
    history = (HistoryItem(99, f"Seen {number}", (), 4.0),)
    return Query(Instance(number, number, 1000, history, candidates), NEED)


QUERIES = [query(number) for number in range(5)]


@pytest.fixture(scope="module")
def model(tiny_folder, smollm2_tokenizer):
    """The tiny random model, made lively and fond of six letters, of which it would hardly ever write one."""
    model = load_base(tiny_folder)
    with torch.no_grad():
        for parameter in model.get_decoder().layers.parameters():
            if parameter.ndim == 2:
                parameter *= 3
        model.get_input_embeddings().weight[identifier_tokens(smollm2_tokenizer, "letters", 6)] *= 6
    return model


@pytest.fixture
def endpoint(model, smollm2_tokenizer, monkeypatch):
    monkeypatch.setenv("FLEXREC_TEST_KEY", KEY)
    with running_chat_endpoint(LocalModel(model, smollm2_tokenizer).write) as running:
        yield running


def saying(text: str, seconds: float = 0.0):
    """A model that always writes the same: 100 tokens read, 10 written."""

    def write(messages, limit) -> Written:
        time.sleep(seconds)
        return Written(text, "stop", 100, 10)

    return write


@pytest.fixture
def settings(endpoint, tmp_path) -> ChatSettings:
    return ChatSettings(
        model="tiny-chat",
        base_url=endpoint.address,
        key_variable="FLEXREC_TEST_KEY",
        credentials=tmp_path / "credentials.yml",
        cache=tmp_path / "cache" / "replies.sqlite",
        max_tokens=LIMIT,
        retries=2,
        price_per_million_input_tokens=2.0,
        price_per_million_output_tokens=5.0,
    )


def changed(settings: ChatSettings, **values) -> ChatSettings:
    return ChatSettings.model_validate({**settings.model_dump(), **values})


def rank(settings: ChatSettings, queries=QUERIES) -> list[chat.Answer]:
    return ChatRanker(settings, PROMPTING).rank(queries)


# --- Answers ---


def test_the_endpoint_ranks_as_the_same_model_does_here(endpoint, settings, model, smollm2_tokenizer):
    """Against the local ranker, decoding freely."""
    decoding = DecodingSettings(constrained=False, max_answer_tokens=LIMIT)
    here = Ranker(model, smollm2_tokenizer, PROMPTING, decoding).rank(QUERIES)
    there = rank(settings)
    assert [(a.order, a.invalid, a.repeated, a.missing) for a in there] == [
        (a.order, a.invalid, a.repeated, a.missing) for a in here
    ]
    assert max(len(answer.order) for answer in there) > 1
    assert sum(answer.missing for answer in there) > 0
    assert all(answer.ranks == () for answer in there)


def test_what_is_asked(endpoint, settings):
    rank(settings)
    asked = {request["messages"][1]["content"]: request for request in endpoint.requests}
    for one in QUERIES:
        messages = build_messages(one.instance, one.need, PROMPTING)
        request = asked.pop(messages[1]["content"])
        assert request == {"model": "tiny-chat", "messages": messages, "temperature": 0.0, "max_tokens": LIMIT}
    assert asked == {}


def test_other_requests(endpoint, settings):
    others = {"temperature": None, "token_limit": "max_completion_tokens", "extra": {"seed": 3}}
    rank(changed(settings, **others), QUERIES[:1])
    (request,) = endpoint.requests
    assert {name: value for name, value in request.items() if name != "messages"} == {
        "model": "tiny-chat",
        "max_completion_tokens": LIMIT,
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("text", "order", "invalid", "repeated", "missing"),
    [
        ("B, A; D C", (1, 0, 3, 2), 0, 0, 0),
        # "Sorry", "I", "cannot" and "that:" are nobody's
        ("Sorry, I cannot that: B B", (1,), 4, 1, 3),
        ("", (), 0, 0, 4),
        ("{}" * 5000, (), 1, 0, 4),
    ],
)
def test_an_answer_is_read_as_it_is(endpoint, settings, text, order, invalid, repeated, missing):
    endpoint.write = saying(text)
    (answer,) = rank(settings, QUERIES[:1])
    assert (answer.order, answer.invalid, answer.repeated, answer.missing) == (order, invalid, repeated, missing)


def test_answers_keep_the_order_of_the_queries(endpoint, settings):
    """The first one asked takes longest."""

    def write(messages, limit) -> Written:
        number = next(n for n in range(5) if f"Seen {n}" in messages[1]["content"])
        time.sleep(0.05 * (4 - number))
        return Written("ABCD"[number % 4], "stop", 1, 1)

    endpoint.write = write
    assert [answer.order for answer in rank(settings)] == [(0,), (1,), (2,), (3,), (0,)]


def test_the_table_of_rankings(endpoint, settings):
    endpoint.write = saying("B")
    signals = ("similarity", "niche", "trend", "popularity", "quality", "recency")
    labelled = pd.DataFrame(
        [
            {
                "instance_id": number,
                "user_id": 7,
                "query_time": 1000,
                "query": "",
                "history_items": [40],
                "history_engagements": [4.0],
                "candidates": [30, 10, 20],
                **{name: [0.0, 1.0, 2.0] for name in signals},
            }
            for number in (5, 6)
        ]
    )
    items = pd.DataFrame({"item_id": [10, 20, 30, 40], "title": list("abcd"), "topics": [[], [], ["x"], []]})
    ranker = ChatRanker(settings, PROMPTING)
    table = Rankings.validate(llm_rankings(ranker, labelled, items, {"trend": NEED}, method="chat_tiny", seed=0))
    # candidates 30, 10, 20: B is item 10; the others in llm_rankings' random order
    assert [row[0] for row in table["ranking"]] == [10, 10]
    assert table["missing"].tolist() == [2, 2]
    # both instances show the same, so that it is paid for once
    assert ranker.costs()["answers"] == len(endpoint.requests) == 1


# --- Costs ---


def test_costs_by_hand(endpoint, settings, caplog):
    endpoint.write = saying("A")
    ranker = ChatRanker(settings, PROMPTING)
    with caplog.at_level(logging.INFO):
        ranker.rank(QUERIES[:2])
        ranker.rank(QUERIES[:3])
    # 3 answers of 100 + 10 tokens: (300 * 2 + 30 * 5) / 1e6
    costs = {"answers": 3, "input_tokens": 300, "output_tokens": 30, "price": pytest.approx(7.5e-4)}
    assert ranker.costs() == {**costs, "cut": 0, "empty": 0, "not_billed": 0}
    assert costs_sentence(ranker.costs()) == "3 answers, 300 tokens read and 30 written, price 0.0008."
    assert "tiny-chat: 3 prompts, 1 of them new: 100 tokens read and 10 written, price 0.0003" in caplog.text
    first, second = [record for record in caplog.records if record.name == "flexrec.curves"]
    assert (first.curve, first.step, second.step) == ("chat", 0, 1)
    assert (first.values["new_input_tokens"], second.values["new_input_tokens"]) == (200, 100)
    assert second.values["prompts"] == 3


def test_nothing_is_paid_for_twice(endpoint, settings):
    first = ChatRanker(settings, PROMPTING)
    answers = first.rank(QUERIES)
    endpoint.requests.clear()
    again = ChatRanker(settings, PROMPTING)
    assert again.rank([*QUERIES, QUERIES[0]]) == [*answers, answers[0]]
    assert endpoint.requests == []
    # what it cost, whenever it was paid
    assert again.costs() == first.costs()
    assert first.costs()["output_tokens"] == LIMIT * 5
    assert first.costs()["cut"] == 5


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"model": "other"}, 5),
        ({"max_tokens": 5}, 5),
        ({"temperature": 0.5}, 5),
        ({"extra": {"seed": 1}}, 5),
        ({"concurrency": 1, "retries": 0, "timeout_seconds": 9, "requests_per_minute": 1e6}, 0),
        ({"price_per_million_input_tokens": 9}, 0),
    ],
)
def test_what_makes_another_answer(endpoint, settings, change, asked):
    rank(settings)
    endpoint.requests.clear()
    rank(changed(settings, **change))
    assert len(endpoint.requests) == asked


def test_an_endpoint_that_counts_no_tokens(endpoint, settings, caplog):
    endpoint.change = lambda answer: {name: value for name, value in answer.items() if name != "usage"}
    ranker = ChatRanker(settings, PROMPTING)
    ranker.rank(QUERIES)
    assert (ranker.costs()["not_billed"], ranker.costs()["price"]) == (5, 0)
    assert "tiny-chat: 5 of 5 answers come without a count of tokens" in caplog.text
    assert costs_sentence(ranker.costs()).endswith("of the answers, 5 cut, 5 without a count of tokens.")


def test_an_endpoint_without_prices(endpoint, settings):
    ranker = ChatRanker(
        changed(settings, price_per_million_input_tokens=None, price_per_million_output_tokens=None), PROMPTING
    )
    ranker.rank(QUERIES)
    assert "price" not in ranker.costs()


def test_a_model_that_declines(endpoint, settings, caplog):
    def decline(answer):
        answer["choices"][0]["message"]["content"] = None
        return answer

    endpoint.change = decline
    (answer,) = rank(settings, QUERIES[:1])
    assert (answer.order, answer.missing) == ((), 4)
    assert "tiny-chat: 1 of 1 answers are empty" in caplog.text


# --- Trouble ---


def test_a_busy_a_broken_and_a_lost_endpoint_are_asked_again(endpoint, settings):
    endpoint.troubles = [429, 500, "cut"]
    answers = rank(changed(settings, concurrency=2, retries=3))
    assert len(endpoint.starts) == 5 + 3
    assert answers == rank(settings)


def test_the_endpoint_says_how_long_to_wait(endpoint, settings):
    endpoint.troubles, endpoint.trouble_headers = [429], {"Retry-After": "1"}
    rank(settings, QUERIES[:1])
    first, second = endpoint.starts
    # by itself the client would wait half a second at most
    assert second - first >= 1


def test_a_pace_is_kept_and_repeated_requests_count(endpoint, settings):
    endpoint.write, endpoint.troubles = saying("A"), [429]
    rank(changed(settings, requests_per_minute=300))  # one every 200 ms
    assert len(endpoint.starts) == 6
    # a busy machine may see the first one late
    assert endpoint.starts[-1] - endpoint.starts[0] >= 5 * 0.2 - 0.2


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_at_once_and_no_more(endpoint, settings, most):
    endpoint.write = saying("A", seconds=0.05)
    rank(changed(settings, concurrency=most))
    assert endpoint.most_at_once == most


def test_what_was_answered_before_an_error_is_kept(endpoint, settings):
    endpoint.troubles = [None, None, 400, 400, 400, 400]
    with pytest.raises(InputError, match="model tiny-chat: no answer: Error code: 400"):
        rank(changed(settings, concurrency=1))
    # nothing is asked after the first refusal
    assert len(endpoint.starts) == 3
    endpoint.troubles = []
    rank(settings)
    assert len(endpoint.requests) == 5


def test_an_interruption_costs_nothing_twice(endpoint, settings, monkeypatch):
    """What is under way by then is paid for, and kept."""

    def interrupted(futures, **_):
        yield next(iter(futures))
        raise KeyboardInterrupt

    endpoint.write = saying("A", seconds=0.3)
    with monkeypatch.context() as patched:
        patched.setattr(chat, "track", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rank(changed(settings, concurrency=1))
    before = len(endpoint.requests)
    assert before <= 3
    rank(settings)
    assert len(endpoint.requests) == len(QUERIES)


@pytest.mark.parametrize(
    ("trouble", "change"),
    [
        ("html", None),
        ("no json", None),
        (None, lambda answer: {"detail": "?"}),
        (None, lambda answer: {**answer, "choices": []}),
        (None, lambda answer: {**answer, "choices": "A B C"}),
        (None, lambda answer: {**answer, "choices": [{"index": 0}]}),
        (None, lambda answer: ["A", "B"]),
    ],
)
def test_what_is_no_chat_completion(endpoint, settings, trouble, change):
    endpoint.troubles = [trouble]
    endpoint.change = change or endpoint.change
    with pytest.raises(InputError, match="what was answered is no chat completion; look at base_url"):
        rank(settings, QUERIES[:1])
    endpoint.change = lambda answer: answer
    # nothing wrong was kept
    rank(settings, QUERIES[:1])


def test_a_failure_behind_a_gateway_is_not_kept_as_an_answer(endpoint, settings):
    def failing(answer):
        (choice,) = answer["choices"]
        return {**answer, "choices": [{**choice, "finish_reason": "error", "error": {"code": 502}}]}

    endpoint.change = failing
    with pytest.raises(InputError, match="the model behind the endpoint has failed"):
        rank(settings, QUERIES[:1])
    endpoint.change = lambda answer: answer
    before = len(endpoint.requests)
    rank(settings, QUERIES[:1])
    assert len(endpoint.requests) == before + 1


def test_a_prompt_that_a_filter_refuses_stops_no_other(endpoint, settings, caplog):
    endpoint.troubles = [None, "filter"]
    rank(changed(settings, concurrency=1))
    assert len(endpoint.starts) == 5
    assert "1 of 5 answers are empty" in caplog.text
    # it is known by then
    rank(settings)
    assert len(endpoint.starts) == 5


def test_nobody_there(settings):
    with pytest.raises(InputError, match=r"127.0.0.1:9/v1, model tiny-chat: no answer: Connection error"):
        rank(changed(settings, base_url="http://127.0.0.1:9/v1", retries=0))


def test_an_endpoint_without_keys(model, smollm2_tokenizer, settings, monkeypatch):
    monkeypatch.delenv("FLEXREC_TEST_KEY")
    with running_chat_endpoint(saying("A"), key=None) as open_to_all:
        rank(changed(settings, base_url=open_to_all.address, key_variable=None))
        assert len(open_to_all.requests) == 5
    with pytest.raises(InputError, match="set the environment variable FLEXREC_TEST_KEY, or write"):
        rank(settings)


def test_the_key_stays_between_the_client_and_the_endpoint(endpoint, settings, caplog, capfd, monkeypatch):
    """Not in logs at any level, errors, settings, what is fingerprinted and tracked, nor in the cache."""
    with caplog.at_level(logging.DEBUG):
        rank(settings)
        monkeypatch.setenv("FLEXREC_TEST_KEY", KEY[::-1])
        with pytest.raises(InputError, match=r"the header Bearer \[key\] is wrong.*look at the key in") as caught:
            rank(settings, [query(77)])
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    told = caplog.text + "".join(capfd.readouterr()) + str(caught.value) + repr(settings)
    told += "".join(text for _, text in leaves("chats.tiny", settings)) + settings.model_dump_json()
    told += settings.cache.read_bytes().decode("latin-1")
    for key in (KEY, KEY[::-1]):
        assert key not in told
    assert "FLEXREC_TEST_KEY" in told


def test_without_the_client(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"chat endpoints need the openai client: pip install -e '\.\[api\]'"):
        rank(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price_per_million_input_tokens": 1.0}, "or neither"),
        ({"extra": {"model": "x"}}, "model: set by the fields"),
        ({"extra": {"stream": True}}, "stream: set by the fields"),
        ({"key": KEY}, "Extra inputs"),
        ({"base_url": f"https://x?key={KEY}"}, "must not contain a key"),
        ({"base_url": "https://host/v1"}, "an address of one's own needs a key_variable"),
        ({"concurrency": 0}, "greater than or equal to 1"),
        ({"requests_per_minute": 0}, "greater than 0"),
    ],
)
def test_settings_that_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ChatSettings.model_validate({"model": "m", **change})


# --- A real look ---


def test_a_real_model(settings, smollm2_folder):
    """SmolLM2 behind the endpoint; what it writes with `pytest -s tests/policy/test_chat.py -k real`."""
    served = LocalModel.of(smollm2_folder)
    queries = [query(number, 6) for number in range(3)]
    messages = [build_messages(one.instance, one.need, PROMPTING) for one in queries]
    with running_chat_endpoint(served.write) as endpoint:
        ranker = ChatRanker(changed(settings, base_url=endpoint.address, max_tokens=16), PROMPTING)
        answers = ranker.rank(queries)
        replies = ranker.ask(messages)
        alone = [served.write(one, 16) for one in messages]
    for answer, reply in zip(answers, replies, strict=True):
        print(f"{reply.text!r}\n  {answer.order} invalid {answer.invalid} repeated {answer.repeated}")
    costs = ranker.costs()
    print(costs_sentence(costs))
    # asked once; the second time the answers are known
    assert len(endpoint.requests) == 3
    # nothing is lost or added on the way: the text, its end and its length are the model's own
    assert [reply.text for reply in replies] == [one.text for one in alone]
    assert all(reply.text.strip() for reply in replies)
    assert costs["input_tokens"] == sum(one.prompt_tokens for one in alone)
    assert costs["output_tokens"] == sum(one.completion_tokens for one in alone)
    assert costs["cut"] == sum(one.finish == "length" for one in alone)
    # untrained it may write anything: what names a candidate is taken, the rest is counted
    for answer, reply in zip(answers, replies, strict=True):
        assert answer.order == parse_answer(reply.text, 6, PROMPTING).order
        assert answer.order or answer.invalid
