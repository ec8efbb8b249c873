import re

import plotly.graph_objects as go
import pytest

from flexrec.errors import InputError
from flexrec.fingerprint import Sidecar
from flexrec.reporting.publish_pages import found_pages, main, pictures, publish, published
from flexrec.reporting.style import finish
from flexrec.reporting.tables import facts_markdown

FACTS = {
    "command": "kedro run --pipeline=study --params study=mine",
    "commit": "abc",
    "uncommitted changes": True,
    "seeds": [0, 1],
    "runs": "3 of 4",
    "runs made": "2026-01-01 to 2026-01-02",
    "hardware": {"cpu": "A CPU", "cores": 2},
}


def page(path, text, session="2026-02-03T04.05.06.789Z"):
    """A page as a pipeline leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n\n| a \\1 | 0.5 |\n\n" + facts_markdown(FACTS))
    Sidecar(
        dataset="page", node="write", fingerprint="f", parts={}, content="c", size=1, seconds=1.0,
        session=session, mlflow_run=None,
    ).write(path)  # fmt: skip
    return path


@pytest.fixture
def study(tmp_path):
    return page(tmp_path / "study" / "mine" / "tables.md", "## A study")


def test_a_study_is_published_as_it_was_written(study, tmp_path, capsys):
    main([str(study.parents[1]), "--docs", str(tmp_path / "docs")])
    file = tmp_path / "docs" / "study-mine.md"
    assert capsys.readouterr().out == f"Published:\n  {file}\n"
    lines = file.read_text().splitlines()
    assert lines[0] == "# study-mine"
    assert lines[2] == (
        "Made by `kedro run --pipeline=study --params study=mine` at commit abc with uncommitted changes, "
        "2026-02-03, on A CPU (2 cores); from 3 of 4 runs, made 2026-01-01 to 2026-01-02, seeds 0, 1."
    )
    assert file.read_text().endswith(study.read_text())


def test_a_page_keeps_its_own_heading(tmp_path):
    path = page(tmp_path / "planted" / "planted.md", "# A world\n\nIt is made up.")
    assert published(path, "planted.md").startswith("# A world\n\nMade by `kedro run")
    assert "seeds 0, 1.\n\nIt is made up.\n\n| a" in published(path, "planted.md")


def test_of_several_versions_the_newest(tmp_path):
    model = tmp_path / "ml-100k" / "density-0.1_seed-0" / "query_rewrite" / "small"
    for version in ("2026-01-02", "2026-01-03", "2026-01-01"):
        page(model / "rewrite_results.md" / version / "rewrite_results.md", version)
    newest = model / "rewrite_results.md" / "2026-01-03" / "rewrite_results.md"
    assert found_pages([tmp_path]) == {"ml-100k-query_rewrite-small.md": newest}
    assert found_pages([newest.parent]) == found_pages([newest]) == found_pages([tmp_path, model])


def test_pages_of_one_run_are_told_apart(tmp_path):
    """As the catalog places them, each in its versions."""
    task = tmp_path / "ml-100k" / "density-0.1_seed-0" / "interest+trend"
    for folder, name in (
        (task / "small+predictions" / "flexrec", "probe.md"),
        (task / "small+predictions" / "flexrec", "forgetting.md"),
        (task / "small" / "flexrec", "probe.md"),
        (task / "small" / "chat" / "local", "chat.md"),
    ):
        for version in ("2026-01-01", "2026-01-02"):
            page(folder / name / version / name, f"# {folder.name} {version}")
    found = found_pages([tmp_path])
    assert sorted(found) == [
        "ml-100k-interest+trend-small+predictions-flexrec-forgetting.md",
        "ml-100k-interest+trend-small+predictions-flexrec-probe.md",
        "ml-100k-interest+trend-small-chat-local.md",
        "ml-100k-interest+trend-small-flexrec-probe.md",
    ]
    assert {path.parent.name for path in found.values()} == {"2026-01-02"}
    # the same run with another seed would take the name
    page(tmp_path / "ml-100k" / "density-0.1_seed-1" / "interest+trend" / "small" / "flexrec" / "probe.md", "# x")
    with pytest.raises(InputError, match=r"two pages would both become ml-100k-interest\+trend-small-flexrec-probe"):
        found_pages([tmp_path])


def test_figures_are_published_as_pictures(study, tmp_path):
    figures = study.parent / "figures"
    figures.mkdir()
    for name, points in {"critic": [1.0, 2.0], "results": [3.0], "weights": []}.items():
        data = [go.Scatter(x=points, y=points)] if points else []
        finish(go.Figure(data), f"What {name} [show]s", height=200).write_json(figures / f"{name}.json")
    docs = tmp_path / "docs"
    written = publish([study], docs=docs)
    # in the order of the study's page; the one that shows nothing is left out
    assert [file.name for file in written] == ["study-mine.md", "study-mine-results.png", "study-mine-critic.png"]
    text = written[0].read_text()
    below, facts = text.partition("## Figures")[2].partition("| fact |")[::2]
    links = re.findall(r"!\[(.*)\]\((.*)\)", below)
    assert [name for _, name in links] == ["study-mine-results.png", "study-mine-critic.png"]
    assert "What results" in links[0][0]
    assert "| seeds | 0, 1 |" in facts
    assert all((docs / name).read_bytes().startswith(b"\x89PNG") for _, name in links)
    before = {file: file.read_bytes() for file in written}
    publish([study], docs=docs)
    assert {file: file.read_bytes() for file in written} == before


def test_a_page_without_figures_says_nothing_of_them(tmp_path):
    path = page(tmp_path / "chat.md", "# A chat")
    assert "## Figures" not in published(path, "chat.md", pictures(path, "chat.md"))


def test_nothing_is_written_after_a_mistake(study, tmp_path):
    docs = tmp_path / "docs"
    with pytest.raises(InputError, match=r"nothing: no tables.md or .* there; run the pipeline first"):
        publish([study.parent, tmp_path / "nothing"], docs=docs)
    twin = tmp_path / "other" / "mine"
    twin.mkdir(parents=True)
    (twin / "tables.md").write_text("x")
    with pytest.raises(InputError, match=r"two pages would both become study-mine\.md"):
        publish([study.parent, twin], docs=docs)
    with pytest.raises(SystemExit, match=r"Error: .*is not what a pipeline writes"):
        main([str(twin), "--docs", str(docs)])
    assert not docs.exists()


def test_a_file_without_its_record_is_no_page(study):
    Sidecar.beside(study).unlink()
    with pytest.raises(InputError, match="its record"):
        published(study, "study-mine.md")
