"""vLLM as a generation backend: the same answers, from the same distribution, as the shared-prompt engine's.

The grammar of answers goes with every request, and a logits processor of ours (`flexrec.policy.vllm_processor`) applies
it inside vLLM. Every answer that comes back is walked again here, so that a server without the processor is noticed.
Two modes, named as in TRL: `colocate` has the engine in this process, `server` asks a `vllm serve` over HTTP.

Left out: several GPUs per engine, and vLLM's sleep mode.
"""

import json
import math
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flexrec.errors import InputError
from flexrec.files import sibling
from flexrec.policy.grammar import Cursor, Grammar, Kind, closed_by
from flexrec.policy.settings import GenerationSettings

if TYPE_CHECKING:
    from flexrec.policy.distribution import Rollouts

PROCESSOR = "flexrec.policy.vllm_processor:GrammarProcessor"
EXTENSION = "flexrec.policy.vllm_processor.WeightLoading"
GRAMMAR_ARGUMENT = "flexrec_grammar"
LOGPROBS_MODE = "processed_logprobs"


def write_grammar(grammar: Grammar) -> str:
    """A grammar as text that travels with a request."""
    return json.dumps(
        {
            "identifiers": grammar.identifiers,
            "end_token": grammar.end_token,
            "max_length": grammar.max_length,
            "opening": grammar.opening,
            "closing": grammar.closing,
            "reasoning": grammar.reasoning_closed is not None,
            "reasoning_end": grammar.reasoning_end,
            "max_reasoning": grammar.max_reasoning,
        },
        separators=(",", ":"),
    )


def read_grammar(text: str, tokenizer: Any) -> Grammar:
    """The constrained grammar that `write_grammar` wrote.

    Args:
        text: What it wrote.
        tokenizer: Decodes the reasoning, to see where it ends; None where that is not asked for.

    Raises:
        InputError: The text is no grammar.
    """
    try:
        value = json.loads(text)
        reasoning_end = tuple(value["reasoning_end"])
        closed: Callable[[Sequence[int]], bool] | None = None
        if value["reasoning"] and tokenizer is not None:
            closed = closed_by(tokenizer.decode(list(reasoning_end)), tokenizer.decode)
        return Grammar(
            identifiers=tuple(tuple(sequence) for sequence in value["identifiers"]),
            constrained=True,
            end_token=value["end_token"],
            max_length=value["max_length"],
            opening=tuple(value["opening"]),
            closing=tuple(value["closing"]),
            reasoning_closed=closed,
            reasoning_end=reasoning_end,
            max_reasoning=value["max_reasoning"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{GRAMMAR_ARGUMENT}` of a request is no grammar of flexrec: {error}") from error


@dataclass(frozen=True)
class Request:
    """One prompt and how to answer it.

    Attributes:
        prompt: Its tokens.
        count: Answers to sample.
        temperature: 0 for the most probable token at every position.
        seed: Of these answers.
        max_tokens: Most tokens to sample.
        end_token: Token that ends an answer.
        grammar: The form of a constrained answer; None for a free one.
    """

    prompt: list[int]
    count: int
    temperature: float
    seed: int
    max_tokens: int
    end_token: int
    grammar: str | None


Sampled = tuple[list[int], list[float]]
"""The tokens of one answer and their log-probabilities, the end token included where there is one."""


class Engine(Protocol):
    """A running vLLM."""

    def generate(self, requests: Sequence[Request]) -> list[list[Sampled]]:
        """The answers to each request."""
        ...

    def load(self, weights: "MergedWeights") -> None:
        """Replace the model's weights; names as in its Hugging Face folder."""
        ...


def start_vllm(model_folder: Path, settings: GenerationSettings) -> "VllmSampler":
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


class VllmSampler:
    """Samples rollouts with a running vLLM."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        grammar: Grammar,
        *,
        rollouts: int,
        temperature: float,
        seed: int,
    ) -> "Rollouts":
        """Sample answers.

        Args:
            prompts: B token sequences.
            grammar: The form of the answers.
            rollouts: G answers per prompt.
            temperature: 0 takes the most probable token at every position.
            seed: Seed of the sampling. The answers are those of this seed as long as vLLM batches the requests alike;
                a change in the last bits of a logit may change an answer.

        Returns:
            B*G answers, prompts outermost, with the log-probabilities of the constrained, temperature-scaled
            distribution that they were drawn from (of temperature 1 where it is 0); 0 for certain tokens.

        Raises:
            InputError: vLLM returned what the grammar does not allow.
        """
        from flexrec.policy.distribution import Rollouts

        text = write_grammar(grammar) if grammar.constrained else None
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts))
        # greedy answers to one prompt are all the same
        distinct = rollouts if temperature > 0 else 1
        requests = [
            Request(list(prompt), distinct, temperature, int(own), sampled_tokens(grammar), grammar.end_token, text)
            for prompt, own in zip(prompts, seeds, strict=True)
        ]
        answers = [
            complete_answer(grammar, *answer)
            for group in self._engine.generate(requests)
            for answer in (group if distinct == rollouts else group * rollouts)
        ]
        return Rollouts([tokens for tokens, _ in answers], [values for _, values in answers])

    def refresh(self, model: Any) -> None:
        """Give vLLM the weights of a model, adapters merged; what it had cached of prompts is forgotten."""
        self._engine.load(MergedWeights(model))


def sampled_tokens(grammar: Grammar) -> int:
    """Most tokens that have to be sampled: the last identifier and what closes an answer are certain."""
    if not grammar.constrained:
        return grammar.max_length
    # the shortest identifier may be the one that is left
    certain = len(grammar.closing) + min(len(sequence) for sequence in grammar.identifiers)
    return max(1, grammar.longest - certain)


def complete_answer(grammar: Grammar, tokens: Sequence[int], log_probabilities: Sequence[float]) -> Sampled:
    """Walk along a sampled answer and add the tokens that are certain.

    Args:
        grammar: The form of the answer.
        tokens: Sampled tokens.
        log_probabilities: Of each.

    Returns:
        The whole answer as `engine.sample` gives it.

    Raises:
        InputError: The grammar does not allow a token, or the answer stops before its rest is certain.
    """
    cursor = Cursor(grammar)
    answer: list[int] = []
    values: list[float] = []

    def put(token: int, value: float) -> None:
        answer.append(token)
        values.append(value)
        cursor.advance(token)

    for token, value in zip(tokens, log_probabilities, strict=True):
        if cursor.kind is Kind.DONE or cursor.choices_left <= 1:
            break
        if not _fits(cursor, grammar, token) or math.isnan(value):
            raise InputError(
                f"vLLM sampled token {token} (log-probability {value}) at position {len(answer)} of an answer, which "
                f"the grammar does not allow. Was it started with `--logits-processors {PROCESSOR}`?"
            )
        put(token, 0.0 if cursor.kind is Kind.FORCED else value)
    while cursor.kind is not Kind.DONE and cursor.choices_left <= 1:
        put(_certain_token(cursor, grammar), 0.0)
    if cursor.kind is not Kind.DONE:
        raise InputError(
            f"vLLM ended an answer after {len(answer)} tokens, before it named every candidate; the prompt and the "
            "answer may not fit into `max_model_length`"
        )
    return answer, values


def _fits(cursor: Cursor, grammar: Grammar, token: int) -> bool:
    if cursor.kind is Kind.FORCED:
        return token == cursor.token
    if cursor.allowed is not None:
        return token in grammar.column and bool(cursor.allowed[grammar.column[token]])
    return not (grammar.constrained and token == grammar.end_token)


def _certain_token(cursor: Cursor, grammar: Grammar) -> int:
    if cursor.allowed is not None:
        return grammar.choices[int(cursor.allowed.argmax())]
    assert cursor.token is not None
    return cursor.token


def merged_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """The weights of a model under the names of its Hugging Face folder, LoRA adapters added, one tensor at a time.

    The model itself is left as it is: merging in place and taking back would round its weights at every step. The sum
    is made in float32 and rounded once to the weights' type.

    Raises:
        InputError: An adapter that is not LoRA.
    """
    for name, weight, lora in _unmerged_weights(model):
        total = weight
        if lora is not None:
            names = [adapter for adapter in lora.active_adapters if adapter in lora.lora_A]
            deltas = [lora.get_delta_weight(adapter).detach().float() for adapter in names]
            total = sum(deltas, weight.float()).to(weight.dtype)
        yield name, total


class MergedWeights:
    """`merged_weights` of a model, made anew at every call.

    Args:
        model: The model; it may have been trained on from one call to the next.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self) -> Iterator[tuple[str, Any]]:
        """One tensor at a time."""
        return merged_weights(self._model)

    def forms(self) -> list[tuple[str, str, list[int]]]:
        """Name, type and shape of each, in their order; none is made for it."""
        return [
            (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
            for name, weight, _ in _unmerged_weights(self._model)
        ]


def _unmerged_weights(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """The base model's weights under those names, each with the LoRA layer that adds to it; None where none does."""
    if not hasattr(model, "get_base_model"):
        yield from ((name, weight.detach(), None) for name, weight in model.named_parameters())
        return
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    adapted = [(name, module) for name, module in base.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        if not isinstance(module, LoraLayer):
            raise InputError(f"`{name}`: only LoRA adapters can be handed to vLLM, this is {type(module).__name__}")
        # PEFT's linear layers have the method, their common base class does not
        lora: Any = module
        for part, weight in lora.get_base_layer().named_parameters():
            yield f"{name}.{part}", weight.detach(), lora if part == "weight" else None
    prefixes = tuple(f"{name}." for name, _ in adapted)
    for name, weight in base.named_parameters():
        if not name.startswith(prefixes):
            yield name, weight.detach(), None


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
                "generation `vllm` needs the package vllm: install the extra `gpu` (`pip install 'flexrec[gpu]'`), or "
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
