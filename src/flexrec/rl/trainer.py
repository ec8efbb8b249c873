"""Reinforcement learning of a ranker with item-level rewards.

FlexRec (arXiv 2603.11901) and the RL methods it is compared with, as a thin subclass of TRL's `GRPOTrainer`, which
keeps the optimiser, the clipped loss, the KL term, the entropy bonus, checkpoints and resumption:

1. rollouts are sampled under the grammar of permutations, with every prompt encoded once per group (`rollout`);
2. every item of every rollout gets its own reward and advantage, every other token that of the whole list, and both
   are weighted by how sure the critic is of the rollout (`_generate_and_score_completions`); advantages are relative
   to the group of rollouts, or come from a value head (`flexrec.rl.ppo`), which is trained and saved with the policy
   but is no part of it;
3. log-probabilities are computed under the same grammar and with shared prompts
   (`_get_per_token_logps_and_entropies`), and compared with those of the sampler, which the update takes for the same
   (`_compare_with_sampler`);
4. where the importance ratio is that of an item, the loss is given old log-probabilities that make it so (`_complete`).

What is not about rankings stands in `flexrec.rl.shared_prompt_trainer`.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from flexrec.policy.distribution import unpadded
from flexrec.policy.engine import Sampler
from flexrec.policy.grammar import follow
from flexrec.policy.ranker import Answer, Ranker
from flexrec.ranking.metrics import ndcg
from flexrec.rl.advantages import group_advantages, whitened
from flexrec.rl.callbacks import CheckpointMarks, Curves, Validation
from flexrec.rl.examples import Example
from flexrec.rl.methods import (
    Ranked,
    end_rewards,
    item_advantages,
    item_rewards,
    item_shares,
    list_rewards,
    mean_over_items,
    rollout_weights,
)
from flexrec.rl.ppo import (
    ValueHead,
    clipped_value_loss,
    decision_tokens,
    explained_variance,
    generalised_advantages,
    token_rewards,
)
from flexrec.rl.settings import MethodSettings, RlSettings
from flexrec.rl.shared_prompt_trainer import SharedPromptTrainer, train

logger = logging.getLogger(__name__)

VALUE_HEAD = "value_head.safetensors"
MOST_DIFFERENCE = 0.1
"""Nats a token between sampler and policy that are no rounding any more: bfloat16 makes some 0.02."""


class RankingTrainer(SharedPromptTrainer):
    """GRPO or PPO on rankings.

    Args:
        ranker: The policy to train.
        examples: Queries with the gains that training may use; all with the same number of candidates.
        validation: Queries with their true gains, for the validation curve.
        method: Rewards and advantages.
        settings: Optimisation.
        work_folder: Checkpoints; an interrupted training goes on from the last complete one.
        seed: Seed of data order and sampling.
        sampler: Where rollouts come from; None for the ranker's own engine.
    """

    def __init__(
        self,
        ranker: Ranker,
        examples: Sequence[Example],
        validation: Sequence[Example],
        method: MethodSettings,
        settings: RlSettings,
        work_folder: Path,
        seed: int,
        sampler: Sampler | None = None,
    ) -> None:
        self.ranker, self.examples, self.method = ranker, examples, method
        self._count = len(examples[0].gains)
        self._sampler = sampler
        self._warned = False
        self._value_head: ValueHead | None = None
        self._batch: dict[str, Any] | None = None
        super().__init__(
            ranker,
            [ranker.prompt(example.query) for example in examples],
            ranker.grammar(self._count),
            rewards=self._list_reward,
            callbacks=callbacks(ranker, validation, settings),
            settings=settings,
            clip=method.clip or (settings.clip_low, settings.clip_high),
            work_folder=work_folder,
            seed=seed,
        )
        if method.algorithm == "ppo":
            self._value_head = ValueHead(self._engine.head.weight.shape[1]).to(self.args.device)

    def rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Sample G answers for each of B prompts (TRL's `rollout_func`).

        `prompts` holds row numbers of `examples`, each G times in a row.
        """
        rows = [int(row) for row in prompts]
        size = self.rl_settings.rollouts
        seed = self._step_seed()
        texts = [self._prompts[row] for row in rows[::size]]
        temperature = self.rl_settings.temperature
        if self._sampler is None:
            # the update follows with the same weights, and goes on from this pass over the prompts
            sampled = self._engine.sample(
                texts, self._grammar, rollouts=size, temperature=temperature, seed=seed, graph=True
            )
        else:
            self._sampler.refresh(self._engine.model)
            sampled = self._sampler.sample(texts, self._grammar, rollouts=size, temperature=temperature, seed=seed)
        return {
            "prompt_ids": [self._prompts[row] for row in rows],
            "completion_ids": sampled.completions,
            "logprobs": sampled.log_probabilities,
            "row": rows,
            "answer": [self.ranker.read(completion, self._count) for completion in sampled.completions],
        }

    def _ranked(self, rows: Sequence[int], answers: Sequence[Answer]) -> dict[str, Float[Tensor, "..."]]:
        """Gains and variances in the order of each rollout; candidates that were not named come last, as given."""
        size = self.rl_settings.rollouts
        shape = (len(rows) // size, size, self._count)
        orders = np.array(
            [
                [*answer.order, *(index for index in range(self._count) if index not in set(answer.order))]
                for answer in answers
            ]
        )
        named = np.array([[rank < len(answer.order) for rank in range(self._count)] for answer in answers])
        gains = np.stack([self.examples[row].gains for row in rows])
        variances = np.stack([self.examples[row].variances for row in rows])
        ranked = {
            "gains": np.take_along_axis(gains, orders, axis=1),
            "variances": np.take_along_axis(variances, orders, axis=1),
            "named": named,
        }
        tensors = {name: torch.tensor(value, dtype=torch.float64).reshape(shape) for name, value in ranked.items()}
        ideal = np.sort(gains, axis=1)[:, ::-1] @ (1.0 / np.log2(np.arange(2, self._count + 2)))
        tensors["idcg"] = torch.tensor(ideal).reshape(shape[:2])
        formed = [not (answer.invalid or answer.repeated or answer.missing) for answer in answers]
        tensors["formed"] = torch.tensor(formed).reshape(shape[:2])
        return tensors

    def _list_reward(self, row: Sequence[int], answer: Sequence[Answer], **_: Any) -> list[float]:
        """Reward of every list under the training gains, that of its form included."""
        return list_rewards(self._ranked(row, answer), self.method.format_reward).flatten().tolist()

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = [dict(example) for example in inputs]
        output = super()._generate_and_score_completions(inputs)
        answers = [example["answer"] for example in inputs]
        ranked = self._ranked([example["row"] for example in inputs], answers)
        ranks = _padded_ranks(answers, output["completion_ids"].shape[1])
        weights = rollout_weights(ranked, self.method.uncertainty).flatten()
        if self._value_head is None:
            items = item_advantages(ranked, self.method)
            lists = group_advantages(list_rewards(ranked, self.method.format_reward), self.method.epsilon).flatten()
            if not self.method.sequence_advantage:
                lists = torch.zeros_like(lists)
            advantages = token_advantages(items.flatten(0, 1), lists, weights, ranks)
            spreads = items.std(dim=(0, 1)).tolist()
        else:
            estimates, decisions, fitted = self._estimate(output, ranked, ranks)
            if not self.method.sequence_advantage:
                estimates = estimates.where(ranks >= 0, 0.0)
            advantages = weights[:, None] * estimates
            spreads = _spreads(estimates, ranks.where(decisions, -1), self._count)
            output |= fitted
        if self.method.importance == "item":
            advantages = advantages * item_shares(ranks, advantages)
            output["ranks"] = ranks.to(output["completion_ids"].device)
        self._log_rollouts(answers, spreads, weights)
        self._costs.add(rollouts=len(answers), sampled_tokens=int(output["completion_mask"].sum()))
        output["advantages"] = advantages.to(output["completion_ids"].device, torch.float32)
        return output

    def _estimate(
        self, output: Mapping[str, Tensor], ranked: Ranked, ranks: Int[Tensor, "N T"]
    ) -> tuple[Float[Tensor, "N T"], Bool[Tensor, "N T"], dict[str, Tensor]]:
        """PPO's advantages before weighting, where they stand, and what the value head is to learn."""
        completions, mask = output["completion_ids"], output["completion_mask"]
        head, settings = self._value_head, self.method.ppo
        assert head is not None
        constraints, _orders = follow(self._grammar, unpadded(completions, mask), completions.shape[1])
        decisions = torch.from_numpy(decision_tokens(constraints))
        items, ends = item_rewards(ranked, self.method), end_rewards(ranked, self.method)
        rewards = token_rewards(items.flatten(0, 1), ends.flatten(), ranks, mask.sum(1).cpu())
        with torch.no_grad():
            if self.state.global_step == 0:
                sums = generalised_advantages(
                    rewards, torch.zeros_like(rewards), decisions, discount=settings.discount, gae=1.0
                )
                # a constant that is off by the mean return would make an advantage a matter of the token's place
                head.bias.fill_(sums[decisions].mean() if decisions.any() else 0.0)
            values = head(self._engine.states(unpadded(output["prompt_ids"], output["prompt_mask"]), completions))
        estimates = generalised_advantages(
            rewards, values.cpu().double(), decisions, discount=settings.discount, gae=settings.gae
        )
        returns = estimates + values.cpu()
        self._metrics["train"]["value/explained_variance"].append(explained_variance(values.cpu(), returns, decisions))
        fitted = {
            "values": values,
            "returns": returns.to(values),
            "decisions": decisions.to(values.device),
        }
        return whitened(estimates, decisions, self.method.epsilon), decisions, fitted

    def _log_rollouts(self, answers: Sequence[Answer], spreads: Sequence[float], weights: Float[Tensor, " N"]) -> None:
        metrics = self._metrics["train"]
        for name in ("invalid", "repeated", "missing"):
            rate = sum(getattr(answer, name) for answer in answers) / (len(answers) * self._count)
            metrics[f"answer/{name}_rate"].append(rate)
        for rank, spread in enumerate(spreads, start=1):
            metrics[f"advantage/std_at_rank_{rank:02d}"].append(spread)
        for name, share in (("low", 0.1), ("median", 0.5), ("high", 0.9)):
            metrics[f"weight/{name}"].append(torch.quantile(weights, share).item())

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss, and the value head's."""
        # TRL reads the batch after it has asked for log-probabilities, when `_complete` has added what depends on them
        batch = self._batch = dict(inputs)
        try:
            loss = super()._compute_loss(model, batch)
        finally:
            self._batch = None
        self._count_update(inputs)
        return loss + batch["value_loss"] if "value_loss" in batch else loss

    def _complete(self, batch: dict[str, Any], logps: Float[Tensor, "N T"], states: Float[Tensor, "N T d"]) -> None:
        """Add to the batch of an update what TRL's loss does not know."""
        old = batch.get("old_per_token_logps", logps.detach())
        self._compare_with_sampler(batch["sampling_per_token_logps"], old)
        if self.method.importance == "item":
            # the loss takes the logarithm of the ratio from the difference of the two
            batch["old_per_token_logps"] = logps - mean_over_items(logps - old, batch["ranks"])
        if self._value_head is not None:
            # the trainer clears the gradients of the policy alone
            self._value_head.zero_grad()
            batch["value_loss"] = clipped_value_loss(
                self._value_head(states),
                batch["values"],
                batch["returns"],
                batch["decisions"],
                self.method.ppo.value_clip,
            )
            self._metrics["train"]["value/loss"].append(batch["value_loss"].item())

    def _compare_with_sampler(self, sampled: Float[Tensor, "N T"], own: Float[Tensor, "N T"]) -> None:
        """Log how far the sampler's log-probabilities are from those of the policy that sampled; warn once if far.

        Tokens that were certain, and padding, are 0 on both sides and do not count.
        """
        differences = (sampled - own).abs()[(sampled != 0) | (own != 0)]
        mean, largest = (differences.mean().item(), differences.max().item()) if len(differences) else (0.0, 0.0)
        self._metrics["train"]["sampling/logprob_difference_mean"].append(mean)
        self._metrics["train"]["sampling/logprob_difference_max"].append(largest)
        # the ranker's own engine has no weights but the policy's
        if mean > MOST_DIFFERENCE and self._sampler is not None and not self._warned:
            self._warned = True
            logger.warning(
                "step %d: the log-probabilities that came with the rollouts differ by %.2g nats a token from the "
                "policy's own; rounding to bfloat16 makes some 0.02. They may come of old weights or of another model, "
                "and the update takes them for the policy's. See that vLLM was started with the base model of this "
                "training and in its `dtype`, that new weights reach it (`generation.weights`), and that it applies "
                "the temperature and the grammar (docs/backends.md); or take `generation: {kind: shared_prompt}`.",
                self.state.global_step + 1,
                mean,
            )

    def _scored(self, logps: Float[Tensor, "N T"], states: Float[Tensor, "N T d"]) -> None:
        if self._batch is not None:
            self._complete(self._batch, logps, states)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """TRL's optimiser, with the value head at a learning rate of its own."""
        optimizer = super().create_optimizer(model)
        if self._value_head is not None:
            group = {"params": list(self._value_head.parameters()), "weight_decay": 0.0}
            optimizer.add_param_group(group | {"lr": self.method.ppo.value_learning_rate})
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._value_head is not None:
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            save_file(self._value_head.state_dict(), checkpoint / VALUE_HEAD)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._value_head is not None:
            self._value_head.load_state_dict(load_file(Path(resume_from_checkpoint) / VALUE_HEAD))


def token_advantages(
    items: Float[Tensor, "N K"], lists: Float[Tensor, " N"], weights: Float[Tensor, " N"], ranks: Int[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    r"""Advantage of every token (method, section 5).

    A_{i,t} = c_i \cdot A^{item}_{i,k} for a token of the item at rank k, and c_i \cdot A^{list}_i for any other.

    Args:
        items: Advantage of each rank of each rollout.
        lists: Advantage of each rollout as a whole.
        weights: Weight c_i of each rollout.
        ranks: 0-based rank of the item that a token names, -1 for none.
    """
    by_item = items.gather(1, ranks.clamp(min=0))
    return weights[:, None] * torch.where(ranks >= 0, by_item, lists[:, None])


def _spreads(advantages: Float[Tensor, "N T"], ranks: Int[Tensor, "N T"], count: int) -> list[float]:
    """Standard deviation of the advantages at each rank; 0 where there are not two."""
    by_rank = [advantages[ranks == rank] for rank in range(count)]
    return [members.std().item() if len(members) > 1 else 0.0 for members in by_rank]


def _padded_ranks(answers: Sequence[Answer], length: int) -> Int[Tensor, "N T"]:
    return torch.tensor([[*answer.ranks, *([-1] * (length - len(answer.ranks)))] for answer in answers])


def first_instances(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` examples, instance by instance, so that every need has its share."""
    return sorted(examples, key=lambda example: example.query.instance.instance_id)[:count]


def callbacks(
    ranker: Ranker, validation: Sequence[Example], settings: RlSettings, rate: str = "`rl.learning_rate`"
) -> list[TrainerCallback]:
    """What goes along with the training of a ranker: curves, validation, marks on checkpoints."""
    chosen = first_instances(validation, settings.validation_queries)
    return [
        Curves("rl", rate),
        Validation("rl", lambda: validation_ndcg(ranker, chosen) if chosen else {}, settings.validate_every),
        CheckpointMarks(),
    ]


def validation_ndcg(ranker: Ranker, examples: Sequence[Example]) -> dict[str, float]:
    """Mean NDCG@5 of greedy rankings, for each need and over all."""
    answers = ranker.rank([example.query for example in examples], description="validation")
    values: dict[str, list[float]] = {}
    for example, answer in zip(examples, answers, strict=True):
        rest = [index for index in range(len(example.gains)) if index not in set(answer.order)]
        ranked = example.gains[[*answer.order, *rest]]
        values.setdefault(example.need, []).append(float(ndcg(ranked, 5)))
    result = {f"validation/ndcg_at_5/{need}": float(np.mean(scores)) for need, scores in values.items()}
    result["validation/ndcg_at_5"] = float(np.mean([value for scores in values.values() for value in scores]))
    return result


def train_policy(
    ranker: Ranker,
    examples: Sequence[Example],
    validation: Sequence[Example],
    *,
    method: MethodSettings,
    settings: RlSettings,
    work_folder: Path,
    seed: int,
    sampler: Sampler | None = None,
) -> pd.DataFrame:
    """Train the ranker's policy in place.

    Args:
        ranker: The policy; its reference for the KL term is the policy as it comes.
        examples: Training queries with their gains, all with the same number of candidates.
        validation: Validation queries with their true gains; may be empty.
        method: Rewards and advantages.
        settings: Optimisation.
        work_folder: Checkpoints. A training that was killed goes on from the last complete one, and ends with the
            same weights as one that was not.
        seed: Seed of data order and sampling.
        sampler: Where rollouts come from; None for the ranker's own engine. It is told of new weights before each
            step, the first included.

    Returns:
        The curves, one row per step and metric: `step`, `metric`, `value`.
    """
    trainer = RankingTrainer(ranker, examples, validation, method, settings, work_folder, seed, sampler)
    return train(trainer, work_folder)
