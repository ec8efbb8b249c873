"""What every method of `methods.yml` promises, on one small planted problem: a candidate's word is its gain.

Training holds every order of the candidates once and nothing else that differs, and every step visits them all: a
policy that does not read the words earns `CHANCE`, whatever letters it prefers. The base model has just begun to read
them, so that a few steps can be seen.
"""

import gc
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from flexrec.policy import models
from flexrec.policy.ranker import Query, Ranker
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.prompting import PromptSettings
from flexrec.prompting.settings import WordDisplay
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances
from flexrec.ranking.metrics import ndcg
from flexrec.ranking.needs import Need
from flexrec.rl.costs import COSTS
from flexrec.rl.examples import make_examples
from flexrec.rl.settings import MethodEntry, MethodSettings, RlSettings, WarmUpSettings
from flexrec.rl.training import train_on_tables
from flexrec.rl.warm_up import add_adapter, warm_up

ROOT = Path(__file__).parents[2]
METHODS = yaml.safe_load((ROOT / "conf" / "base" / "methods.yml").read_text())["methods"]
K = 3
# by the word that is shown of a candidate
GAINS = np.array([0.0, 0.5, 3.0])
# the critic is not equally sure of all, and least of what nobody should rank high
VARIANCES = np.array([0.3, 0.2, 0.1])
ORDERS = [*itertools.permutations(range(K))]
CHANCE = float(np.mean([ndcg(GAINS[list(order)]) for order in ORDERS]))
PROMPT = PromptSettings(
    system="",
    user="{candidates}\n{instruction}",
    line="{signals} {id}",
    signals={"trend": WordDisplay(words=("cold", "cool", "mild"))},
)
RL = RlSettings(
    steps=10,
    prompts_per_step=len(ORDERS),
    rollouts=8,
    learning_rate=4e-3,
    kl=0.001,
    validate_every=100,
    save_every=5,
)
MARGIN = 0.06
HALF = RL.model_copy(update={"steps": 5})
NEED = Need.model_validate(
    {
        "instruction": "Rank.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)


def tables() -> dict[str, pd.DataFrame]:
    """Every order for training, and one instance for validation."""
    rows, gains = [], []
    for number, order in enumerate([*ORDERS, ORDERS[0]]):
        candidates = [10 * number + place for place in range(K)]
        rows.append(
            {
                Columns.INSTANCE_ID: number,
                Columns.USER_ID: number,
                Columns.SPLIT: "train" if number < len(ORDERS) else "validation",
                Columns.QUERY_TIME: 1000,
                Columns.HISTORY_ITEMS: [90],
                Columns.HISTORY_ENGAGEMENTS: [4.0],
                Columns.CANDIDATES: candidates,
                Columns.QUERY: "",
                Columns.TREND: [float(word) for word in order],
                Columns.OBSERVED_ENGAGEMENT: [np.nan] * K,
                **{
                    name: [0.0] * K
                    for name in (
                        Columns.SIMILARITY,
                        Columns.NICHE,
                        Columns.POPULARITY,
                        Columns.QUALITY,
                        Columns.RECENCY,
                    )
                },
            }
        )
        gains.append(
            {
                Columns.INSTANCE_ID: number,
                Columns.NEED: "trend",
                Columns.MEAN: GAINS[list(order)].tolist(),
                Columns.VARIANCE: VARIANCES[list(order)].tolist(),
            }
        )
    frame = pd.DataFrame(gains)
    names = sorted({item for row in rows for item in row[Columns.CANDIDATES] + row[Columns.HISTORY_ITEMS]})
    return {
        "labelled_instances": pd.DataFrame(rows),
        "items": pd.DataFrame(
            {
                Columns.ITEM_ID: names,
                Columns.SOURCE_ID: [str(name) for name in names],
                Columns.TITLE: [f"Film {name}" for name in names],
                Columns.TEXT: [f"Film {name}" for name in names],
                Columns.TOPICS: [["Drama"] for _ in names],
                Columns.RELEASED: [2000.0] * len(names),
            }
        ),
        "training_gains": frame[frame[Columns.INSTANCE_ID] < len(ORDERS)],
        "true_gains": frame[[Columns.INSTANCE_ID, Columns.NEED, Columns.MEAN]]
        .rename(columns={Columns.MEAN: Columns.GAINS})
        .tail(1),
    }


@pytest.fixture(scope="module")
def quick(tiny_folder):
    """Loads the tokenizer once, which takes longer than training; it is the same for all."""
    tokenizer = models.load_tokenizer(tiny_folder)
    # every training ends with a collection, which need not look at all that the test session has loaded
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_tokenizer", lambda folder: tokenizer)
        yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def reader(once, tiny_folder) -> Path:
    """The tiny model after a few steps on optimal lists: it has begun to tell one word from another."""

    def make(folder: Path) -> None:
        model = add_adapter(models.load_base(tiny_folder), AdapterSettings(kind="full"), seed=0)
        ranker = Ranker(model, models.load_tokenizer(tiny_folder), PROMPT, DecodingSettings())
        data = tables()
        shown = data["labelled_instances"]
        instances = read_instances(shown[shown[Columns.SPLIT] == "train"], data["items"])
        examples = make_examples(
            instances, data["training_gains"], {"trend": NEED}, mean=Columns.MEAN, variance=Columns.VARIANCE
        )
        settings = WarmUpSettings(steps=20, lists_per_step=16, learning_rate=3e-3)
        warm_up(ranker, examples, settings=settings, work_folder=folder / "work", seed=0)
        model.save_pretrained(folder)
        ranker.tokenizer.save_pretrained(folder)

    return once("reader", make)


@pytest.fixture(scope="module")
def made() -> dict[str, SimpleNamespace]:
    """Trainings by what they depend on."""
    return {}


@pytest.fixture(scope="module", params=list(METHODS))
def trained(request, reader, tmp_path_factory, quick, made) -> SimpleNamespace:
    """The policy of a method, its curves and checkpoints, and what half as many steps make.

    What stands for unobserved labels is in the tables of a training, which are the same here: methods that differ by it
    alone are one.
    """
    method = MethodEntry.model_validate(METHODS[request.param]).root
    if not isinstance(method, MethodSettings) and method.adapter is not None:
        # queries and values alone, with dropout, learn more slowly
        method = method.model_copy(update={"learning_rate": 3 * RL.learning_rate})
    key = method.model_dump_json(exclude={"gains"})
    if key in made:
        return made[key]
    work = tmp_path_factory.mktemp(request.param)

    def train(settings, folder):
        return train_on_tables(
            reader,
            None,
            **tables(),
            needs={"trend": NEED},
            prompt=PROMPT,
            decoding=DecodingSettings(),
            method=method,
            settings=settings,
            seed=1,
            work_folder=work / folder,
            adapter=AdapterSettings(rank=8, alpha=32),
            warm_up=WarmUpSettings(steps=0),
        )

    ranker, curves = train(RL, "whole")
    _, half = train(HALF, "half")
    made[key] = SimpleNamespace(method=method, ranker=ranker, curves=curves, half=half, work=work)
    return made[key]


def curve(trained, name) -> list[float]:
    curves = trained.curves
    return curves[curves["metric"] == name].sort_values("step")["value"].tolist()


class TestEveryMethod:
    """Every entry of `methods.yml`."""

    def test_improves_what_it_is_trained_for(self, trained):
        if isinstance(trained.method, MethodSettings):
            reward = curve(trained, "reward")
            assert len(reward) == RL.steps
            right = 0.0 if trained.method.format_reward is None else trained.method.format_reward[0]
            before, after = np.mean(reward[:2]) - right, np.mean(reward[-2:]) - right
            # 2 steps of 48 answers: a standard error of about 0.02
            assert after > before + MARGIN
            # only who reads the words earns more
            assert after > CHANCE + MARGIN
        else:
            loss = curve(trained, "loss")
            # of all orders alike, the best that can be said without reading is that of chance
            assert np.mean(loss[-2:]) < 0.9 * min(np.mean(loss[:2]), np.log(len(ORDERS)) / K)

    def test_is_deterministic(self, trained):
        """Training anew, for half as long, passes through the same weights and curves, bit for bit."""
        both = trained.curves[trained.curves["step"].between(1, HALF.steps)].reset_index(drop=True)
        again = trained.half[trained.half["step"].between(1, HALF.steps)].reset_index(drop=True)
        names = set(both["metric"])
        # the end of a training is looked at once more
        again = again[again["metric"].isin(names)].reset_index(drop=True)
        pd.testing.assert_frame_equal(both, again, check_exact=True)
        saved = sorted((trained.work / "whole" / f"checkpoint-{HALF.steps}").glob("*.safetensors"))
        assert saved
        for file in saved:
            assert file.read_bytes() == (trained.work / "half" / file.parent.name / file.name).read_bytes()

    def test_saves_loads_and_ranks(self, trained, reader, tmp_path):
        ranker, data = trained.ranker, tables()
        instances = read_instances(data["labelled_instances"], data["items"])
        queries = [Query(instance, NEED) for instance in instances]
        answers = ranker.rank(queries)
        assert all(sorted(answer.order) == list(range(K)) for answer in answers)
        models.save_policy(ranker.model, tmp_path, base_name="tiny")
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
        again = Ranker(models.load_policy(reader, tmp_path), ranker.tokenizer, PROMPT, DecodingSettings())
        assert again.rank(queries) == answers

    def test_reports_its_costs(self, trained):
        last = {name: curve(trained, f"cost/{name}")[-1] for name in COSTS}
        assert last["updates"] == RL.steps
        assert last["answer_tokens"] >= K * last["prompts"]
        assert last["prompt_tokens"] > 20 * last["prompts"]
        if isinstance(trained.method, MethodSettings):
            assert last["rollouts"] == RL.steps * RL.prompts_per_step * RL.rollouts
            assert last["answer_tokens"] == last["sampled_tokens"] == K * last["rollouts"]
        else:
            assert last["rollouts"] == last["sampled_tokens"] == 0

    def test_curves_are_finite_and_told_by_rank(self, trained):
        curves = trained.curves
        assert curves["value"].map(np.isfinite).all()
        if isinstance(trained.method, MethodSettings):
            ranks = {f"advantage/std_at_rank_{rank:02d}" for rank in range(1, K + 1)}
            assert ranks | {"weight/low", "weight/high", "kl", "entropy"} <= set(curves["metric"])
            of_values = {"value/loss", "value/explained_variance"}
            assert (of_values <= set(curves["metric"])) == (trained.method.algorithm == "ppo")
