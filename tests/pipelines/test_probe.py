"""The probe of a trained policy in the test environment."""

from contextlib import redirect_stdout
from io import StringIO

import pandas as pd
import pytest
from omegaconf.errors import InterpolationResolutionError

from flexrec.errors import InputError
from flexrec.pipeline_registry import register_pipelines
from flexrec.pipelines.probe import create_pipeline
from flexrec.reporting.publish_pages import found_pages, pictures, published
from flexrec.selection import validate_selection
from flexrec.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS

SIZE = {"probe": {"instances": 6, "random_orders": 1, "gallery": 2}}


def test_a_trained_policy_is_asked_for_more_than_its_own_test(done) -> None:
    own = {node.name for node in create_pipeline().nodes}
    out = StringIO()
    with redirect_stdout(out):
        first = done.run(SIZE, pipeline_names=["probe"])
        second = done.run(SIZE, pipeline_names=["probe"])
    # everything upstream is there already, and the second time everything is
    assert first.ran == own
    assert second.ran == {"print_probe"}
    assert out.getvalue().count(done.load("probe_text", SIZE)) == 2

    with done.entered():
        catalog = done.catalog(SIZE)
        # what has a schema is checked while it is loaded
        made = {name: catalog[name].load() for name in sorted(create_pipeline().all_outputs())}
    assert all(made[name] is not None for name in made)
    chosen = set(made["probe_instances"]["instance_id"])
    assert len(chosen) == 6
    # all needs that the dataset can serve, as shown; the need trained for in three other orders
    for name in ("untrained", "warmed_up", "trained"):
        answers = made[f"probe_answers_{name}"]
        assert answers.groupby(["need", "arrangement"]).size().to_dict() == {
            **{(need, "shown"): 6 for need in ("interest", "explore", "trend", "fresh")},
            **{("trend", order): 6 for order in ("ideal", "reversed", "random_1")},
        }
        assert set(answers["instance_id"]) == chosen
        assert (answers["text"].str.split().map(len) == 6).all()
    assert set(made["probe_rankings"]["method"]) == {"random", "untrained", "warmed_up", "flexrec"}
    # asked of the same prompts, the same answers as in the evaluation
    keys = ["method", "need", "instance_id"]
    evaluated = done.load("rankings").set_index(keys)["ranking"]
    probed = made["probe_rankings"].query("need == 'trend' and method != 'random'").set_index(keys)["ranking"]
    same = [list(evaluated[key]) == list(ranking) for key, ranking in probed.items()]
    assert all(same)

    assert len(made["probe_switching_summary"]) == 3 * (6 + 1)
    assert made["probe_input_order_summary"].groupby("method").size().to_dict() == dict.fromkeys(
        ("untrained", "warmed_up", "flexrec"), 3
    )
    assert len(made["probe_gallery"]) == 2 * 4 * 3
    assert set(made["probe_metrics"]["probe"]) == {"transfer", "switching", "input_order"}
    assert "Gallery" in made["probe_page"]
    (page,) = found_pages([done.path / "data" / "08_reporting"]).items()
    assert page[0] == "fabricated-trend-tiny-flexrec-probe.md"
    text = published(page[1], page[0])
    assert "## Gallery" in text
    assert "\n\nMade by `" in text
    assert "density 0.1, seed 0." in text.partition("## ")[0]
    assert {file for file, _ in pictures(page[1], page[0]).items()} == {
        f"fabricated-trend-tiny-flexrec-probe-{name}.png" for name in ("transfer", "switching", "input_order")
    }
    assert isinstance(made["probe_instance_metrics"], pd.DataFrame)


def parameters(project_root, needs: str) -> dict:
    given = {"probe": {"needs": needs}}
    loader = CONFIG_LOADER_CLASS(str(project_root / "conf"), env="test", runtime_params=given, **CONFIG_LOADER_ARGS)
    return loader["parameters"]


def test_needs_are_chosen_as_those_to_train_for_are(project_root) -> None:
    chosen = parameters(project_root, "trend,explore")
    validate_selection(chosen)
    assert list(chosen["probe_needs"]) == ["explore", "trend"]
    with pytest.raises(InputError, match="the need search, which uses it, cannot be asked of it"):
        validate_selection(parameters(project_root, "search"))
    with pytest.raises(InterpolationResolutionError, match="need 'nothing' is unknown; choose among"):
        parameters(project_root, "nothing")


def test_the_default_run_does_not_hold_it() -> None:
    own = {node.name for node in create_pipeline().nodes}
    registered = {name: {node.name for node in pipeline.nodes} for name, pipeline in register_pipelines().items()}
    assert own < registered["probe"]
    assert not own & registered["__default__"]
