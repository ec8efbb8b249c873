"""What every method of `methods.yml` promises, on one small planted problem: the place of a candidate is its gain.

A policy that learns anything learns this, whatever the reward: it has only to prefer some letters to others.
"""

import gc
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
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import read_instances
from flexrec.ranking.needs import Need
from flexrec.rl.costs import COSTS
from flexrec.rl.settings import MethodEntry, MethodSettings, RlSettings, WarmUpSettings
from flexrec.rl.training import train_on_tables

ROOT = Path(__file__).parents[2]
METHODS = yaml.safe_load((ROOT / "conf" / "base" / "methods.yml").read_text())["methods"]
K = 4
GAINS = np.array([0.5, 3.0, 0.0, 1.0])
# the critic is not equally sure of all, and least of what nobody should rank high
VARIANCES = np.array([0.1, 0.1, 0.3, 0.2])
PROMPT = PromptSettings(line="{signals}: {id}", signals={"trend": "word"}, history_line="{title}")
RL = RlSettings(
    steps=8, prompts_per_step=2, rollouts=16, learning_rate=2e-2, kl=0.001, validate_every=100, save_every=4
)
HALF = RL.model_copy(update={"steps": 4})
NEED = Need.model_validate(
    {
        "instruction": "Rank what trends first.",
        "terms": [{"factors": [{"signal": "trend"}]}],
        "relevant": {"rule": "top", "count": 2},
    }
)


def tables() -> dict[str, pd.DataFrame]:
    """Four training instances and one for validation."""
    rows, gains = [], []
    for number in range(5):
        rng = np.random.default_rng(number)
        candidates = [10 * number + place for place in range(K)]
        rows.append(
            {
                Columns.INSTANCE_ID: number,
                Columns.USER_ID: number,
                Columns.SPLIT: "train" if number < 4 else "validation",
                Columns.QUERY_TIME: 1000,
                Columns.HISTORY_ITEMS: [90 + number],
                Columns.HISTORY_ENGAGEMENTS: [4.0],
                Columns.CANDIDATES: candidates,
                Columns.QUERY: "",
                Columns.TREND: rng.permutation(K).astype(float).tolist(),
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
                Columns.MEAN: GAINS.tolist(),
                Columns.VARIANCE: VARIANCES.tolist(),
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
        "training_gains": frame[frame[Columns.INSTANCE_ID] < 4],
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


@pytest.fixture(scope="module", params=list(METHODS))
def trained(request, tiny_folder, tmp_path_factory, quick) -> SimpleNamespace:
    """The policy of a method, its curves and checkpoints, and what half as many steps make."""
    method = MethodEntry.model_validate(METHODS[request.param]).root
    if not isinstance(method, MethodSettings):
        method = method.model_copy(update={"learning_rate": RL.learning_rate})
    work = tmp_path_factory.mktemp(request.param)

    def train(settings, folder):
        return train_on_tables(
            tiny_folder,
            None,
            **tables(),
            needs={"trend": NEED},
            prompt=PROMPT,
            decoding=DecodingSettings(),
            method=method,
            settings=settings,
            seed=1,
            work_folder=work / folder,
            adapter=AdapterSettings(rank=4, alpha=16),
            warm_up=WarmUpSettings(steps=0),
        )

    ranker, curves = train(RL, "whole")
    _, half = train(HALF, "half")
    return SimpleNamespace(method=method, ranker=ranker, curves=curves, half=half, work=work)


def curve(trained, name) -> list[float]:
    curves = trained.curves
    return curves[curves["metric"] == name].sort_values("step")["value"].tolist()


class TestEveryMethod:
    """Every entry of `methods.yml`."""

    def test_improves_what_it_is_trained_for(self, trained):
        if isinstance(trained.method, MethodSettings):
            reward = curve(trained, "reward")
            assert len(reward) == RL.steps
            # 2 steps of 32 answers: a standard error of about 0.02
            assert np.mean(reward[-2:]) > np.mean(reward[:2]) + 0.06
        else:
            loss = curve(trained, "loss")
            assert np.mean(loss[-2:]) < 0.9 * np.mean(loss[:2])

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

    def test_saves_loads_and_ranks(self, trained, tiny_folder, tmp_path):
        ranker, data = trained.ranker, tables()
        instances = read_instances(data["labelled_instances"], data["items"])
        queries = [Query(instance, NEED) for instance in instances]
        answers = ranker.rank(queries)
        assert all(sorted(answer.order) == list(range(K)) for answer in answers)
        models.save_policy(ranker.model, tmp_path, base_name="tiny")
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
        again = Ranker(models.load_policy(tiny_folder, tmp_path), ranker.tokenizer, PROMPT, DecodingSettings())
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
