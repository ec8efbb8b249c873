"""The two ways to a running vLLM: an engine in this process, and a server that is asked over HTTP.

vLLM itself is imported where an engine is started.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flexrec.errors import InputError
from flexrec.files import sibling
from flexrec.policy.merged_weights import MergedWeights
from flexrec.policy.settings import GenerationSettings
from flexrec.policy.vllm_sampler import (
    EXTENSION,
    GRAMMAR_ARGUMENT,
    LOGPROBS_MODE,
    PROCESSOR,
    Request,
    Sampled,
    VllmSampler,
)


def start_vllm(model_folder: Path, settings: GenerationSettings) -> VllmSampler:
    """A sampler with the vLLM that the settings name.

    Args:
        model_folder: Hugging Face folder of the base model; a server must have been started with the same model.
        settings: Which vLLM.

    Raises:
        InputError: vLLM is not installed, or the server is out of reach or was started without what is needed here.
    """
    return VllmSampler(
        ColocatedEngine(model_folder, settings) if settings.mode == "colocate" else ServerEngine(settings)
    )


class ColocatedEngine:
    """vLLM's engine in this process, so that weights go over as tensors."""

    def __init__(self, model_folder: Path, settings: GenerationSettings) -> None:
        # the engine in this process and not in one of its own; the model runner that the processor is written for;
        # and on a CPU, threads left where this process has put them
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(
                "generation `vllm` needs the package vllm: install the extra `gpu` (`pip install -e '.[gpu]'`), or "
                "use `kind: shared_prompt`"
            ) from error

        cache = settings.kv_cache_gib
        self._llm = LLM(
            model=str(model_folder),
            dtype=settings.dtype,
            max_model_len=settings.max_model_length,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            kv_cache_memory_bytes=None if cache is None else int(cache * 2**30),
            enable_prefix_caching=True,
            enforce_eager=settings.eager,
            logits_processors=[PROCESSOR],
            worker_extension_cls=EXTENSION,
            logprobs_mode=LOGPROBS_MODE,
            # a checkpoint's own sampling settings must not apply
            generation_config="vllm",
            disable_log_stats=True,
        )

    def generate(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """The answers to each request."""
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                n=request.count,
                temperature=request.temperature,
                seed=request.seed,
                max_tokens=request.max_tokens,
                logprobs=0,
                ignore_eos=True,
                stop_token_ids=[request.end_token],
                detokenize=False,
                extra_args=None if request.grammar is None else {GRAMMAR_ARGUMENT: request.grammar},
            )
            for request in requests
        ]
        prompts: Any = [{"prompt_token_ids": request.prompt} for request in requests]
        return [
            [_sampled(answer) for answer in sorted(output.outputs, key=lambda answer: answer.index)]
            for output in self._llm.generate(prompts, parameters, use_tqdm=False)
        ]

    def load(self, weights: MergedWeights) -> None:
        """Replace the model's weights."""
        self._llm.collective_rpc("load_flexrec_weights", kwargs={"weights": weights()})
        self._llm.reset_prefix_cache()


def _sampled(answer: Any) -> Sampled:
    tokens = list(answer.token_ids)
    return tokens, [step[token].logprob for step, token in zip(answer.logprobs, tokens, strict=True)]


class ServerEngine:
    """A `vllm serve`, asked over HTTP; its address is the user's own choice."""

    def __init__(self, settings: GenerationSettings) -> None:
        assert settings.url is not None
        self._settings, self._url = settings, settings.url.rstrip("/")
        self._client: Any = None
        self._check()
        self._model = self._ask("/v1/models")["data"][0]["id"]

    def _check(self) -> None:
        try:
            started = self._ask("/server_info?config_format=json")["vllm_config"]
            model, workers = started["model_config"], started["parallel_config"]
        except KeyError as error:
            raise InputError(f"{self._url}: this server does not say how it was started; vLLM 0.31 does") from error
        wrong = []
        if not any(PROCESSOR in str(name) for name in model.get("logits_processors") or ()):
            wrong.append(f"--logits-processors {PROCESSOR}")
        if model.get("logprobs_mode") != LOGPROBS_MODE:
            wrong.append(f"--logprobs-mode {LOGPROBS_MODE}")
        if self._settings.weights == "folder" and workers.get("worker_extension_cls") != EXTENSION:
            wrong.append(f"--worker-extension-cls {EXTENSION}")
        if wrong:
            raise InputError(f"{self._url}: start `vllm serve` with {' '.join(wrong)} (docs/backends.md)")

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + path, data=data, headers={"Content-Type": "application/json"} if data else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._settings.timeout) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            hint = (
                " It needs VLLM_SERVER_DEV_MODE=1 in its environment (docs/backends.md)." if error.code == 404 else ""
            )
            said = error.read(500).decode(errors="replace")
            raise InputError(f"{self._url}{path}: the server refuses ({error.code}): {said}{hint}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self._url}{path}: no answer ({error}). Is `vllm serve` running there?") from error

    def generate(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """The answers to each request."""
        if not requests:
            return []
        with ThreadPoolExecutor(max_workers=len(requests)) as pool:
            return list(pool.map(self._generate_one, requests))

    def _generate_one(self, request: Request) -> list[Sampled]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt,
            "n": request.count,
            "temperature": request.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": request.seed,
            "max_tokens": request.max_tokens,
            "logprobs": 0,
            "ignore_eos": True,
            "stop_token_ids": [request.end_token],
            "return_token_ids": True,
        }
        if request.grammar is not None:
            body["vllm_xargs"] = {GRAMMAR_ARGUMENT: request.grammar}
        choices = sorted(self._ask("/v1/completions", body)["choices"], key=lambda choice: choice["index"])
        return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]

    def load(self, weights: MergedWeights) -> None:
        """Replace the model's weights."""
        if self._settings.weights == "folder":
            self._load_from_folder(weights)
        else:
            self._load_over_nccl(weights)
        self._ask("/reset_prefix_cache", {})

    def _load_from_folder(self, weights: MergedWeights) -> None:
        from safetensors.torch import save_file

        folder = self._settings.weights_folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "model.safetensors"
        partial_file = sibling(target)
        try:
            save_file({name: weight.contiguous().cpu() for name, weight in weights()}, partial_file)
            partial_file.replace(target)
        finally:
            partial_file.unlink(missing_ok=True)
        self._ask("/collective_rpc", {"method": "load_flexrec_weights", "kwargs": {"file": str(target.resolve())}})

    def _load_over_nccl(self, weights: MergedWeights) -> None:
        """TRL's own way: the trainer and the server's workers form one NCCL group."""
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "`weights: nccl` needs a GPU here and one of its own for the server; set `weights: folder` and "
                "`weights_folder` to hand weights over through a folder"
            )
        if self._client is None:
            from trl.generation.vllm_client import VLLMClient

            self._client = VLLMClient(base_url=self._url, connection_timeout=self._settings.timeout)
            self._client.init_communicator(device=torch.device("cuda", torch.cuda.current_device()))
        self._client.update_named_params(weights.forms(), weights())
