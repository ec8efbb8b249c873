"""What runs inside vLLM: the grammar of answers as a logits processor, and the loading of new weights.

This module is loaded by vLLM, in its own process where there is one, by the names `PROCESSOR` and `EXTENSION` of
`flexrec.policy.vllm_sampler`. The processor is written for vLLM's first model runner (`VLLM_USE_V2_MODEL_RUNNER=0`),
which every version from 0.22 to 0.31 has, on CPU and GPU.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from flexrec.policy.grammar import Cursor, Grammar, Kind
from flexrec.policy.vllm_sampler import GRAMMAR_ARGUMENT, read_grammar


class GrammarProcessor(LogitsProcessor):
    """Masks every logit that the request's grammar does not allow; requests without one are left alone.

    vLLM applies it before the temperature, so the log-probabilities of its mode `processed_logprobs` are those of the
    constrained, temperature-scaled distribution, which `flexrec.policy.engine.Scorer` computes as well.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._model_folder = vllm_config.model_config.tokenizer
        self._walks: dict[int, _Walk] = {}
        self._grammars: dict[str, Grammar] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose grammar cannot be read."""
        text = (sampling_params.extra_args or {}).get(GRAMMAR_ARGUMENT)
        if text is not None:
            read_grammar(text, None)

    def is_argmax_invariant(self) -> bool:
        """It changes which token is the most probable."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that enter, leave or move within the batch."""
        process_dict_updates(self._walks, batch_update, self._enter)

    def _enter(self, params: SamplingParams, _prompt: list[int] | None, output: list[int]) -> "_Walk | None":
        text = (params.extra_args or {}).get(GRAMMAR_ARGUMENT)
        if text is None:
            return None
        if text not in self._grammars:
            # of as many forms as there are numbers of candidates
            self._grammars[text] = read_grammar(text, self._tokenizer)
        return _Walk(self._grammars[text], output)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._model_folder)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Set what is not allowed to minus infinity, in place; one row per request."""
        masked, rows, columns, ends = [], [], [], []
        for row, walk in self._walks.items():
            allowed = walk.allowed()
            if allowed is None:
                ends.append((row, walk.grammar.end_token))
            else:
                masked.append(row)
                rows += [row] * len(allowed)
                columns += allowed
        if ends:
            index = torch.tensor(ends, device=logits.device)
            logits[index[:, 0], index[:, 1]] = -torch.inf
        if masked:
            place = torch.tensor([rows, columns], device=logits.device)
            kept = logits[place[0], place[1]]
            logits[torch.tensor(masked, device=logits.device)] = -torch.inf
            logits[place[0], place[1]] = kept
        return logits


class _Walk:
    """One request's place in its grammar; vLLM appends to `output` as it samples."""

    def __init__(self, grammar: Grammar, output: list[int]) -> None:
        self.grammar, self._output = grammar, output
        self._cursor, self._seen = Cursor(grammar), 0

    def allowed(self) -> list[int] | None:
        """Tokens that may come next; None where everything may but the end."""
        cursor, grammar = self._cursor, self.grammar
        while self._seen < len(self._output) and cursor.choices_left > 1:
            token = self._output[self._seen]
            if token < 0:
                raise RuntimeError("vLLM asks for the next token before it says which one it has sampled last")
            cursor.advance(token)
            self._seen += 1
        if cursor.choices_left <= 1:
            # what is left of the answer is certain; the sampler adds it without asking the model
            return [grammar.end_token]
        if cursor.kind is Kind.FORCED:
            assert cursor.token is not None
            return [cursor.token]
        if cursor.allowed is None:
            return None
        return [token for token, fits in zip(grammar.choices, cursor.allowed.tolist(), strict=True) if fits]


class WeightLoading:
    """What every worker of vLLM can do besides its own work (`worker_extension_cls`)."""

    model_runner: Any

    def load_flexrec_weights(self, weights: Iterator[tuple[str, torch.Tensor]] | None = None, file: str = "") -> None:
        """Replace the model's weights, with names as in its Hugging Face folder.

        Args:
            weights: The weights, where the trainer runs in the same process.
            file: A safetensors file with them otherwise.
        """
        if weights is None:
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                self._load((name, opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118  (no mapping)
        else:
            self._load(weights)

    def _load(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        self.model_runner.reload_weights(weights_iterator=weights)
        # On CPU vLLM keeps a packed copy of the output matrix, and 0.31 does not renew it where the matrix is tied to
        # the embedding, which the weights name once.
        head: Any = getattr(self.model_runner.get_model(), "lm_head", None)
        if hasattr(head, "cpu_linear"):
            head.quant_method.process_weights_after_loading(head)
