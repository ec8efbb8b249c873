"""The plain computation: every rollout with a prompt of its own, through the model's own forward pass.

Works with any causal language model that Hugging Face knows; the oracle of the shared-prompt engine in the tests and
the benchmarks, and what remains for models that engine does not know.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexrec.policy.distribution import Rollouts, Writer, output_matrix, pad_prompts, token_values
from flexrec.policy.grammar import Constraints, Grammar


class ReplicatedEngine:
    """Sampler and scorer that encode the prompt of every rollout.

    Args:
        model: A causal language model, or a PEFT model around one, whose logits are its output matrix times the last
            hidden state.
        pad_token: Any token, for padding.

    Attributes:
        head: The output matrix, as a module.

    Raises:
        InputError: Logits that are something else (`output_matrix`).
    """

    def __init__(self, model: Any, pad_token: int) -> None:
        self.model = model
        self._pad_token = pad_token
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._decoder, self.head = base.get_decoder(), output_matrix(model)

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Int[Tensor, "N T"],
        constraints: Constraints,
        grammar: Grammar,
        *,
        temperature: float = 1.0,
        entropies: bool = True,
    ) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"] | None]:
        """See `Scorer.score`."""
        states = self.states(prompts, completions)
        return token_values(self.head, states, completions, constraints, grammar, temperature, entropies=entropies)

    def states(self, prompts: Sequence[Sequence[int]], completions: Int[Tensor, "N T"]) -> Float[Tensor, "N T d"]:
        """See `SharedPromptEngine.states`."""
        tokens, mask = pad_prompts(prompts, self._pad_token, completions.device)
        mask = torch.cat([mask, torch.ones_like(completions)], 1)
        return self._decoder(
            input_ids=torch.cat([tokens, completions], 1), attention_mask=mask, position_ids=_positions(mask)
        ).last_hidden_state[:, tokens.shape[1] - 1 : -1]

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        grammar: Grammar,
        *,
        rollouts: int,
        temperature: float,
        seed: int,
        graph: bool = False,
    ) -> Rollouts:
        """See `Sampler.sample`; nothing is kept for a later `score`, whatever `graph` says."""
        from transformers import DynamicCache

        training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        generator = torch.Generator(device="cpu").manual_seed(seed)
        rows = [prompt for prompt in prompts for _ in range(rollouts)]
        tokens, mask = pad_prompts(rows, self._pad_token, device)
        cache = DynamicCache(config=self._decoder.config)
        positions = _positions(mask)
        writer = Writer(grammar, len(rows))
        while True:
            hidden = self._decoder(
                input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            writer.choose(self.head, hidden, temperature, generator)
            if writer.finished():
                break
            tokens = torch.tensor(writer.newest(self._pad_token), device=device)[:, None]
            mask = torch.cat([mask, torch.ones_like(tokens)], 1)
            positions = positions[:, -1:] + 1
        self.model.train(training)
        return Rollouts(writer.completions, writer.log_probabilities)

    def refresh(self, model: Any) -> None:
        """Nothing to do: it is the model."""


def _positions(mask: Int[Tensor, "N S"]) -> Int[Tensor, "N S"]:
    return (mask.cumsum(1) - 1).clamp(min=0)
