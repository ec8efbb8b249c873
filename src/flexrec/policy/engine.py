"""Exact shared-prompt scoring and sampling.

The rollouts of a group share their prompt. It is encoded once, and all rollouts of the group read its keys and values
(`flexrec.policy.decoder`). That gives the same log-probabilities and gradients as encoding the prompt for every rollout
(Prefix Grouper, arXiv 2506.05433) at G(P+C)/(P+GC) of the tokens. Only the logits that are needed are computed: the
columns of the identifiers where the answer is constrained, the whole vocabulary where it is free.

Within one step of on-policy learning the same prompts are read three times, by sampling, by the reference and by the
update. With `remember`, sampling's pass over the prompts keeps its graph and is the update's, and what the untrained
layers at the bottom make of prompts and rollouts is shared by all three.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexrec.policy.decoder import Decoder, Lower, Prompts
from flexrec.policy.distribution import Rollouts, Writer, grouped, token_values
from flexrec.policy.grammar import Constraints, Grammar
from flexrec.policy.replicated import ReplicatedEngine


class Sampler(Protocol):
    """What a trainer asks for rollouts."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        grammar: Grammar,
        *,
        rollouts: int,
        temperature: float,
        seed: int,
    ) -> Rollouts:
        """Sample `rollouts` answers to each of B prompts; temperature 0 takes the most probable token everywhere."""

    def refresh(self, model: Any) -> None:
        """Be told that the model has new weights."""


class Scorer(Protocol):
    """What a trainer asks for log-probabilities."""

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
        """Log-probability, and entropy if asked for, of every token of N given answers, with gradients.

        Args:
            prompts: N prompts; equal ones are encoded once.
            completions: Answer tokens, padded on the right.
            constraints: What the grammar allows at every position (`follow`).
            grammar: The form of the answers.
            temperature: Of the distribution that the answers were sampled from, > 0.
            entropies: Whether entropies are wanted.

        Returns:
            In nats; 0 at forced positions and at padding.
        """


class SharedPromptEngine:
    """Sampler and scorer that encode each prompt once.

    Args:
        model: A causal language model, or a PEFT model around one, of a family that `Decoder` knows.
        pad_token: Any token, for padding.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
        remember: Keep what one on-policy step can use again. For a trainer; costs the memory of one graph.

    Attributes:
        head: The output matrix, as a module.

    Raises:
        InputError: A model that `Decoder` does not know.
    """

    def __init__(self, model: Any, pad_token: int, *, checkpointing: bool = False, remember: bool = False) -> None:
        self.model = model
        self._decoder = Decoder(model, checkpointing=checkpointing)
        self.head = self._decoder.head
        self._pad_token = pad_token
        self._memory = _Memory() if remember else None

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
        """For every token of N given answers the hidden state that predicts it, after the final norm.

        Args:
            prompts: N prompts; equal ones are encoded once.
            completions: Answer tokens, padded on the right.
        """
        unique, places = grouped(prompts, self._memory.prompts if self._memory is not None else ())
        group = torch.tensor(places, device=completions.device)
        encoded = self._encode(unique)
        hidden = encoded.last[group][:, None]
        length = completions.shape[1]
        if length > 1:
            reused = self._memory is not None and self._decoder.untrained > 0
            # a trainer shuffles its rollouts between the reference's reading and the update's
            slot, slots = _slots(group, _lexicographic(completions) if reused else None)
            # unused slots hold padding, read by nobody; tokens after the end of an answer are seen by none before it
            packed = completions.new_full((len(unique), slots, length - 1), self._pad_token)
            packed[group, slot] = completions[:, :-1]
            tokens = packed.flatten(1)
            positions = torch.arange(length - 1, device=tokens.device).repeat(slots)
            lower = self._lower_answers(encoded, tokens, positions, slots)
            rest = self._decoder.answers(encoded, tokens, positions, slots, lower)
            hidden = torch.cat([hidden, rest.unflatten(1, (slots, length - 1))[group, slot]], 1)
        return hidden

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
        """See `Sampler.sample`.

        Args:
            prompts: B token sequences.
            grammar: The form of the answers.
            rollouts: G answers per prompt.
            temperature: 0 takes the most probable token at every position (greedy; `rollouts` is then 1).
            seed: Seed of the sampling.
            graph: Encode the prompts with the graph that the next `score` of them uses (with `remember`).
        """
        training = self.model.training
        self.model.eval()
        keys = tuple(tuple(prompt) for prompt in prompts)
        # a graph made without the dropout of the adapters would not be the update's
        graph = graph and self._memory is not None and not _drops(self.model)
        with torch.set_grad_enabled(graph):
            encoded = self._encode(keys, keep=graph).detached()
        with torch.no_grad():
            sampled = self._decode(encoded, grammar, rollouts, temperature, seed)
        self.model.train(training)
        return sampled

    def refresh(self, model: Any) -> None:
        """Nothing to do: it is the model."""

    def _decode(self, encoded: Prompts, grammar: Grammar, rollouts: int, temperature: float, seed: int) -> Rollouts:
        generator = torch.Generator(device="cpu").manual_seed(seed)
        batch, device = len(encoded.lengths), encoded.last.device
        hidden = encoded.last.repeat_interleave(rollouts, 0)
        writer = Writer(grammar, batch * rollouts)
        decoding = None
        while True:
            writer.choose(self.head, hidden, temperature, generator)
            if writer.finished():
                break
            if decoding is None:
                decoding = self._decoder.decoding(encoded, rollouts, grammar.longest)
            # rows that have ended are fed padding, which nobody reads
            fed = torch.tensor(writer.newest(self._pad_token), device=device).reshape(batch, rollouts)
            hidden = decoding.step(fed).flatten(0, 1)
        return Rollouts(writer.completions, writer.log_probabilities)

    def _encode(self, prompts: tuple[tuple[int, ...], ...], *, keep: bool = False) -> Prompts:
        if self._memory is None:
            return self._decoder.encode(prompts, self._pad_token)
        memory, version = self._memory, _version(self.model)
        if memory.prompts != prompts:
            memory = self._memory = _Memory(prompts)
        if memory.encoded is not None and memory.version == version:
            encoded = memory.encoded
            if torch.is_grad_enabled() and not keep:
                # a graph serves one backward pass
                memory.encoded = None
            return encoded
        if self._decoder.untrained and memory.lower is None:
            memory.lower = self._decoder.lower(prompts, self._pad_token)
        encoded = self._decoder.encode(prompts, self._pad_token, memory.lower)
        if keep:
            memory.encoded, memory.version = encoded, version
        return encoded

    def _lower_answers(
        self, encoded: Prompts, tokens: Int[Tensor, "B S"], positions: Int[Tensor, " S"], answers: int
    ) -> Float[Tensor, "B S d"] | None:
        memory = self._memory
        if memory is None or not self._decoder.untrained:
            return None
        if memory.answers is None or not torch.equal(memory.answers[0], tokens):
            memory.answers = tokens, self._decoder.lower_answers(encoded, tokens, positions, answers)
        return memory.answers[1]


@dataclass
class _Memory:
    """What can be used again for the same prompts; `encoded` only with the weights it was made with."""

    prompts: tuple[tuple[int, ...], ...] = ()
    lower: Lower | None = None
    answers: tuple[Tensor, Tensor] | None = None
    encoded: Prompts | None = None
    version: tuple[Any, ...] = ()


def _version(model: Any) -> tuple[Any, ...]:
    """Changes with every change of a weight, and with which adapters are active, disabled or merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapters = (
        (tuple(module.active_adapters), module.disable_adapters, tuple(module.merged_adapters))
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
    )
    weights = ((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
    return *adapters, *weights


def _drops(model: Any) -> bool:
    """Whether the model computes something else while it is trained."""
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


def _lexicographic(rows: Int[Tensor, "N T"]) -> Int[Tensor, " N"]:
    """The place of every row among the different rows in ascending order."""
    return torch.unique(rows, dim=0, return_inverse=True)[1]


def _slots(group: Int[Tensor, " N"], within: Int[Tensor, " N"] | None) -> tuple[Int[Tensor, " N"], int]:
    """A place for every row among the rows of its group, and the size of the largest group.

    Args:
        group: Of every row.
        within: By what the rows of a group are ordered; None: as they come.
    """
    order = torch.argsort(group if within is None else group * (within.max() + 1) + within, stable=True)
    sizes = torch.bincount(group)
    starts = sizes.cumsum(0) - sizes
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), device=group.device) - starts[group[order]]
    return slot, int(sizes.max())


def make_engine(
    kind: Literal["shared_prompt", "replicated"],
    model: Any,
    pad_token: int,
    *,
    checkpointing: bool = False,
    remember: bool = False,
) -> SharedPromptEngine | ReplicatedEngine:
    """The engine of that kind; the replicated one has nothing to checkpoint or remember by itself."""
    if kind == "replicated":
        return ReplicatedEngine(model, pad_token)
    return SharedPromptEngine(model, pad_token, checkpointing=checkpointing, remember=remember)
