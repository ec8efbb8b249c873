r"""Why one reward learns faster than another: the directions in which they push.

The gradient of the expected NDCG under the true gains, the *reference*, is estimated from many batches without bias and
with little noise: with rewards to go, $\sum_{j \ge k} d_j g_j / \mathrm{IDCG}$ (what came before rank k does not depend
on the choice at k), measured from their mean over the other rollouts of the group at the same rank. A method's gradient
is that of the objective that it ascends, of the same policy and rollouts. Told are

- `alignment`: the cosine between the reference and the method's gradient, the mean over all batches. Below 1 where the
  method pushes towards something else than NDCG (or where the noise of the mean is not yet small);
- `alignment of a batch`: the mean cosine between the reference and the gradient of one batch, as the optimiser sees
  it. It is smaller the noisier the method is.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from flexrec.planted.learning import COLUMNS, Batch, Learners, ascend, token_advantages
from flexrec.planted.settings import Cell
from flexrec.rl.methods import list_rewards
from flexrec.rl.rewards import rank_rewards
from flexrec.rl.settings import MethodSettings, SftMethodSettings


def alignments(
    cell: Cell,
    methods: Sequence[tuple[str, MethodSettings]],
    *,
    start: int,
    batches: int,
    reference_batches: int,
) -> pd.DataFrame:
    """Measure the directions of several methods at one policy per seed.

    Args:
        cell: World, seeds and the method that the policies are first trained with.
        methods: By name, those whose directions are measured.
        start: Steps of training before the measurement.
        batches: Batches for the methods' gradients.
        reference_batches: Further batches for the reference.

    Returns:
        Columns `variant` and those of `flexrec.planted.learning.train`; the metrics are `alignment` and
        `alignment of a batch`, their step is `start`.

    Raises:
        ValueError: The cell shows lists, whose gradient is of another objective.
    """
    if isinstance(cell.method, SftMethodSettings):
        raise ValueError("the directions of rewards are measured; the cell's method is `sft`")
    learners = Learners(cell)
    optimiser = torch.optim.Adam(learners.policies.parameters(), lr=cell.learning_rate)
    for _ in range(start):
        batch = learners.rollouts()
        ascend(optimiser, learners.objective(batch, _advantages(learners, batch, cell.method)))

    reference = torch.zeros(())
    for _ in range(reference_batches):
        batch = learners.rollouts()
        reference = reference + gradient_of(learners, batch, rewards_to_go(learners, batch))
    sums = {name: torch.zeros(()) for name, _ in methods}
    cosines = {name: torch.zeros(()) for name, _ in methods}
    for _ in range(batches):
        batch = learners.rollouts()
        for name, method in methods:
            gradient = gradient_of(learners, batch, _advantages(learners, batch, method))
            sums[name] = sums[name] + gradient
            cosines[name] = cosines[name] + _cosine(gradient, reference) / batches
    rows = [
        pd.DataFrame({"variant": name, "seed": cell.seeds, "metric": metric, "value": values.double().numpy()})
        for name, _ in methods
        for metric, values in (
            ("alignment", _cosine(sums[name], reference)),
            ("alignment of a batch", cosines[name]),
        )
    ]
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(need=cell.trained[0], step=start, tokens=start * learners.tokens_per_step)
    return table[["variant", *COLUMNS]]


def _advantages(learners: Learners, batch: Batch, method: MethodSettings) -> Float[Tensor, "R B G T"]:
    return token_advantages(batch, method).unflatten(0, (len(learners.cell.seeds), -1))


def rewards_to_go(learners: Learners, batch: Batch) -> Float[Tensor, "R B G T"]:
    """Rewards to go under the true gains, measured from the mean of the group's others.

    A token that names no item has the reward of the list.
    """
    rewards = rank_rewards(batch.true["gains"], batch.true["idcg"])
    if batch.log_probabilities.shape[-1] > rewards.shape[-1]:
        rewards = torch.cat([rewards, list_rewards(batch.true)[..., None]], -1)
    G = rewards.shape[1]
    centred = (rewards - rewards.mean(1, keepdim=True)) * (G / (G - 1))
    return centred.unflatten(0, (len(learners.cell.seeds), -1))


def gradient_of(learners: Learners, batch: Batch, advantages: Float[Tensor, "R B G T"]) -> Float[Tensor, "R P"]:
    """The gradient of the objective, all parameters of a policy in one row; the graph stays for the next method."""
    parameters = [parameter for parameter in learners.policies.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(
        learners.objective(batch, advantages), parameters, retain_graph=True, materialize_grads=True
    )
    return torch.cat([part.flatten(1) for part in parts], 1)


def _cosine(a: Float[Tensor, "R P"], b: Float[Tensor, "R P"]) -> Float[Tensor, " R"]:
    return torch.nn.functional.cosine_similarity(a, b, dim=1)
