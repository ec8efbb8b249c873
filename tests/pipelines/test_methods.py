"""Whole runs by methods of different kinds: what they share, what they add, and the same training from a file."""

from dataclasses import dataclass
from typing import Any, get_args

import click
import pandas as pd
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import CatalogProtocol

from flexrec.export import export
from flexrec.ranking.completions import Completion
from flexrec.rl.specification import run as run_specification
from flexrec.settings import CONFIG_LOADER_ARGS
from whole_project import FACTS, PRINTING, Run

OF_THE_METHOD = {
    "train_rl",
    "rank_trained",
    "measure",
    "compare",
    "draw_training",
    "draw_results",
    "write_report",
    *PRINTING,
}
OF_ITS_GAINS = {"complete_gains", "train_warm_up", "rank_warmed_up"}
METHODS = {
    "tallrec": OF_THE_METHOD,
    "ppo": OF_THE_METHOD,
    "rec_r1": OF_THE_METHOD | OF_ITS_GAINS,
    "user_knn": OF_THE_METHOD | OF_ITS_GAINS,
}
"""Methods of different kinds, and what each runs after flexrec."""


@dataclass(frozen=True)
class OneMethod:
    """What one run did, and its outputs and parameters."""

    run: Run
    catalog: CatalogProtocol


@pytest.fixture(scope="module")
def project(whole, tmp_path_factory):
    return whole.project.copy(tmp_path_factory.mktemp("methods") / "project")


@pytest.fixture(scope="module")
def runs(project):
    """All of them, run one after the other."""
    made = {method: project.run({"method": method}) for method in METHODS}
    return {method: OneMethod(run, project.catalog({"method": method})) for method, run in made.items()}


@pytest.fixture
def load(project, runs):
    """An output of a method's run."""

    def loaded(method: str, name: str) -> Any:
        with project.entered():
            return runs[method].catalog[name].load()

    return loaded


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_only_what_is_its_own(runs, method) -> None:
    assert runs[method].run.ran == METHODS[method]


@pytest.mark.parametrize("method", METHODS)
def test_its_results_stand_beside_the_others(load, method) -> None:
    summary = load(method, "summary")
    assert {"random", "untrained", "warmed_up", method} <= set(summary["method"])
    assert "flexrec" not in set(summary["method"])
    curves = load(method, "rl_curves")
    validation = curves[curves["metric"] == "validation/ndcg_at_5"]
    # fine-tuning with an adapter of its own makes the two updates of the warm-up as well
    steps = 5 if method == "tallrec" else 3
    assert validation["step"].tolist() == [step for step in (0, 2, 4) if step < steps] + [steps]
    last = curves[curves["step"] == steps].set_index("metric")["value"]
    # costs are counted from where the others begin
    assert last["cost/updates"] == 3
    assert last["cost/prompt_tokens"] > last["cost/answer_tokens"] > 0
    assert method in load(method, "report")


def test_what_was_made_before_is_left_alone(whole, project, runs) -> None:
    before, after = whole.project.digests(), project.digests()
    assert {name for name in before if before[name] != after[name]} <= FACTS


def test_figures_without_rewards_say_why_they_are_empty(load) -> None:
    for name, what in (("advantage_figure", "spread of advantages"), ("weights_figure", "uncertainty weights")):
        (note,) = load("tallrec", name).layout.annotations
        assert note.text == f"No {what}: TALLRec learned from optimal lists, not from rewards."
    panels = [note.text for note in load("tallrec", "training_figure").layout.annotations]
    assert "loss, nats per token of an optimal list" in panels


def test_its_own_adapter(load) -> None:
    config = yaml.safe_load((load("tallrec", "policy") / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.05)
    assert config["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("method", ["tallrec", "ppo"])
def test_the_same_bytes_from_a_file(project, load, method, tmp_path) -> None:
    with project.entered():
        file = export(project.path, tmp_path / "folder", env="test", parameters={"method": method})
    # what starts from the base model travels without the warm-up, and says what it makes up for
    assert (file.parent / "checkpoint").exists() == (method == "ppo")
    assert ("warm_up" in yaml.safe_load(file.read_text())) == (method == "tallrec")
    output = run_specification(file).parent
    policy = load(method, "policy")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (output / "policy" / name).read_bytes() == (policy / name).read_bytes(), name
    curves = pd.read_parquet(output / "rl_curves.parquet")
    pd.testing.assert_frame_equal(curves, load(method, "rl_curves"), check_exact=True)


def test_paths_hold_what_a_method_learns_from(project_root) -> None:
    """Of one method for each kind of gains: what depends on the method, and what on its gains alone."""
    table = yaml.safe_load((project_root / "conf" / "base" / "methods.yml").read_text())["methods"]
    chosen = {entry["gains"]: method for method, entry in table.items()}
    assert chosen.keys() == set(get_args(Completion))
    task = "ml-100k/density-0.1_seed-0/trend"
    for gains, method in chosen.items():
        given = {"method": method}
        catalog = OmegaConfigLoader(str(project_root / "conf"), runtime_params=given, **CONFIG_LOADER_ARGS)["catalog"]
        paths = {name: entry.get("filepath") for name, entry in catalog.items() if isinstance(entry, dict)}
        assert paths["training_gains"] == f"data/05_model_input/{task}/training_gains-{gains}.parquet"
        assert paths["warm_up_policy"] == f"data/06_models/{task}/smollm2-135m/gains-{gains}/warm_up_policy"
        assert paths["policy"] == f"data/06_models/{task}/smollm2-135m/{method}/policy"
        assert (
            paths["critic_predictions"] == "data/05_model_input/ml-100k/density-0.1_seed-0/critic_predictions.parquet"
        )


def test_an_unknown_method_is_refused_with_the_known_ones(project) -> None:
    with pytest.raises(click.ClickException, match=r"unknown method 'nope'\. Allowed: flexrec, rec_r1, .*, item_knn\."):
        project.run({"method": "nope"})
