import pytest
from pydantic import ValidationError

from flexrec.planted import learning
from flexrec.planted.results import BEST, COMMON
from flexrec.planted.settings import (
    ComparisonSettings,
    FeedbackSettings,
    GradientSettings,
    LearnerSettings,
    Seeds,
    ShowingSettings,
    ShownLists,
    TransferSettings,
    Variant,
    WarmUp,
    WeightingSettings,
)
from flexrec.planted.study import IDEAL, JOINT, compare, directions, show_or_reward, transfer, weigh

LEARNER = LearnerSettings(hidden=4, steps=3, prompts_per_step=2, rollouts=3, evaluate_every=2)
SEEDS = Seeds(first=0, count=2)
COMPARISON = {
    "need": "interest",
    "variants": (Variant(), Variant(item_reward="none")),
    "rates": (0.001, 0.1),
    "common_rate": 0.01,
    "tuning": Seeds(first=10, count=2),
    "seeds": SEEDS,
}


@pytest.fixture
def trained(monkeypatch):
    """How often a cell was trained."""
    cells, train = [], learning.train

    def counted(cell):
        cells.append(cell)
        return train(cell)

    monkeypatch.setattr(learning, "train", counted)
    return cells


def test_a_comparison(world_of, tmp_path, trained):
    settings = ComparisonSettings(**COMPARISON)
    curves, rates = compare("rewards", world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert set(curves["seed"]) == {0, 1}
    labels = curves[["choice", "variant", "rate"]].drop_duplicates()
    assert set(labels["choice"]) == {BEST, COMMON}
    assert set(labels["variant"]) == {"swap causal, pooled", "sequence"}
    assert (labels[labels["choice"] == COMMON]["rate"] == 0.01).all()
    # the best rate is that of the larger area, of two at an end of course
    for name, own in rates.groupby("variant"):
        best = own[own["best"]]
        assert len(own) == 2
        assert len(best) == 1
        assert best["area"].iloc[0] == own["area"].max()
        assert best["edge"].iloc[0]
        chosen = labels[(labels["choice"] == BEST) & (labels["variant"] == name)]["rate"]
        assert chosen.tolist() == best["rate"].tolist()
    # 2 variants x 2 rates, and 2 variants x 2 choices; in the same cells the same rollouts
    assert len(trained) == 8
    assert {cell.seeds for cell in trained[:4]} == {(10, 11)}


def test_an_interrupted_study_goes_on(world_of, tmp_path, trained):
    settings = ComparisonSettings(**COMPARISON)
    first = compare("rewards", world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(trained) == 8
    files[3].unlink()
    trained.clear()
    again = compare("rewards", world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert len(trained) == 1
    for a, b in zip(first, again, strict=True):
        assert a.equals(b)
    # another setting is another cell
    trained.clear()
    compare("rewards", world_of(hidden=0.5), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert len(trained) == 8


def test_a_comparison_may_have_its_own_length_and_views(world_of, tmp_path, trained):
    settings = ComparisonSettings(**COMPARISON, candidates=8, steps=2, views=True)
    compare("tail", world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert {(cell.world.candidates, cell.learner.steps, cell.learner.views) for cell in trained} == {(8, 2, True)}
    # and by default the learner's
    trained.clear()
    looks = LEARNER.model_copy(update={"views": True})
    compare("rewards", world_of(), FeedbackSettings(), looks, ComparisonSettings(**COMPARISON), tmp_path)
    assert {cell.learner.views for cell in trained} == {True}


SHOWING = {
    **COMPARISON,
    "variants": (Variant(), ShownLists(lists=4)),
    "common_rate": None,
    "warm_up": WarmUp(steps=1, lists=2, learning_rate=0.05),
    "critics": (FeedbackSettings(name="exact"), FeedbackSettings(name="even", noise=0.3)),
    "requests": (8, 1000),
}


def test_lists_shown_and_rewarded(world_of, tmp_path, trained):
    curves, rates = show_or_reward(world_of(), LEARNER, ShowingSettings(**SHOWING), tmp_path)
    settings = [f"{critic}, {count} requests" for count in ("8", "1,000") for critic in ("exact", "even, noise 0.3")]
    assert list(dict.fromkeys(curves["setting"])) == list(dict.fromkeys(rates["setting"])) == settings
    # at their own best rates only, each chosen in its setting
    assert set(curves["choice"]) == {BEST}
    assert set(curves["variant"]) == {"swap causal, pooled", "4 lists shown"}
    assert rates.groupby(["setting", "variant"])["best"].sum().eq(1).all()
    used = curves.groupby(["setting", "variant"])["rate"].agg(["nunique", "first"])
    best = rates[rates["best"]].set_index(["setting", "variant"])["rate"]
    assert used["nunique"].eq(1).all()
    assert used["first"].to_dict() == best.to_dict()
    # 2 variants x 2 rates for tuning and 2 variants, in 4 settings
    assert len(trained) == 4 * 6
    assert {(cell.world.train, cell.feedback.noise) for cell in trained} == {
        (8, 0.0), (8, 0.3), (1000, 0.0), (1000, 0.3)
    }  # fmt: skip
    assert all(cell.warm_up == SHOWING["warm_up"] for cell in trained)
    # all from the same policies
    starts = curves[(curves["metric"] == "ndcg_at_k") & (curves["step"] == 0)]
    wide = starts.set_index(["setting", "seed", "variant"])["value"].unstack()
    assert wide["4 lists shown"].equals(wide["swap causal, pooled"].rename("4 lists shown"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"requests": (8, 8)}, "8 stands twice in `requests`"),
        ({"requests": (0,)}, "`requests` has 0; at least one is needed"),
        ({"critics": (SHOWING["critics"][1], SHOWING["critics"][1])}, "even, noise 0.3 stands twice in `critics`"),
        ({"variants": (ShownLists(lists=4), {"lists": 4})}, "a variant stands twice"),
        ({"variants": ({}, {"lists": 4, "item_reward": "none"})}, "item_reward"),
    ],
)
def test_lists_that_cannot_be_told_apart_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ShowingSettings(**{**SHOWING, **change})


def test_a_list_is_not_taken_for_a_reward():
    given = ComparisonSettings(**{**COMPARISON, "variants": ({"item_reward": "none"}, {"lists": 1}, {})})
    assert [variant.name for variant in given.variants] == ["sequence", "1 list shown", "swap causal, pooled"]
    assert given.variants[1].method().lists_per_step == 1


def test_critics_with_and_without_weights(world_of, tmp_path, trained):
    critics = (FeedbackSettings(name="even"), FeedbackSettings(name="uneven", spread=1.0))
    settings = WeightingSettings(need="trend", learning_rate=0.01, critics=critics, noises=(0.1, 0.3), seeds=SEEDS)
    curves = weigh(world_of(), LEARNER, settings, tmp_path)
    assert set(curves["setting"]) == {f"{name}, noise {noise}" for name in ("even", "uneven") for noise in (0.1, 0.3)}
    assert list(dict.fromkeys(curves["variant"])) == ["none", "group", "batch"]
    assert {(cell.feedback.name, cell.feedback.noise, cell.method.uncertainty.scope) for cell in trained} == {
        (name, noise, scope)
        for name in ("even", "uneven")
        for noise in (0.1, 0.3)
        for scope in ("none", "group", "batch")
    }
    weights = curves[curves["metric"] == "weight/spread_in_group"].groupby("variant")["value"].mean()
    assert weights["none"] == 0 < weights["group"]


def test_transfer(world_of, tmp_path, trained):
    settings = TransferSettings(learning_rate=0.01, seeds=SEEDS)
    curves = transfer(world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert [cell.trained for cell in trained] == [("interest",), ("trend",), ("interest", "trend")]
    asked = curves[curves["metric"] == "ndcg_at_5"]
    assert set(zip(asked["variant"], asked["need"], strict=True)) == {
        (variant, need) for variant in ("interest", "trend", JOINT) for need in ("interest", "trend")
    }
    ideal = curves[curves["variant"] == IDEAL]
    assert len(ideal) == 2 * 2
    assert set(ideal["metric"]) == {"tau/interest", "tau/trend"}


def test_directions_are_measured_once(world_of, tmp_path, monkeypatch):
    settings = GradientSettings(
        need="interest", variants=COMPARISON["variants"], start=(0, 2), learning_rate=0.01, batches=2,
        reference_batches=2, seeds=SEEDS,
    )  # fmt: skip
    table = directions(world_of(), FeedbackSettings(), LEARNER, settings, tmp_path)
    assert set(table["setting"]) == {"after 0 steps", "after 2 steps"}
    assert len(table) == 2 * 2 * 2 * 2
    monkeypatch.delattr("flexrec.planted.learning.Learners.rollouts")
    assert directions(world_of(), FeedbackSettings(), LEARNER, settings, tmp_path).equals(table)


def test_rates_are_not_chosen_on_the_seeds_that_are_reported():
    with pytest.raises(ValidationError, match="`tuning` and `seeds` overlap"):
        ComparisonSettings(**{**COMPARISON, "tuning": Seeds(first=1, count=3)})
    with pytest.raises(ValidationError, match="a variant stands twice"):
        ComparisonSettings(**{**COMPARISON, "variants": (Variant(), Variant())})
