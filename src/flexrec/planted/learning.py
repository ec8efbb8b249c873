r"""Training of policies in a planted world, with the project's own rewards, advantages and weights.

A step samples G permutations for each of B requests and takes one step of Adam along

$$\frac{1}{B G T} \sum_{b,i,t} A_{b,i,t} \, \nabla \log \pi(a_{b,i,t})$$

the gradient of the clipped objective where, as here, rollouts are used for one update (the ratio is 1). There is no KL
term and no entropy bonus: what is compared is the signal that the advantages carry. All seeds of a cell are trained at
once, with streams of random numbers of their own, so that two cells with the same seeds start from the same worlds and
policies, visit the same requests in the same order, and are compared in pairs.

Policies may instead be shown the optimal lists of other requests (`sft`), or be shown some before (a warm-up); a step
then goes along the gradient of the mean $\log \pi$ of the tokens of these lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexrec.planted.policy import Policies
from flexrec.planted.settings import Cell
from flexrec.planted.world import fabricate
from flexrec.ranking.gains import ideal_dcg
from flexrec.ranking.metrics import kendall_tau, ndcg
from flexrec.rl.advantages import group_advantages
from flexrec.rl.methods import item_advantages, item_rewards, list_rewards, rollout_weights
from flexrec.rl.settings import MethodSettings, SftMethodSettings

HEAD = 5
"""The cutoff of the head of a list; what stands behind it is its tail."""

COLUMNS = ("seed", "need", "step", "tokens", "metric", "value")

# what a stream of random numbers is for, beside those of the world and of the initial policies
_SCHEDULE, _ROLLOUTS, _SHOWN, _TIES = 4, 5, 6, 7


@dataclass(frozen=True)
class Batch:
    """The rollouts of one step.

    Attributes:
        log_probabilities: Of every token, differentiable; item tokens first.
        ranked: What rewards are made of, in the order of each rollout, as the trainer gives it to
            `flexrec.rl.methods`; the R * B groups of all seeds along one axis.
        true: The same with the true gains, which no method sees.
        overestimation: Every request's IDCG under the gains of training over the true one.
    """

    log_probabilities: Float[Tensor, "R B G T"]
    ranked: dict[str, Float[Tensor, "..."]]
    true: dict[str, Float[Tensor, "..."]]
    overestimation: Float[Tensor, "R B"]


class Learners:
    """The policies of a cell's seeds, with their worlds.

    Args:
        cell: What to train.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.world = fabricate(cell.world, cell.feedback, cell.seeds)
        learner = cell.learner
        self.policies = Policies(
            cell.seeds,
            self.world.features.shape[-1],
            self.world.descriptions.shape[-1],
            learner.hidden,
            np.stack(list(self.world.views.values())) if learner.views else None,
        )
        self.lists_per_step = learner.prompts_per_step * learner.rollouts
        if isinstance(cell.method, SftMethodSettings) and cell.method.lists_per_step:
            self.lists_per_step = cell.method.lists_per_step
        self.tokens_per_step = self.lists_per_step * self.policies.tokens(cell.world.candidates)
        self._needs = {need.name: place for place, need in enumerate(cell.world.needs)}
        self._features = torch.tensor(self.world.features, dtype=torch.float32)
        self._descriptions = torch.tensor(self.world.descriptions, dtype=torch.float32)
        self._runs = np.arange(len(cell.seeds))[:, None]
        self._streams = [_generator(seed, _ROLLOUTS) for seed in cell.seeds]
        examples = self.world.train * len(cell.trained)
        self._visits = [_Visits(examples, seed, _SCHEDULE) for seed in cell.seeds]
        # of their own, so that rollouts visit the same requests after a warm-up and without one
        self._lists = [_Visits(examples, seed, _SHOWN) for seed in cell.seeds]
        self._ties = [np.random.default_rng([seed, _TIES]) for seed in cell.seeds]

    def _next(
        self, visits: Sequence["_Visits"], count: int
    ) -> tuple[Int[np.ndarray, "R n"], Int[np.ndarray, "R n"], Float[Tensor, "R n K F"], Float[Tensor, "R n E"]]:
        """Every seed's next requests, the places of their needs, and what a policy sees of both."""
        visited = np.stack([own.take(count) for own in visits])
        request = visited // len(self.cell.trained)
        need = np.array([self._needs[name] for name in self.cell.trained])[visited % len(self.cell.trained)]
        return request, need, self._features[self._runs, request], self._descriptions[need]

    def shown(self, lists: int) -> Float[Tensor, ""]:
        """What supervised learning ascends: the mean log-probability of optimal lists' tokens, summed over the seeds.

        Args:
            lists: Of how many requests, those that come next for every seed; optimal under the gains of training, equal
                gains in a random order, another one at every visit.
        """
        request, need, features, needs = self._next(self._lists, lists)
        gains = self.world.means[self._runs, request, need]
        ties = np.stack([stream.random(gains.shape[1:]) for stream in self._ties])
        orders = torch.tensor(np.lexsort((ties, -gains)))[:, :, None]
        no_views = torch.zeros(orders.shape[:3], dtype=torch.int64)
        return self.policies.log_probabilities(features, needs, no_views, orders).mean((1, 2, 3)).sum()

    def rollouts(self) -> Batch:
        """Sample the next batch of every seed."""
        learner, K = self.cell.learner, self.cell.world.candidates
        B, G = learner.prompts_per_step, learner.rollouts
        request, need, features, needs = self._next(self._visits, B)
        shape = (B, G, self.policies.tokens(K))
        uniforms = torch.stack([torch.rand(shape, generator=stream) for stream in self._streams])
        views, orders = self.policies.sample(features, needs, uniforms)
        logps = self.policies.log_probabilities(features, needs, views, orders)
        ideals = (ideal_dcg(gains[self._runs, request, need]) for gains in (self.world.means, self.world.gains))
        ranked, true = (self._ranked(gains, request, need, orders) for gains in (self.world.means, self.world.gains))
        return Batch(logps, ranked, true, torch.tensor(np.divide(*ideals)))

    def _ranked(
        self,
        of_world: Float[np.ndarray, "R N M K"],
        request: Int[np.ndarray, "R B"],
        need: Int[np.ndarray, "R B"],
        orders: Int[Tensor, "R B G K"],
    ) -> dict[str, Float[Tensor, "..."]]:
        means = of_world[self._runs, request, need]
        variances = self.world.variances[self._runs, request]
        G, K = orders.shape[2:]

        def ranked(values: np.ndarray) -> Tensor:
            return torch.tensor(values)[:, :, None].take_along_dim(orders, 3).reshape(-1, G, K)

        ideal = torch.tensor(ideal_dcg(means)).reshape(-1, 1).expand(-1, G)
        gains = ranked(means)
        return {"gains": gains, "variances": ranked(variances), "named": torch.ones_like(gains), "idcg": ideal}

    def weights(self, batch: Batch, method: MethodSettings) -> Float[Tensor, "R B G"]:
        """Weight of every rollout; the scope `batch` is a seed's own."""
        R = len(self.cell.seeds)
        parts = {name: values.unflatten(0, (R, -1)) for name, values in batch.ranked.items()}
        return torch.stack(
            [
                rollout_weights({name: values[run] for name, values in parts.items()}, method.uncertainty)
                for run in range(R)
            ]
        )

    def objective(self, batch: Batch, advantages: Float[Tensor, "R B G T"]) -> Float[Tensor, ""]:
        """What the step ascends: the sum over the seeds, whose parameters have nothing in common."""
        return (advantages.to(torch.float32) * batch.log_probabilities).mean((1, 2, 3)).sum()

    def greedy(self, need: str) -> Int[np.ndarray, "R N K"]:
        """The likeliest ranking of every held-out request, asked with a need."""
        features = self._features[:, self.world.train :]
        needs = self._descriptions[self._needs[need]].expand(*features.shape[:2], -1)
        return self.policies.sample(features, needs)[1][:, :, 0].numpy()

    def true_gains(self, need: str) -> Float[np.ndarray, "R N K"]:
        """True gains of the held-out requests under a need."""
        return self.world.gains[:, self.world.train :, self._needs[need]]


def token_advantages(batch: Batch, method: MethodSettings) -> Float[Tensor, "N G T"]:
    """Advantages of item tokens, then of the token that names no item; N = R * B groups, before weighting."""
    items = item_advantages(batch.ranked, method)
    if batch.log_probabilities.shape[-1] == items.shape[-1]:
        return items
    lists = group_advantages(list_rewards(batch.ranked), method.epsilon)
    return torch.cat([items, (lists if method.sequence_advantage else torch.zeros_like(lists))[..., None]], -1)


def train(cell: Cell) -> pd.DataFrame:
    """Train all seeds of a cell, after its warm-up if it has one.

    Returns:
        Columns `seed`, `need` (asked; empty for what belongs to training), `step`, `tokens` (learned from so far, those
        of the warm-up not counted), `metric`, `value`; those of rewards, advantages and weights only where there are
        rewards. Along the training, of greedy rankings under the true gains: `ndcg_at_5`, `ndcg_at_k`, and
        `ndcg_of_tail`, the NDCG of the order among what stands behind rank 5; and `reward`, the mean J of the
        rollouts since the last point under the gains of training. Once, as means over the training: the spreads of
        rewards and advantages at every rank, the distribution of the weights, and `weight/overestimation`: how much
        larger the mean of IDCG over its true value is when requests count by their weights. Once, at the end:
        `tau/<need>`, how alike the rankings of the same candidates are when asked with another need.
    """
    return _Training(cell).run()


class _Training:
    def __init__(self, cell: Cell) -> None:
        self._cell, self._learners = cell, Learners(cell)
        self._rows: list[pd.DataFrame] = []
        self._sums: dict[str, np.ndarray] = {}
        self._rewards: list[np.ndarray] = []

    def run(self) -> pd.DataFrame:
        cell, learners = self._cell, self._learners
        steps, every = cell.learner.steps, cell.learner.evaluate_every
        if cell.warm_up:
            optimiser = torch.optim.Adam(learners.policies.parameters(), lr=cell.warm_up.learning_rate)
            for _ in range(cell.warm_up.steps):
                ascend(optimiser, learners.shown(cell.warm_up.lists))
        optimiser = torch.optim.Adam(learners.policies.parameters(), lr=cell.learning_rate)
        self._evaluate(0)
        for step in range(1, steps + 1):
            ascend(optimiser, self._objective())
            if step % every == 0 or step == steps:
                self._evaluate(step)
        for name, total in self._sums.items():
            self._note("", steps, name, total / steps)
        self._switching(steps)
        return pd.concat(self._rows, ignore_index=True)[list(COLUMNS)]

    def _objective(self) -> Float[Tensor, ""]:
        learners, method = self._learners, self._cell.method
        if isinstance(method, SftMethodSettings):
            return learners.shown(learners.lists_per_step)
        batch = learners.rollouts()
        weights = learners.weights(batch, method)
        advantages = token_advantages(batch, method).unflatten(0, weights.shape[:2])
        self._watch(batch, method, weights, advantages)
        return learners.objective(batch, weights[..., None] * advantages)

    def _note(self, need: str, step: int, metric: str, values: Float[np.ndarray, " R"]) -> None:
        tokens = step * self._learners.tokens_per_step
        self._rows.append(
            pd.DataFrame(
                {"seed": self._cell.seeds, "need": need, "step": step, "tokens": tokens, "metric": metric}
                | {"value": values.astype(np.float64)}
            )
        )

    def _evaluate(self, step: int) -> None:
        for need in self._cell.asked:
            orders, gains = self._learners.greedy(need), self._learners.true_gains(need)
            ranked = np.take_along_axis(gains, orders, axis=-1)
            self._note(need, step, "ndcg_at_5", ndcg(ranked, HEAD).mean(-1))
            self._note(need, step, "ndcg_at_k", ndcg(ranked).mean(-1))
            if ranked.shape[-1] > HEAD + 1:
                self._note(need, step, "ndcg_of_tail", ndcg(ranked[..., HEAD:]).mean(-1))
        if self._rewards:
            self._note("", step, "reward", np.mean(self._rewards, axis=0))
            self._rewards = []

    def _watch(
        self,
        batch: Batch,
        method: MethodSettings,
        weights: Float[Tensor, "R B G"],
        advantages: Float[Tensor, "R B G T"],
    ) -> None:
        """Add up what is told as a mean over the training."""
        ranked = batch.ranked
        R, B, G = weights.shape
        self._rewards.append(list_rewards(ranked).reshape(R, B * G).mean(1).numpy())
        K = ranked["gains"].shape[-1]
        values = {
            "weight/low": weights.flatten(1).quantile(0.1, 1),
            "weight/median": weights.flatten(1).median(1).values,
            "weight/high": weights.flatten(1).quantile(0.9, 1),
            "weight/spread_in_group": weights.std(2).mean(1),
            "weight/spread_between_groups": weights.mean(2).std(1) if B > 1 else torch.zeros(R),
            "weight/overestimation": _shift(weights.mean(2), batch.overestimation),
        }
        values |= _by_rank("advantage", advantages[..., :K])
        if method.item_reward != "none":
            rewards = item_rewards(ranked, method)
            values |= _by_rank("reward", rewards.unflatten(0, (R, B)))
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.numpy()

    def _switching(self, step: int) -> None:
        orders = {need: self._learners.greedy(need) for need in self._cell.asked}
        for need, order in orders.items():
            for other in orders:
                if other != need:
                    self._note(need, step, f"tau/{other}", kendall_tau(order, orders[other]).mean(-1))


def ascend(optimiser: torch.optim.Optimizer, objective: Float[Tensor, ""]) -> None:
    """One step upwards."""
    optimiser.zero_grad()
    (-objective).backward()
    optimiser.step()


def _shift(weights: Float[Tensor, "R B"], values: Float[Tensor, "R B"]) -> Float[Tensor, " R"]:
    """By how much the weighted mean is above the plain one."""
    return (weights * values).sum(1) / weights.sum(1) - values.mean(1)


def _by_rank(name: str, values: Float[Tensor, "R B G K"]) -> dict[str, Float[Tensor, " R"]]:
    """Standard deviation over the rollouts of a group at every rank: root of the mean variance over the groups."""
    spreads = values.var(2).mean(1).sqrt()
    return {f"{name}/std_at_rank_{rank + 1:02d}": spreads[:, rank] for rank in range(values.shape[-1])}


class _Visits:
    """Which examples come next: in seeded order, every one before any again."""

    def __init__(self, count: int, seed: int, purpose: int) -> None:
        self._count, self._rng = count, np.random.default_rng([seed, purpose])
        self._waiting = np.zeros(0, dtype=np.int64)

    def take(self, wanted: int) -> Int[np.ndarray, " n"]:
        while len(self._waiting) < wanted:
            self._waiting = np.concatenate([self._waiting, self._rng.permutation(self._count)])
        taken, self._waiting = self._waiting[:wanted], self._waiting[wanted:]
        return taken


def _generator(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0]))
