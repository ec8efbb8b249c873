"""What a change makes run again on the real graph, and what it leaves alone."""

import pytest

from whole_project import PRINTING

UP_TO_THE_LABELS = {
    "prepare_model",
    "read_source",
    "embed_items",
    "embed_queries",
    "observe",
    "retrieve_candidates",
    "label_candidates",
    # they do not depend on the need either
    "fit_critic",
    "plot_critic",
    "predict_gains",
}
OF_THE_NEED = {
    "label_gains",
    "report_task",
    "complete_gains",
    "show_instances",
    "train_warm_up",
    "train_rl",
    "rank_baselines",
    "rank_untrained",
    "rank_warmed_up",
    "rank_trained",
    "measure",
    "compare",
    "draw_training",
    "draw_results",
    "write_report",
    *PRINTING,
}
AFTER_RL = {
    "rank_trained",
    "measure",
    "compare",
    "draw_training",
    "draw_results",
    "write_report",
    *PRINTING,
}


def test_another_need(done, whole) -> None:
    run = done.command("--params", "need=explore")
    assert run.reused == UP_TO_THE_LABELS
    assert run.ran == OF_THE_NEED
    # the results of both stand side by side
    assert set(done.load("instance_metrics", {"need": "explore"})["need"]) == {"explore"}
    assert done.digests() == whole.project.digests()
    assert done.command().ran == PRINTING


def test_two_needs_at_once(done) -> None:
    run = done.command("--params", "need=interest+trend")
    assert (run.reused, run.ran) == (UP_TO_THE_LABELS, OF_THE_NEED)
    parameters = {"need": "interest+trend"}
    gains = done.load("training_gains", parameters)
    assert set(gains["need"]) == {"interest", "trend"}
    assert gains.groupby("instance_id").size().eq(2).all()
    summary = done.load("summary", parameters)
    assert set(summary["need"]) == {"interest", "trend"}
    curves = done.load("rl_curves", parameters)
    assert {f"validation/ndcg_at_5/{need}" for need in ("interest", "trend")} <= set(curves["metric"])
    # how the same two are written plays no part in what is made of them
    other = done.catalog({"need": "trend,interest"})
    assert list(other["params:needs_asked"].load().root) == ["interest", "trend"]


def test_a_stage_alone_makes_what_it_needs(fresh) -> None:
    run = fresh.command("--pipeline=critic")
    upstream = {"read_source", "embed_items", "embed_queries", "observe", "retrieve_candidates", "label_candidates"}
    assert run.ran == upstream | {"fit_critic", "plot_critic", "predict_gains", "complete_gains", "show_instances"}
    assert fresh.load("training_gains")["need"].unique().tolist() == ["trend"]
    # several, in Kedro's other way of asking
    run = fresh.command("--pipelines=data,critic")
    assert run.ran == {"label_gains", "report_task", "print_task"}


def test_a_part_of_the_graph_reuses_what_the_whole_has_made(done) -> None:
    for name in ("data", "critic", "warm_up", "evaluate"):
        assert done.run(pipeline_names=[name]).ran <= PRINTING, name


def test_a_setting_of_one_stage(done, whole) -> None:
    """Then the old policy is replayed, which the setting no longer describes."""
    old = done.outputs()["policy"].parent.name
    done.set("test/parameters.yml", rl={"steps": 1})
    run = done.command()
    assert run.reasons["train_rl"] == "parameter rl.steps changed from 3 to 1"
    # the model that one step makes may rank as before; then there is nothing to measure anew
    assert {"train_rl", "draw_training", "rank_trained", "write_report"} <= run.ran
    assert run.ran <= AFTER_RL | {"train_rl"}
    trained = done.digests()["policy"]
    assert trained != whole.project.digests()["policy"]

    run = done.command(f"--load-versions=policy:{old}")
    assert not {"train_rl", "train_warm_up"} & run.ran
    # with the curves of the same training
    assert {"rank_trained", "draw_training"} <= run.ran
    assert any("train_rl: not run" in line and f"rl_curves {old}" in line for line in run.lines)
    replayed = done.digests()
    first = whole.project.digests()
    for name in ("rankings_trained", "rankings", "instance_metrics", "summary", "metrics"):
        assert replayed[name] == first[name], name
    assert replayed["policy"] == trained


def test_edited_values(done) -> None:
    # of the report alone
    done.set("base/parameters_report.yml", report={"examples": 1})
    # entries of the tables that are not in use
    other = {"instruction": "?", "terms": [{"factors": [{"signal": "trend"}]}], "relevant": {"rule": "top"}}
    done.set("base/needs.yml", needs={"interest": other})
    done.set("base/methods.yml", methods={"other": {"algorithm": "grpo", "gains": "observed", "item_reward": "none"}})
    assert done.command().ran == {"write_report", *PRINTING}
    # of the comparison: the intervals change, the rankings do not
    done.set("test/parameters.yml", evaluate={"resamples": 300})
    assert done.command().ran == {"compare", "draw_results", "write_report", *PRINTING}


def test_the_entry_of_the_method(done) -> None:
    """How it learns reruns the training; what neighbours are reruns nothing where none are asked."""
    run = done.command("--params", "neighbours.count=3")
    assert run.ran == {"complete_gains", *PRINTING}
    done.set("base/methods.yml", methods={"flexrec": {"algorithm": "grpo", "gains": "critic", "item_reward": "none"}})
    run = done.command()
    assert run.reasons["train_rl"].startswith("parameter method_settings.")
    assert {"train_rl", "draw_training"} <= run.ran <= AFTER_RL | {"train_rl", "complete_gains"}


# --- Code ---


@pytest.fixture(scope="module")
def with_source(whole, tmp_path_factory):
    """A project with the package's source in it; every test leaves it run to the end."""
    return whole.project.copy(tmp_path_factory.mktemp("source") / "project").with_source()


def edited(project, file: str, old: str, new: str) -> set[str]:
    """What runs after an edit of a module, without the printing."""
    project.edit(f"src/flexrec/{file}", old, new)
    return project.command().ran - PRINTING


def test_the_source_in_the_project_counts_as_the_package(with_source) -> None:
    assert with_source.command().ran == PRINTING


def test_a_comment_or_a_docstring_reruns_nothing(with_source) -> None:
    for file, old, new in (
        ("ranking/gains.py", '"""Gains and their discounted sums', '"""Values, gains and their discounted sums'),
        ("ranking/gains.py", "# exp2, not expm1", "# a power of two"),
        ("rl/trainer.py", "class RankingTrainer(", "# The heart of it.\n\n\nclass RankingTrainer("),
        ("pipelines/rl_train/nodes.py", '"""Train the warmed-up policy', '"""Train the policy'),
    ):
        with_source.edit(f"src/flexrec/{file}", old, new)
    assert with_source.command().ran == PRINTING


def test_a_formula_reruns_its_users_and_what_they_change(with_source) -> None:
    before = with_source.digests()
    # the same numbers to the last bit, so nothing runs that only reads them
    assert edited(with_source, "ranking/gains.py", "np.exp2(values) - 1.0", "-1.0 + np.exp2(values)") == {
        "fit_critic",
        "predict_gains",
        "complete_gains",
        "show_instances",
        "label_gains",
        "report_task",
        "train_rl",
        "rank_baselines",
        "measure",
    }
    assert with_source.digests() == before
    # other intervals
    assert edited(
        with_source, "ranking/statistics.py", "default_rng(seed)\n    equal", "default_rng(seed + 1)\n    equal"
    ) == {
        "compare",
        "draw_results",
        "write_report",
    }
    after = with_source.digests()
    assert {name for name in after if after[name] != before[name]} == {
        "summary",
        "results_figure",
        "results_markdown",
        "results_text",
        "report",
    }
