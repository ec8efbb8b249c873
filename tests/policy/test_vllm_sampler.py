"""vLLM as a generation backend: what is ours, without vLLM (test_vllm_agrees.py has the real thing)."""

import dataclasses
import itertools
import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from flexrec.errors import InputError
from flexrec.policy.grammar import Grammar
from flexrec.policy.models import load_base
from flexrec.policy.ranker import Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings, GenerationSettings
from flexrec.policy.vllm_sampler import (
    EXTENSION,
    PROCESSOR,
    VllmSampler,
    complete_answer,
    merged_weights,
    read_grammar,
    sampled_tokens,
    start_vllm,
    write_grammar,
)
from flexrec.prompting import PromptSettings
from flexrec.rl.warm_up import add_adapter

END = 9
LETTERS = Grammar(identifiers=((1,), (2,), (3,)), constrained=True, end_token=END, max_length=8)
TAGGED = Grammar(
    identifiers=((1, 2), (1, 3), (4,)), constrained=True, end_token=END, max_length=8, opening=(7,), closing=(8, 8)
)
FREE = Grammar(identifiers=((1,), (2,)), constrained=False, end_token=END, max_length=4)


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_certain_tokens_are_added_to_an_answer():
    # two of three letters are named, so the third is certain
    assert complete_answer(LETTERS, [3, 1], [-0.5, -0.25]) == ([3, 1, 2], [-0.5, -0.25, 0.0])
    # an end token that the processor let pass in place of a certain rest is dropped
    assert complete_answer(LETTERS, [3, 1, END], [-0.5, -0.25, 0.0]) == ([3, 1, 2], [-0.5, -0.25, 0.0])
    # opening 7 is forced: its log-probability is 0 whatever vLLM says; then `1 3`, `4`, and the rest `1 2`, `8 8`
    answer = complete_answer(TAGGED, [7, 1, 3, 4], [-1e-9, -0.5, -0.25, -0.125])
    assert answer == ([7, 1, 3, 4, 1, 2, 8, 8], [0.0, -0.5, -0.25, -0.125, 0.0, 0.0, 0.0, 0.0])
    # a free answer is whole with its end token or at its longest
    assert complete_answer(FREE, [5, END], [-1.0, -2.0]) == ([5, END], [-1.0, -2.0])
    assert complete_answer(FREE, [5, 5, 5, 5], [-1.0] * 4) == ([5, 5, 5, 5], [-1.0] * 4)


def test_of_one_candidate_the_reasoning_alone_is_sampled():
    grammar = dataclasses.replace(
        LETTERS,
        identifiers=((1,),),
        reasoning_closed=lambda tokens: tokens[-1] == 6,
        reasoning_end=(6,),
        max_reasoning=3,
    )
    assert complete_answer(grammar, [5, 6], [-1.0, -2.0]) == ([5, 6, 1], [-1.0, -2.0, 0.0])
    assert complete_answer(grammar, [5, 5, 5, 6], [-1.0] * 4) == ([5, 5, 5, 6, 1], [-1.0, -1.0, -1.0, 0.0, 0.0])
    with pytest.raises(InputError, match="ended an answer after 1 tokens"):
        complete_answer(grammar, [5], [-1.0])
    assert complete_answer(dataclasses.replace(LETTERS, identifiers=((1,),)), [], []) == ([1], [0.0])


@pytest.mark.parametrize(
    ("grammar", "tokens", "message"),
    [
        (LETTERS, [3, 3], "token 3 .* at position 1 of an answer, which the grammar does not allow"),
        (LETTERS, [5], "token 5 .* at position 0"),
        (LETTERS, [END], f"token {END} .* at position 0"),
        (TAGGED, [1], "token 1 .* at position 0"),
        (TAGGED, [7, 1, 4], "token 4 .* at position 2"),
        (LETTERS, [3], "ended an answer after 1 tokens"),
        (FREE, [5], "ended an answer after 1 tokens"),
    ],
)
def test_answers_outside_the_grammar_are_refused(grammar, tokens, message):
    with pytest.raises(InputError, match=message):
        complete_answer(grammar, tokens, [-1.0] * len(tokens))


def test_a_log_probability_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="log-probability nan"):
        complete_answer(LETTERS, [3, 1], [math.nan, 0.0])


def test_how_many_tokens_have_to_be_sampled():
    assert sampled_tokens(LETTERS) == 2  # the third letter is certain
    assert sampled_tokens(TAGGED) == 1 + 4  # the opening, and both long identifiers
    assert sampled_tokens(FREE) == 4
    thinking = dataclasses.replace(
        TAGGED, reasoning_closed=lambda tokens: False, reasoning_end=(6, 6), max_reasoning=10
    )
    assert sampled_tokens(thinking) == 10 + 2 + 1 + 4


def test_a_grammar_travels_as_text(smollm2_tokenizer):
    for reasoning, identifiers in itertools.product((False, True), ("letters", "numbers")):
        prompt = PromptSettings(reasoning=reasoning, identifiers=identifiers)
        grammar = Ranker(None, smollm2_tokenizer, prompt, DecodingSettings()).grammar(11)
        back = read_grammar(write_grammar(grammar), smollm2_tokenizer)
        assert back == grammar
        if reasoning:
            thought = smollm2_tokenizer.encode("so it is</think> then")
            ends = [back.reasoning_closed(thought[:end]) for end in range(len(thought) + 1)]
            assert ends == [grammar.reasoning_closed(thought[:end]) for end in range(len(thought) + 1)]
            assert ends[0] is False
            assert ends[-1] is True
    with pytest.raises(InputError, match="no grammar of flexrec"):
        read_grammar('{"identifiers": [[1]]}', None)
    with pytest.raises(InputError, match="no grammar of flexrec"):
        read_grammar("[", None)


class FakeEngine:
    """Answers every request with all identifiers in order, and remembers what it was asked."""

    def __init__(self):
        self.requests = []

    def generate(self, requests):
        self.requests += requests
        return [
            [([1 + index % 2, 3], [-float(row), -float(index)]) for index in range(request.count)]
            for row, request in enumerate(requests)
        ]

    def load(self, weights):
        self.loaded = dict(weights())


def test_requests_are_seeded_and_answers_keep_their_order():
    engine = FakeEngine()
    sampler = VllmSampler(engine)
    rollouts = sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=3)
    assert rollouts.completions == [[1, 3, 2], [2, 3, 1], [1, 3, 2], [2, 3, 1]]
    assert [values[:2] for values in rollouts.log_probabilities] == [[0, 0], [0, -1], [-1, 0], [-1, -1]]
    first, second = engine.requests
    assert (first.prompt, first.count, first.temperature, first.max_tokens) == ([5, 6], 2, 0.7, 2)
    # prompts must not share their random numbers
    assert first.seed != second.seed
    sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=3)
    sampler.sample([[5, 6], [5]], LETTERS, rollouts=2, temperature=0.7, seed=4)
    assert [request.seed for request in engine.requests[2:4]] == [first.seed, second.seed]
    assert engine.requests[4].seed not in (first.seed, second.seed)
    # greedy answers are asked for once
    greedy = sampler.sample([[5]], LETTERS, rollouts=3, temperature=0.0, seed=3)
    assert engine.requests[-1].count == 1
    assert greedy.completions == [[1, 3, 2]] * 3


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tiny_folder):
    """A tiny model with an adapter that does something, and a second one as TRL keeps for its reference."""
    model = add_adapter(load_base(tiny_folder), AdapterSettings(rank=4, alpha=8), seed=0)
    model.add_adapter("ref", model.peft_config["default"])
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def test_weights_are_merged_without_touching_the_model(adapted, tiny_folder):
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    weights = dict(merged_weights(adapted))
    after = adapted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with safe_open(tiny_folder / "model.safetensors", framework="pt") as folder:
        assert set(weights) == set(folder.keys())
        untouched = folder.get_tensor("model.embed_tokens.weight")
        base = folder.get_tensor("model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(weights["model.embed_tokens.weight"], untouched)
    assert (weights["model.layers.0.self_attn.q_proj.weight"] - base).abs().max() > 0.01
    expected = adapted.merge_and_unload(adapter_names=["default"])
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)


def test_weights_of_a_model_without_adapter_go_as_they_are(llama):
    weights = dict(merged_weights(llama))
    assert set(weights) == {name for name, _ in llama.named_parameters()}
    assert not any(weight.requires_grad for weight in weights.values())
    engine = FakeEngine()
    VllmSampler(engine).refresh(llama)
    assert set(engine.loaded) == set(weights)


def test_other_adapters_are_refused(tiny_folder):
    from peft import IA3Config, get_peft_model

    model = get_peft_model(load_base(tiny_folder), IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(InputError, match="only LoRA adapters"):
        dict(merged_weights(model))


# --- The server -------------------------------------------------------------------------------------------------------


@contextmanager
def fake_server(started, answers=None):
    """A server that says how it was started and answers with what it is given; yields its address and its log."""
    log = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body):
            path = self.path.partition("?")[0]
            log.append((path, body))
            known = {"/server_info": {"vllm_config": started}, "/v1/models": {"data": [{"id": "the-model"}]}}
            value = {**known, **(answers or {})}.get(path)
            if callable(value):
                value = value(body)
            data = json.dumps(value).encode()
            self.send_response(404 if value is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.answer(None)

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


STARTED = {
    "model_config": {"logits_processors": [PROCESSOR], "logprobs_mode": "processed_logprobs"},
    "parallel_config": {"worker_extension_cls": EXTENSION},
}


def settings(url, **values):
    return GenerationSettings(kind="vllm", mode="server", url=url, timeout=10, **values)


def test_a_server_is_asked_prompt_by_prompt(tmp_path, llama):
    def complete(body):
        order = [1, 3] if body["prompt"] == [5] else [2, 1]
        choice = {"token_ids": order, "logprobs": {"token_logprobs": [-0.5, -0.25]}}
        return {"choices": [{**choice, "index": index} for index in reversed(range(body["n"]))]}

    answers = {"/v1/completions": complete, "/collective_rpc": {"results": [None]}, "/reset_prefix_cache": {}}
    with fake_server(STARTED, answers) as (url, log):
        sampler = start_vllm(Path("unused"), settings(url, weights="folder", weights_folder=tmp_path / "weights"))
        rollouts = sampler.sample([[5], [6, 7]], LETTERS, rollouts=2, temperature=0.7, seed=0)
        assert rollouts.completions == [[1, 3, 2], [1, 3, 2], [2, 1, 3], [2, 1, 3]]
        bodies = [body for path, body in log if path == "/v1/completions"]
        for body in bodies:
            assert read_grammar(body["vllm_xargs"]["flexrec_grammar"], None) == LETTERS
            assert (body["model"], body["temperature"], body["max_tokens"]) == ("the-model", 0.7, 2)
        assert len({body["seed"] for body in bodies}) == 2
        sampler.refresh(llama)
        (path, call), reset = log[-2:]
        assert (path, call["method"], reset[0]) == ("/collective_rpc", "load_flexrec_weights", "/reset_prefix_cache")
        assert set(load_file(call["kwargs"]["file"])) == {name for name, _ in llama.named_parameters()}


def test_weights_for_nccl_are_announced_without_being_made(adapted, monkeypatch):
    from peft.tuners.lora import LoraLayer
    from trl.generation import vllm_client

    made, sent = [], []

    class Client:
        def __init__(self, base_url, connection_timeout):
            pass

        def init_communicator(self, device):
            pass

        def update_named_params(self, metadata, weights):
            assert made == []
            sent.append((metadata, dict(weights)))

    class Counting(type(adapted.get_base_model().model.layers[0].self_attn.q_proj)):
        def get_delta_weight(self, adapter):
            made.append(adapter)
            return super().get_delta_weight(adapter)

    adapters = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    for module in adapters:
        module.__class__ = Counting
    monkeypatch.setattr(vllm_client, "VLLMClient", Client)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with fake_server(STARTED, {"/reset_prefix_cache": {}}) as (url, _):
        start_vllm(Path("unused"), settings(url)).refresh(adapted)
    ((metadata, weights),) = sent
    assert metadata == [(name, "float32", list(weight.shape)) for name, weight in weights.items()]
    assert made == ["default"] * len(adapters)
    assert set(weights) == set(dict(merged_weights(adapted)))


@pytest.mark.parametrize(
    ("started", "values", "message"),
    [
        ({"model_config": {}, "parallel_config": {}}, {}, f"--logits-processors {PROCESSOR} --logprobs-mode processed"),
        (
            {**STARTED, "parallel_config": {}},
            {"weights": "folder", "weights_folder": "/somewhere"},
            f"--worker-extension-cls {EXTENSION}",
        ),
        ({}, {}, "does not say how it was started"),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused(started, values, message):
    with fake_server(started) as (url, _), pytest.raises(InputError, match=message):
        start_vllm(Path("unused"), settings(url, **values))


def test_a_server_that_is_not_there_or_refuses():
    with fake_server(STARTED) as (url, _):
        sampler = start_vllm(Path("unused"), settings(url))
        with pytest.raises(InputError, match=r"/v1/completions: the server refuses \(404\)"):
            sampler.sample([[5]], LETTERS, rollouts=2, temperature=1.0, seed=0)
        if not torch.cuda.is_available():
            with pytest.raises(InputError, match="`weights: nccl` needs a GPU"):
                sampler.refresh(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"no answer .* Is `vllm serve` running there"):
        start_vllm(Path("unused"), settings(url))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "server"}, "needs `url`"),
        ({"mode": "server", "url": "localhost:8000"}, "needs `url`"),
        ({"mode": "server", "url": "http://localhost", "weights": "folder"}, "needs `weights_folder`"),
        ({"gpu_memory_utilization": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work(values, message):
    with pytest.raises(ValueError, match=message):
        GenerationSettings(kind="vllm", **values)


def test_without_vllm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(name, "")
    with pytest.raises(InputError, match="install the extra `gpu`"):
        start_vllm(Path("unused"), GenerationSettings(kind="vllm"))
