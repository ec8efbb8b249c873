"""A study in the test environment: what is missing runs, what is there is reused, what is lost is made again."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import click
import pandas as pd
import pytest

from flexrec.pipelines.study import runs
from whole_project import Run, WholeProject

NAME = {"study": "smoke"}


class Study:
    """A project, and studies run in it; the processes of the runs are forks, which start in a second."""

    def __init__(self, project: WholeProject, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.started, self.printed = project, [], ""
        self.break_next: str | None = None

        def launch(command, *, folder, log, variables, lock):
            assert command[:3] == ["-m", "kedro", "run"]
            arguments = list(command[2:])
            if self.break_next and self.break_next in arguments[2]:
                arguments[2] += ",rl.steps=0"
            self.started.append(arguments[2].removeprefix("--params="))
            done = project.kedro(*arguments)
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(done.out + done.err)
            return done.status

        monkeypatch.setattr(runs, "launch", launch)

    def run(self, **parameters: object) -> Run:
        self.started.clear()
        out = StringIO()
        try:
            with redirect_stdout(out):
                return self.project.run({**NAME, **parameters}, pipeline_names=["study"])
        finally:
            self.printed = out.getvalue()

    def plan(self) -> str:
        out = StringIO()
        with redirect_stdout(out):
            self.project.run(NAME, pipeline_names=["study_plan"])
        return out.getvalue()

    @property
    def methods_and_seeds(self) -> list[tuple[str, int]]:
        """Of the runs that were started, in their order."""
        found = (dict(part.split("=", 1) for part in line.split(",")) for line in self.started)
        return [(one["method"], int(one["seed"])) for one in found]

    @property
    def folder(self) -> Path:
        return self.project.path / "data" / "08_reporting" / "study" / "smoke"


@pytest.fixture
def study(done, monkeypatch) -> Study:
    return Study(done, monkeypatch)


# waits for the whole chain, then runs three more
@pytest.mark.timeout(900)
def test_a_study_from_its_plan_to_its_tables(study):
    # the chain has been run for flexrec and seed 0
    study.break_next = "method=rec_r1_critic,seed=1"
    with pytest.raises(click.ClickException, match=r"(?s)1 of 4 runs are not done:.*seed 1: failed; .*rl\.steps"):
        study.run()
    said = "\n".join(study.project.last.lines)
    assert "study smoke: 4 runs, 1 up to date, 3 to make" in said
    assert "trend flexrec seed 0: up to date" in said
    assert study.methods_and_seeds == [("rec_r1_critic", 0), ("flexrec", 1), ("rec_r1_critic", 1)]
    markdown = (study.folder / "tables.md").read_text()
    assert "Failed: Rec-R1 + critic on trend, seed 1 (the row is of the other seeds): parameter" in markdown
    assert "Table 3: trend" in study.printed

    # what failed is tried again, what was lost is made again, and nothing else
    study.break_next = None
    study.project.outputs({"method": "rec_r1_critic"})["rankings_trained"].unlink()
    study.run()
    assert study.methods_and_seeds == [("rec_r1_critic", 0), ("rec_r1_critic", 1)]
    cells = pd.read_parquet(study.folder / "cells.parquet")
    assert cells["state"].tolist() == ["done"] * 4
    assert (cells["training_seconds"] > 0).all()
    assert (cells["answer_tokens"] > 0).all()
    instances = pd.read_parquet(study.folder / "instances.parquet")
    assert set(instances["seed"]) == {0, 1}
    assert {"untrained", "warmed_up", "flexrec", "rec_r1_critic"} <= set(instances["method"])
    (table,) = (study.folder / "tables").glob("*.csv")
    assert table.name == "table-3-fabricated-trend-density-0.1-tiny.csv"
    page = (study.folder / "study.html").read_text()
    assert "Who wins without an LLM" in page
    assert "Plotly.newPlot" in page
    for figure in ("results", "learning_by_steps", "learning_by_tokens", "critic", "advantage", "weights"):
        assert json.loads((study.folder / "figures" / f"{figure}.json").read_text())["layout"]

    # then there is nothing to do, and it takes no process to know
    run = study.run()
    assert study.started == []
    assert run.reused == {"compare_study", "tabulate_study", "draw_rows", "write_study_page"}

    # a seed as if it had been made elsewhere: nothing of it runs here, and the numbers stay
    study.run(study_options={"seeds": [1]})
    assert set(pd.read_parquet(study.folder / "instances.parquet")["seed"]) == {1}
    shutil.copytree(study.folder, study.project.path / "elsewhere" / "seed-1")
    study.project.outputs({"method": "rec_r1_critic", "seed": 1})["rankings_trained"].unlink()
    study.run(study_options={"parts": ["elsewhere"]})
    assert study.started == []
    pd.testing.assert_frame_equal(pd.read_parquet(study.folder / "instances.parquet"), instances)
    assert "taken from seed-1: seed 1" in "\n".join(study.project.last.lines)
    assert "1: seed-1" in (study.folder / "tables.md").read_text()


def test_a_study_that_cannot_be_run_is_refused_before_anything_runs(study):
    study.project.set("base/parameters_study.yml", studies={
        "smoke": {"title": "t", "grid": [
            {"needs": ["trend"], "methods": ["flexrec"]},
            {"needs": ["trend"], "methods": ["rlvr"], "overrides": ["critic.epochs=3"]},
        ]},
    })  # fmt: skip
    with pytest.raises(click.ClickException, match=r"same place, but not the same thing: parameter critic.epochs"):
        study.run()
    block = {"needs": ["trend"], "methods": ["flexrec"], "overrides": ["rl.step=3"]}
    study.project.set("base/parameters_study.yml", studies={"smoke": {"title": "t", "grid": [block]}})
    with pytest.raises(click.ClickException, match=r"trend flexrec seed 0: unknown parameter `rl\.step`"):
        study.run()
    block["overrides"] = ["rl.steps=2"]
    study.project.set("base/parameters_study.yml", studies={"smoke": {"title": "t", "grid": [block]}})
    assert "trend flexrec seed 0: about" in (plan := study.plan())
    assert "train_rl: parameter rl.steps changed from 3 to 2" in plan
    assert study.started == []
