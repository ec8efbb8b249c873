"""What is asked of a server with vLLM, by one that is made up (test_vllm_agrees.py has the real thing)."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexrec.errors import InputError
from flexrec.policy.grammar import Grammar
from flexrec.policy.merged_weights import merged_weights
from flexrec.policy.settings import GenerationSettings
from flexrec.policy.vllm_engines import start_vllm
from flexrec.policy.vllm_sampler import EXTENSION, PROCESSOR, read_grammar

LETTERS = Grammar(identifiers=((1,), (2,), (3,)), constrained=True, end_token=9, max_length=8)


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
