"""What must not matter does not: hidden labels, labels of held-out users, and whatever happens after a query.

The graph's own nodes are called in its own order, from a changed table on; the rest is taken from a finished run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from kedro.framework.project import pipelines

from flexrec.fingerprint import content_digest
from flexrec.prompting import build_messages
from flexrec.ranking.completions import Completion
from flexrec.ranking.instances import read_instances

NEED = {"need": "interest+trend"}
"""One need that uses engagement and one that does not."""


def replay(project, pipeline: str, changed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the nodes after `changed` make of it: tables, and paths of folders."""
    catalog = project.catalog(NEED)
    data = dict(changed)
    with project.entered():
        nodes = pipelines[pipeline].from_inputs(*changed).nodes
        for node in nodes:
            if changed.keys() & set(node.outputs):
                continue
            inputs = {}
            for name in node.inputs:
                if name.endswith("_work"):
                    inputs[name] = folder / name
                elif name in data:
                    inputs[name] = data[name]
                else:
                    inputs[name] = catalog[name].load()
            for name, value in node.run(inputs).items():
                data[name] = value
                if isinstance(value, Callable):
                    data[name] = folder / name
                    data[name].mkdir(parents=True)
                    value(data[name])
    return data


def same(left: pd.DataFrame, right: pd.DataFrame) -> bool:
    """To the last bit; lists of numbers compare by their values, NaN equals NaN."""
    return left.map(repr).equals(right.map(repr))


def other_rating(ratings: pd.Series) -> pd.Series:
    """A different one for every rating."""
    return ratings % 5 + 1


@pytest.fixture(scope="module")
def observations(whole) -> pd.DataFrame:
    return whole.project.load("observations").to_pandas().sort_values("event_id", ignore_index=True)


# --- Labels ---


@pytest.fixture(scope="module")
def worlds(whole, observations, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything up to the trained policy, from the ratings and with garbage where nothing may look."""
    hidden = ~observations["observed"] | (observations["split"] != "train")
    garbage = observations["engagement"].where(~hidden, other_rating(observations["engagement"]))
    assert (garbage != observations["engagement"]).sum() == hidden.sum() > 0.9 * len(observations)
    true = replay(whole.project, "rl_train", {"observations": observations}, tmp_path_factory.mktemp("true"))
    spoilt = observations.assign(engagement=garbage)
    return true, replay(whole.project, "rl_train", {"observations": spoilt}, tmp_path_factory.mktemp("spoilt"))


def test_the_garbage_is_everywhere_it_may_be(worlds) -> None:
    true, spoilt = worlds
    for name in ("true_labels", "true_gains"):
        assert not same(true[name], spoilt[name]), name
    # the history of a held-out user holds labels that were observed: those count at its own query
    for name in ("instances", "labelled_instances", "critic_predictions"):
        assert not same(true[name], spoilt[name]), name
    curves = [world["rl_curves"].set_index("metric")["value"] for world in worlds]
    assert not curves[0]["validation/ndcg_at_5"].equals(curves[1]["validation/ndcg_at_5"])


def test_no_hidden_label_and_no_label_of_a_held_out_user_reaches_training(worlds) -> None:
    true, spoilt = worlds
    labelled = [world["labelled_instances"].query("split == 'train'") for world in worlds]
    assert same(*labelled)
    training = labelled[0]["instance_id"]
    tables = [world["critic_predictions"] for world in worlds]
    predictions = [table[table["instance_id"].isin(training)] for table in tables]
    assert len(predictions[0]) == len(training)
    assert same(*predictions)
    assert same(true["training_gains"], spoilt["training_gains"])
    for name in ("critic", "warm_up_policy", "policy"):
        assert content_digest(true[name]) == content_digest(spoilt[name]), name
    curves = [world["rl_curves"].query("not metric.str.startswith('validation/')") for world in worlds]
    assert same(*curves)


@pytest.mark.parametrize("completion", get_args(Completion))
def test_no_hidden_label_reaches_training_by_any_completion(worlds, whole, completion) -> None:
    catalog = whole.project.catalog(NEED)
    with whole.project.entered():
        (node,) = pipelines["critic"].only_nodes("complete_gains").nodes
        parameters = {name: catalog[name].load() for name in node.inputs if name.startswith("params:")}
    parameters["params:method_settings.root.gains"] = completion
    gains = [
        node.run(parameters | {name: world[name] for name in node.inputs if name not in parameters})["training_gains"]
        for world in worlds
    ]
    assert same(*gains)
    assert same(gains[0], worlds[0]["training_gains"]) == (completion == "critic")


def test_training_gains_are_made_of_the_labels_that_may_count(worlds, observations, tmp_path, whole) -> None:
    """The other way round: an observed label of a training user does change them."""
    true, _ = worlds
    usable = observations["observed"] & (observations["split"] == "train")
    ratings = observations["engagement"].where(~usable, other_rating(observations["engagement"]))
    changed = replay(whole.project, "critic", {"observations": observations.assign(engagement=ratings)}, tmp_path)
    assert not same(true["training_gains"], changed["training_gains"])
    assert content_digest(true["critic"]) != content_digest(changed["critic"])


def test_true_gains_of_validation_instances_never_change_the_weights(worlds, whole, tmp_path) -> None:
    true, _ = worlds
    kept = ("observations", "true_gains", "training_gains", "prompt_instances", "warm_up_policy")
    turned = true["true_gains"].assign(gains=true["true_gains"]["gains"].map(lambda gains: np.asarray(gains)[::-1]))
    given = {name: true[name] for name in kept} | {"true_gains": turned}
    catalog = whole.project.catalog(NEED)
    with whole.project.entered():
        (node,) = pipelines["rl_train"].only_nodes("train_rl").nodes
        inputs = {
            name: given[name] if name in given else catalog[name].load() for name in node.inputs if name != "rl_work"
        }
        outputs = node.run({**inputs, "rl_work": tmp_path / "work"})
    outputs["policy"](tmp_path)
    weights = "adapter_model.safetensors"
    assert content_digest(tmp_path / weights) == content_digest(true["policy"] / weights)
    curves = [table.set_index("metric")["value"] for table in (true["rl_curves"], outputs["rl_curves"])]
    assert not curves[0]["validation/ndcg_at_5"].equals(curves[1]["validation/ndcg_at_5"])


# --- Time ---


@pytest.fixture(scope="module")
def prompts(whole) -> Callable[[pd.DataFrame, int], dict[tuple[int, int], str]]:
    """What the model would read of the instances of a table, by user and time, up to a time."""
    catalog = whole.project.catalog(NEED)
    with whole.project.entered():
        needs, settings = catalog["params:needs_asked"].load().root, catalog["params:prompt"].load()
        items = catalog["items"].load()

    def prompts_of(labelled: pd.DataFrame, until: int) -> dict[tuple[int, int], str]:
        return {
            (instance.user_id, instance.query_time): repr(
                [build_messages(instance, n, settings) for n in needs.values()]
            )
            for instance in read_instances(labelled[labelled["query_time"] <= until], items)
        }

    return prompts_of


@pytest.fixture(scope="module", params=[0.25, 0.5, 1.0])
def now(request, whole) -> int:
    """A query time; what is changed lies at or after it."""
    return int(whole.project.load("instances")["query_time"].quantile(request.param, interpolation="nearest"))


def test_ratings_given_later_change_no_prompt(whole, observations, prompts, now, tmp_path) -> None:
    later = observations["timestamp"] >= now
    ratings = observations["engagement"].where(~later, other_rating(observations["engagement"]))
    changed = replay(whole.project, "data", {"observations": observations.assign(engagement=ratings)}, tmp_path)
    before = prompts(whole.project.load("labelled_instances"), now)
    assert len(before) >= 15
    assert prompts(changed["labelled_instances"], now) == before


def test_events_at_or_after_the_query_change_no_prompt(whole, observations, prompts, now, tmp_path) -> None:
    """Later ones vanish, move, become observed or hidden, and new ones come; the candidates alone are given."""
    instances = whole.project.load("instances").query("query_time <= @now")
    rng = np.random.default_rng(0)
    later = observations["timestamp"] >= now
    # a candidate is an item that the user will rate: that rating itself has to stay in some form
    pairs = instances[["user_id", "candidates"]].explode("candidates").drop_duplicates()
    keys = pd.MultiIndex.from_frame(observations[["user_id", "item_id"]])
    needed = keys.isin(pd.MultiIndex.from_frame(pairs.astype("int64")))
    changed = observations.assign(
        timestamp=observations["timestamp"] + np.where(later, rng.integers(0, 90 * 86_400, len(observations)), 0),
        observed=observations["observed"] ^ (later & (rng.random(len(observations)) < 0.5)),
        engagement=observations["engagement"].where(~later, other_rating(observations["engagement"])),
    )[~later | needed | (rng.random(len(observations)) < 0.5)]
    new = observations.sample(500, random_state=0)
    new = new.assign(user_id=new["user_id"] + 1000, timestamp=now, event_id=new["event_id"] + 10**6, observed=True)
    changed = pd.concat([changed, new], ignore_index=True)

    labelled = replay(whole.project, "data", {"instances": instances, "observations": changed}, tmp_path)
    before = prompts(whole.project.load("labelled_instances"), now)
    assert prompts(labelled["labelled_instances"], now) == before

    # the same one second earlier is seen
    new["timestamp"] = now - 1
    seen = pd.concat([changed, new.assign(user_id=new["user_id"] + 1000, event_id=new["event_id"] + 10**6)])
    labelled = replay(whole.project, "data", {"instances": instances, "observations": seen}, tmp_path)
    assert prompts(labelled["labelled_instances"], now) != before
