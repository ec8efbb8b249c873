from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from flexrec.planted.gradients import alignments, gradient_of, rewards_to_go
from flexrec.planted.learning import Learners, token_advantages, train
from flexrec.planted.settings import FeedbackSettings, LearnerSettings, ShownLists, Variant, WarmUp
from flexrec.rl.advantages import group_advantages
from flexrec.rl.methods import list_rewards
from flexrec.rl.settings import UncertaintySettings

REWARDS = ("swap_causal", "swap_noncausal", "independent", "rank_dcg", "rank_relevance")
EVERY = [Variant(item_reward=r, item_advantage=a) for r, a in product(REWARDS, ("pooled", "per_rank"))]
EVERY += [Variant(item_reward="none")]


@pytest.mark.parametrize("variant", EVERY, ids=lambda variant: variant.name)
def test_every_method_improves_its_training_reward(cell_of, variant):
    """What it is rewarded for under the gains of training, on a problem where improvement is possible."""
    learner = LearnerSettings(hidden=8, steps=60, prompts_per_step=4, rollouts=8, evaluate_every=10)
    curves = train(cell_of(method=variant.method(), learner=learner, seeds=(0, 1, 2, 3)))
    rewards = curves[curves["metric"] == "reward"].groupby("step")["value"].mean()
    assert list(rewards.index) == [10, 20, 30, 40, 50, 60]
    assert rewards.iloc[-1] > rewards.iloc[0] + 0.03
    truth = curves[curves["metric"] == "ndcg_at_5"].groupby("step")["value"].mean()
    assert truth.iloc[-1] > truth.iloc[0] + 0.03


def test_the_same_cell_gives_the_same_numbers(cell_of):
    pd.testing.assert_frame_equal(train(cell_of()), train(cell_of()), check_exact=True)


def test_a_seed_does_not_depend_on_its_neighbours(cell_of):
    together, alone = Learners(cell_of(seeds=(1, 2, 3))), Learners(cell_of(seeds=(2,)))
    for _ in range(2):
        many, one = together.rollouts(), alone.rollouts()
        torch.testing.assert_close(many.log_probabilities[1], one.log_probabilities[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(many.ranked["gains"][4:8], one.ranked["gains"])


def test_rewards_are_made_of_the_gains_in_the_order_of_the_rollout(cell_of):
    learners = Learners(cell_of(feedback=FeedbackSettings(noise=0.2, spread=1.0), trained=("trend", "interest")))
    ranked = learners.rollouts().ranked
    assert ranked["gains"].shape == (3 * 4, 6, 6)
    means, variances = learners.world.means, learners.world.variances
    for group in range(12):
        rows = [np.sort(ranked["gains"][group, rollout]) for rollout in range(6)]
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], (6, 6)))
        # the candidates of a request of this seed, under one of both needs, with their variances beside them
        own = np.sort(means[group // 4, : learners.world.train], axis=-1)
        request, need = np.argwhere((own == rows[0]).all(-1))[0]
        pairs = zip(ranked["gains"][group, 0].tolist(), ranked["variances"][group, 0].tolist(), strict=True)
        expected = zip(means[group // 4, request, need], variances[group // 4, request], strict=True)
        assert sorted(pairs) == sorted(expected)
        # IDCG by hand
        discounts = 1 / np.log2(np.arange(2, 8))
        assert ranked["idcg"][group, 0].item() == pytest.approx(float(rows[0][::-1] @ discounts))


def test_every_request_is_visited_before_any_again(cell_of, world_of):
    learners = Learners(cell_of(world=world_of(train=6), trained=("interest", "trend"), seeds=(1,)))
    visited = np.concatenate([learners._visits[0].take(4) for _ in range(6)])
    assert sorted(visited[:12]) == sorted(visited[12:]) == list(range(12))
    assert list(visited[:12]) != list(visited[12:])


def test_weights_have_mean_1_over_the_batch_of_a_seed(cell_of):
    weighted = UncertaintySettings(scope="batch", low=1e-6, high=1e6)
    learners = Learners(cell_of(feedback=FeedbackSettings(noise=0.2, spread=2.0, between=0.5)))
    batch = learners.rollouts()
    weights = learners.weights(batch, Variant().method(weighted))
    assert weights.shape == (3, 4, 6)
    np.testing.assert_allclose(weights.mean((1, 2)), 1, rtol=1e-12)
    assert weights.mean(2).std() > 0.1
    weights = learners.weights(batch, Variant().method(UncertaintySettings(low=1e-6, high=1e6)))
    np.testing.assert_allclose(weights.mean(2), 1, rtol=1e-12)
    assert weights.std(2).mean() > 0.1


def test_weights_change_what_is_learned_and_equal_ones_do_not(cell_of):
    def learned(noise: float, scope: str) -> list[float]:
        method = Variant().method(UncertaintySettings(scope=scope))
        curves = train(cell_of(method=method, feedback=FeedbackSettings(noise=noise, spread=2.0)))
        return curves[curves["metric"].isin(["reward", "ndcg_at_k"])]["value"].tolist()

    assert learned(0.0, "group") == learned(0.0, "none")
    assert learned(0.3, "group") != learned(0.3, "none")


def test_weights_over_the_batch_prefer_overestimated_requests(cell_of):
    """With the same variance everywhere, what tells requests apart is the IDCG that the critic predicts."""
    weighted = UncertaintySettings(scope="batch", low=1e-6, high=1e6)
    learner = LearnerSettings(hidden=4, steps=8, prompts_per_step=8, rollouts=2)
    cells = [
        cell_of(method=Variant().method(scope), learner=learner, feedback=FeedbackSettings(noise=0.2, observed=0.0))
        for scope in (weighted, None)
    ]
    found = [train(cell).query("metric == 'weight/overestimation'")["value"] for cell in cells]
    assert (found[0] > 0.02).all()
    np.testing.assert_allclose(found[1], 0, atol=1e-12)


def test_the_view_learns_from_the_list_if_it_may(cell_of):
    learner = LearnerSettings(hidden=8, steps=1, prompts_per_step=4, rollouts=6, views=True)
    learners = Learners(cell_of(learner=learner))
    batch = learners.rollouts()
    assert batch.log_probabilities.shape == (3, 4, 6, 7)
    lists = group_advantages(list_rewards(batch.ranked), 1e-6)
    hybrid = token_advantages(batch, Variant().method())
    torch.testing.assert_close(hybrid[..., 6], lists)
    items_only = token_advantages(batch, Variant(sequence_advantage=False).method())
    torch.testing.assert_close(items_only[..., :6], hybrid[..., :6])
    assert not items_only[..., 6].any()
    torch.testing.assert_close(
        token_advantages(batch, Variant(item_reward="none").method()), lists[..., None].expand(-1, -1, 7)
    )


def test_what_a_training_tells(cell_of):
    curves = train(cell_of(asked=("interest", "trend"), feedback=FeedbackSettings(noise=0.2)))
    assert list(curves.columns) == ["seed", "need", "step", "tokens", "metric", "value"]
    points = curves[curves["metric"] == "ndcg_at_5"]
    assert set(points["need"]) == {"interest", "trend"}
    # 4 requests x 6 rollouts x 6 tokens a step
    assert dict(zip(points["step"], points["tokens"], strict=True)) == {0: 0, 2: 288, 4: 576}
    assert len(points) == 3 * 3 * 2
    # 6 candidates leave one behind rank 5, whose order says nothing
    assert not (curves["metric"] == "ndcg_of_tail").any()
    once = curves[curves["metric"].str.contains("/")]
    assert not once.duplicated(["seed", "need", "metric"]).any()
    spreads = once[once["metric"].str.startswith("reward/")]
    assert len(spreads) == 3 * 6
    assert (spreads[spreads["metric"] == "reward/std_at_rank_06"]["value"] == 0).all()
    taus = once[once["metric"].str.startswith("tau/")]
    # of a pair of needs it is the same from both sides
    assert taus[taus["need"] == "interest"]["value"].tolist() == taus[taus["need"] == "trend"]["value"].tolist()


# ---- lists that are shown ----


def test_shown_lists_are_optimal_under_the_gains_of_training(cell_of, world_of):
    """The probability of every order of 3 candidates by hand: the objective is the logarithm of the best one's."""
    world = world_of(candidates=3, train=1)
    learners = Learners(cell_of(world=world, feedback=FeedbackSettings(noise=1.0, observed=0.0), seeds=(7,)))
    every = torch.tensor(list(permutations(range(3)))).expand(1, 1, 6, 3)
    features = torch.tensor(learners.world.features[:, :1], dtype=torch.float32)
    needs = torch.tensor(learners.world.descriptions[0], dtype=torch.float32).expand(1, 1, -1)
    logps = learners.policies.log_probabilities(features, needs, torch.zeros(1, 1, 6, dtype=torch.int64), every)
    means, truth = learners.world.means[0, 0, 0], learners.world.gains[0, 0, 0]
    best = [sorted(range(3), key=lambda item: -gains[item]) for gains in (means, truth)]
    assert best[0] != best[1]
    expected = logps[0, 0, every[0, 0].tolist().index(best[0])].mean()
    assert learners.shown(1).item() == pytest.approx(expected.item(), rel=1e-5)
    # of several requests the mean, of several seeds the sum
    assert learners.shown(4).item() == pytest.approx(expected.item(), rel=1e-5)
    several = Learners(cell_of(world=world, feedback=learners.cell.feedback, seeds=(7, 6)))
    alone = Learners(cell_of(world=world, feedback=learners.cell.feedback, seeds=(6,)))
    assert several.shown(1).item() == pytest.approx(expected.item() + alone.shown(1).item(), rel=1e-5)


def test_equal_gains_are_shown_in_another_order_every_time(cell_of, world_of):
    """A critic that is far off takes nearly half of the gains below 0, where they are all 0."""
    feedback = FeedbackSettings(noise=5.0, observed=0.0)
    learners = Learners(cell_of(world=world_of(train=1, candidates=10), feedback=feedback, seeds=(3,)))
    tied = (learners.world.means[0, 0, 0] == 0).sum()
    assert tied == 5
    assert len({learners.shown(1).item() for _ in range(12)}) > 6
    # all of one value, and no others
    learners.world.means[0, 0, 0] = np.arange(10)
    assert len({learners.shown(1).item() for _ in range(12)}) == 1


def test_shown_lists_are_of_the_need_that_is_asked(cell_of, world_of):
    """Two needs with opposite ideal lists: after the training each is answered with its own."""
    learner = LearnerSettings(hidden=8, steps=80, prompts_per_step=4, rollouts=6, evaluate_every=80)
    cell = cell_of(
        world=world_of(train=200), method=ShownLists(lists=24).method(), learner=learner,
        trained=("interest", "trend"), asked=("interest", "trend"),
    )  # fmt: skip
    curves = train(cell)
    ndcg = curves[curves["metric"] == "ndcg_at_5"].groupby(["need", "step"])["value"].mean()
    assert ndcg["interest", 80] > ndcg["interest", 0] + 0.1
    assert ndcg["trend", 80] > ndcg["trend", 0] + 0.1


def test_what_a_training_on_lists_tells(cell_of):
    curves = train(cell_of(method=ShownLists(lists=5).method(), feedback=FeedbackSettings(noise=0.2)))
    points = curves[curves["metric"] == "ndcg_at_5"]
    # 5 lists x 6 tokens a step
    assert dict(zip(points["step"], points["tokens"], strict=True)) == {0: 0, 2: 60, 4: 120}
    # no reward, no advantage, no weight
    assert set(curves["metric"]) == {"ndcg_at_5", "ndcg_at_k"}


def test_as_many_lists_as_rollouts_where_their_number_is_left_open(cell_of):
    learners = Learners(cell_of(method=ShownLists(lists=5).method().model_copy(update={"lists_per_step": None})))
    assert learners.lists_per_step == 4 * 6


def test_a_warm_up_comes_before_the_first_point(cell_of):
    """Two warm-up steps and one step of lists at the same rate, with one optimiser each, visit the lists in turn."""
    learner = LearnerSettings(hidden=8, steps=2, prompts_per_step=4, rollouts=6, evaluate_every=1)
    lists = {"method": ShownLists(lists=6).method(), "learner": learner, "learning_rate": 0.02}
    warm_up = WarmUp(steps=2, lists=6, learning_rate=0.02)
    cold, warm = train(cell_of(**lists)), train(cell_of(**lists, warm_up=warm_up))

    def heights(curves: pd.DataFrame, step: int) -> list[float]:
        return curves[(curves["metric"] == "ndcg_at_k") & (curves["step"] == step)]["value"].tolist()

    assert heights(warm, 0) == heights(cold, 2)
    # the optimiser begins anew
    assert heights(warm, 1) != heights(cold, 2)
    # rollouts visit the requests that they visit without a warm-up
    rewarded = [Learners(cell_of(warm_up=given)) for given in (None, warm_up)]
    rewarded[1].shown(7)
    first, second = (learners.rollouts().ranked["idcg"] for learners in rewarded)
    assert torch.equal(first, second)


@pytest.mark.parametrize("change", [{"warm_up": WarmUp(steps=1, lists=1, learning_rate=0.1)},
                                    {"method": ShownLists(lists=1).method()}])  # fmt: skip
def test_no_list_is_shown_where_a_view_is_written(cell_of, change):
    with pytest.raises(ValidationError, match="with `views` none can be shown"):
        cell_of(learner=LearnerSettings(views=True), **change)


# ---- directions ----


@pytest.mark.parametrize("feedback", [FeedbackSettings(), FeedbackSettings(noise=1.0, observed=0.0)])
def test_the_reference_is_the_gradient_of_the_expected_ndcg(cell_of, world_of, feedback):
    """All 6 orders of 3 candidates of the only request, enumerated, against the mean over many rollouts.

    Of the true NDCG, whatever a critic takes for it.
    """
    world = world_of(candidates=3, train=1)
    learner = LearnerSettings(hidden=4, steps=1, prompts_per_step=64, rollouts=16)
    learners = Learners(cell_of(world=world, learner=learner, feedback=feedback, seeds=(5,)))
    every = torch.tensor(list(permutations(range(3)))).expand(1, 1, 6, 3)
    features = torch.tensor(learners.world.features[:, :1], dtype=torch.float32)
    needs = torch.tensor(learners.world.descriptions[0], dtype=torch.float32).expand(1, 1, -1)
    logps = learners.policies.log_probabilities(features, needs, torch.zeros(1, 1, 6, dtype=torch.int64), every)
    gains = torch.tensor(learners.world.gains[:, :1, 0])[:, :, None].take_along_dim(every, 3)
    discounts = torch.tensor(1 / np.log2(np.arange(2, 5)))
    values = (gains * discounts).sum(-1) / (gains[0, 0, 0].sort(descending=True).values * discounts).sum()
    expected = (logps.sum(-1).exp() * values).sum()
    parameters = list(learners.policies.parameters())
    exact = torch.autograd.grad(expected, parameters, materialize_grads=True)
    exact = torch.cat([part.flatten(1) for part in exact], 1)
    total = torch.zeros_like(exact)
    for _ in range(60):
        batch = learners.rollouts()
        total = total + gradient_of(learners, batch, rewards_to_go(learners, batch))
    # the objective is a mean over 3 tokens
    found = total / 60 * 3
    assert torch.nn.functional.cosine_similarity(exact.float(), found)[0] > 0.98
    assert found.norm() == pytest.approx(exact.norm().item(), rel=0.1)


def test_the_directions_of_lists_are_not_measured(cell_of):
    with pytest.raises(ValueError, match="the cell's method is `sft`"):
        alignments(cell_of(method=ShownLists(lists=1).method()), [], start=0, batches=1, reference_batches=1)


def test_alignments(cell_of):
    methods = [(variant.name, variant.method()) for variant in (EVERY[0], EVERY[8], EVERY[10])]
    table = alignments(cell_of(), methods, start=3, batches=8, reference_batches=24)
    assert (table["step"] == 3).all()
    wide = table.pivot_table(index="seed", columns=["variant", "metric"], values="value")
    assert wide.shape == (3, 6)
    assert (wide.abs() <= 1).all().all()
    for name, _ in methods:
        # averaging takes noise away
        assert wide[name]["alignment"].mean() > wide[name]["alignment of a batch"].mean() > 0
