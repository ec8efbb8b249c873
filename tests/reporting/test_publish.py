"""Publishing: what the pipeline wrote reaches README and docs unchanged, and nothing else of them changes."""

import re
import shutil
from pathlib import Path

import pytest

from flexrec.errors import InputError
from flexrec.fingerprint import Sidecar
from flexrec.pipeline_registry import STAGES
from flexrec.reporting.publish import (
    duration,
    fill_times,
    main,
    newest_results,
    publish,
    read_result,
    replace_block,
    result_page,
    stage_seconds,
)
from flexrec.reporting.tables import facts_markdown

OLD, NEW = "2026-01-02T03.04.05.678Z", "2026-02-03T04.05.06.789Z"
RUN = "ml-100k/density-0.1_seed-0/trend/smollm2-135m/flexrec"
# a backslash with a digit would be read by a careless regular expression
TABLE = "The ranker reaches 0.856.\n\n### trend\n\n| method | NDCG@5 |\n| --- | --- |\n| item\\_mean \\1 | **0.9** |\n"
FACTS = {
    "command": "kedro run --params rl_note=a|b",
    "commit": "0123456789ab",
    "uncommitted changes": False,
    "density": "0.1",
    "seed": 7,
    "hardware": {"cpu": "A <fast> CPU", "cores": 2},
}
README = """# Title

text before

<!-- pipelines:begin -->
| pipeline | makes | time |
|---|---|---|
| `ingest` | tables, *all* | 999 s |
| `critic` | gains | - |
| `report` | a page | - |
<!-- pipelines:end -->

between <!-- not a marker -->

<!-- results:begin -->
stale
<!-- results:end -->

text after
"""


def content(**changes) -> str:
    return f"{TABLE}\n\n{facts_markdown(FACTS | changes)}\n"


def write_sidecar(path, *, dataset, node, stage, digest, inputs, seconds, session="1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Sidecar(
        dataset=dataset,
        node=node,
        fingerprint="f",
        parts={"code": {"flexrec": "0", f"flexrec.pipelines.{stage}.nodes": "1"}, "input": inputs},
        content=digest,
        size=1,
        seconds=seconds,
        session=session,
        mlflow_run=None,
    ).write(path)


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with two versions of one result, and the sidecars of what made the newer."""
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    data = tmp_path / "data"
    for version in (OLD, NEW):
        file = data / "08_reporting" / RUN / "results.md" / version / "results.md"
        file.parent.mkdir(parents=True)
        file.write_text(content(commit=version[:4] + version[5:7]), encoding="utf-8")
    write_sidecar(
        file,
        dataset="results_markdown",
        node="write_report",
        stage="report",
        digest="r",
        inputs={"summary": "s", "items": "i"},
        seconds=0.25,
    )
    tables = data / "02_intermediate" / "ml-100k"
    # a node with two outputs counts once; the bytes of `items` were made twice, the later run took 3 s
    made = {"dataset": "items", "node": "read_source", "stage": "ingest", "digest": "i", "inputs": {}}
    write_sidecar(tables / "items.parquet", **made, seconds=3.0, session="2")
    write_sidecar(tables / "copy.parquet", **made, seconds=50.0, session="1")
    write_sidecar(tables / "interactions.parquet", **made | {"dataset": "interactions", "digest": "a"}, seconds=3.0)
    write_sidecar(
        data / "06_models" / "critic",
        dataset="critic",
        node="fit_critic",
        stage="critic",
        digest="c",
        inputs={"items": "i", "interactions": "a"},
        seconds=90.0,
    )
    write_sidecar(
        data / "05_model_input" / "gains.parquet",
        dataset="summary",
        node="complete_gains",
        stage="critic",
        digest="s",
        inputs={"critic": "c"},
        seconds=30.5,
    )
    # made from other inputs: no part of this result
    write_sidecar(
        data / "05_model_input" / "other.parquet",
        dataset="summary",
        node="complete_gains",
        stage="critic",
        digest="another",
        inputs={},
        seconds=1000.0,
    )
    return tmp_path


def run(project: Path, *places: Path) -> list[Path]:
    return publish(
        places or [project / "data" / "08_reporting"], readme=project / "README.md", docs=project / "docs" / "results"
    )


def test_the_newest_version_reaches_readme_and_docs(project):
    (written,) = run(project)
    assert written == project / "docs" / "results" / "ml-100k-trend-smollm2-135m-flexrec.md"
    readme, page = (project / "README.md").read_text("utf-8"), written.read_text("utf-8")
    origin = (
        "Made by `kedro run --params rl_note=a|b` at commit 202602, 2026-02-03, on A <fast> CPU (2 cores); "
        "density 0.1, seed 7."
    )
    for text in (readme, page):
        assert TABLE.strip() in text
        assert origin in text
        assert "202601" not in text
    assert "stale" not in readme
    assert "[docs/results/ml-100k-trend-smollm2-135m-flexrec.md](docs/results/" in readme
    assert page.startswith("# trend on ml-100k: smollm2-135m, flexrec\n")
    assert facts_markdown(FACTS | {"commit": "202602"}).strip() in page


def test_nothing_outside_the_blocks_changes(project):
    run(project)
    readme = (project / "README.md").read_text("utf-8")

    def outside(text: str) -> str:
        for name in ("results", "pipelines"):
            text = re.sub(f"(<!-- {name}:begin -->).*(<!-- {name}:end -->)", r"\1\2", text, flags=re.DOTALL)
        return text

    assert outside(readme) == outside(README)


def test_publishing_twice_changes_nothing(project):
    files = [*run(project), project / "README.md"]
    before = [file.read_bytes() for file in files]
    run(project)
    assert [file.read_bytes() for file in files] == before


def test_times_are_those_of_the_nodes_behind_the_result(project):
    (path,) = newest_results([project / "data"])
    steps = read_result(path).steps
    assert [(step.stage, step.node, step.seconds) for step in steps] == [
        ("ingest", "read_source", 3.0),
        ("critic", "fit_critic", 90.0),
        ("critic", "complete_gains", 30.5),
        ("report", "write_report", 0.25),
    ]
    # critic: 90 + 30.5
    assert stage_seconds(steps) == {"ingest": 3.0, "critic": 120.5, "report": 0.25}
    run(project)
    readme = (project / "README.md").read_text("utf-8")
    assert "| `ingest` | tables, *all* | 3 s |\n| `critic` | gains | 2.0 min |\n| `report` | a page | < 1 s |" in readme
    assert "| critic | fit_critic | 90.0 |\n| critic | complete_gains | 30.5 |" in result_page(read_result(path))


def test_without_sidecars_there_are_no_times_and_old_ones_go(project):
    for sidecar in (project / "data").rglob("*.fingerprint.json"):
        sidecar.unlink()
    run(project)
    readme = (project / "README.md").read_text("utf-8")
    assert "| `ingest` | tables, *all* | - |" in readme
    assert "| node |" not in next((project / "docs" / "results").glob("*.md")).read_text("utf-8")


def test_a_page_of_another_density_or_seed_is_not_replaced(project):
    (page,) = run(project)
    before = (project / "README.md").read_text()
    for path in newest_results([project / "data" / "08_reporting"]):
        path.write_text(content(seed=8))
    with pytest.raises(InputError, match=rf"{re.escape(page.name)} is of seed 7, what would take its place of 8"):
        run(project)
    assert (project / "README.md").read_text() == before
    page.unlink()
    assert "seed | 8" in run(project)[0].read_text()


def test_one_file_may_be_named_by_its_path(project):
    run(project, project / "data" / "08_reporting" / RUN / "results.md" / OLD / "results.md")
    assert "202601" in (project / "README.md").read_text("utf-8")


def test_runs_stand_newest_first(project):
    folder = project / "data" / "08_reporting"
    other = folder / RUN.replace("trend", "interest,trend")
    shutil.copytree(folder / RUN / "results.md" / OLD, other / "results.md" / OLD)
    written = run(project)
    assert [file.stem for file in written] == [
        "ml-100k-trend-smollm2-135m-flexrec",
        "ml-100k-interest+trend-smollm2-135m-flexrec",
    ]
    readme = (project / "README.md").read_text("utf-8")
    assert readme.index("202602") < readme.index("202601")


def test_uncommitted_changes_are_said(project):
    path = project / "data" / "08_reporting" / RUN / "results.md" / NEW / "results.md"
    path.write_text(content(**{"uncommitted changes": True}), encoding="utf-8")
    assert "at commit 0123456789ab with uncommitted changes," in read_result(path).origin


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda project: shutil.rmtree(project / "data" / "08_reporting" / RUN), "run `make run` first"),
        (
            lambda project: (project / "README.md").write_text(README.replace("<!-- results:end -->", ""), "utf-8"),
            "needs the markers <!-- results:begin --> and <!-- results:end -->",
        ),
        (
            lambda project: (project / "README.md").write_text(README.replace("pipelines:begin", "x"), "utf-8"),
            "needs the markers <!-- pipelines:begin -->",
        ),
        (
            lambda project: [file.write_text("no facts") for file in project.rglob("results.md") if file.is_file()],
            "is not a result of the pipeline",
        ),
        (
            lambda project: shutil.copytree(
                project / "data" / "08_reporting" / RUN,
                project / "data" / "08_reporting" / RUN.replace("seed-0", "seed-1"),
            ),
            "two results would both become ml-100k-trend-smollm2-135m-flexrec.md",
        ),
    ],
)
def test_a_mistake_gives_one_message_and_writes_nothing(project, break_it, message):
    break_it(project)
    before = (project / "README.md").read_bytes()
    with pytest.raises(InputError, match=re.escape(message)):
        run(project)
    assert (project / "README.md").read_bytes() == before
    assert not (project / "docs").exists()


def test_a_file_elsewhere_is_refused(tmp_path):
    file = tmp_path / "results.md"
    file.write_text(content(), encoding="utf-8")
    with pytest.raises(InputError, match="is not a result of the pipeline"):
        read_result(file)


def test_the_command_line(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    main(["data/08_reporting"])
    assert "docs/results/ml-100k-trend-smollm2-135m-flexrec.md" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^Error: data/07_model_output: no results\.md there"):
        main(["data/07_model_output"])


def test_markers_that_stand_twice_are_refused():
    text = "<!-- results:begin -->\n<!-- results:end -->\n"
    with pytest.raises(InputError, match="each once"):
        replace_block(text + text, "results", "x")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "< 1 s"), (0.99, "< 1 s"), (1.4, "1 s"), (99.4, "99 s"), (99.5, "1.7 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_projects_readme_has_a_row_for_every_pipeline(project_root):
    text = (project_root / "README.md").read_text(encoding="utf-8")
    replace_block(text, "results", "")
    filled = fill_times(text, dict.fromkeys(STAGES, 1234.0))
    rows = re.findall(r"^\| `(\w+)` \|.*\| 20\.6 min \|$", filled, re.M)
    assert rows == list(STAGES)
