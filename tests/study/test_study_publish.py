import pytest

from flexrec.errors import InputError
from flexrec.fingerprint import Sidecar
from flexrec.reporting.tables import facts_markdown
from flexrec.study.publish import main, publish, study_page

FACTS = {
    "command": "kedro run --pipeline=study --params study=mine",
    "commit": "abc",
    "uncommitted changes": True,
    "seeds": [0, 1],
    "runs": "3 of 4",
    "runs made": "2026-01-01 to 2026-01-02",
    "hardware": {"cpu": "A CPU", "cores": 2},
}


@pytest.fixture
def study(tmp_path):
    """A folder as the pipeline leaves it."""
    path = tmp_path / "study" / "mine" / "tables.md"
    path.parent.mkdir(parents=True)
    path.write_text("## A study\n\n| a \\1 | 0.5 |\n\n" + facts_markdown(FACTS))
    Sidecar(
        dataset="study_markdown", node="tabulate", fingerprint="f", parts={}, content="c", size=1, seconds=1.0,
        session="2026-02-03T04.05.06.789Z", mlflow_run=None,
    ).write(path)  # fmt: skip
    return path


def test_a_study_is_published_as_it_was_written(study, tmp_path, capsys):
    main([str(study.parents[1]), "--docs", str(tmp_path / "docs")])
    page = tmp_path / "docs" / "study-mine.md"
    assert capsys.readouterr().out == f"Published:\n  {page}\n"
    lines = page.read_text().splitlines()
    assert lines[0] == "# Study: mine"
    assert lines[2] == (
        "Written by `kedro run --pipeline=study --params study=mine` at commit abc with uncommitted changes, "
        "2026-02-03, on A CPU (2 cores), from 3 of 4 runs made 2026-01-01 to 2026-01-02; seeds 0, 1."
    )
    assert page.read_text().endswith(study.read_text())


def test_nothing_is_written_after_a_mistake(study, tmp_path):
    docs = tmp_path / "docs"
    with pytest.raises(InputError, match=r"nothing: no tables.md there; run `make study` first"):
        publish([study.parent, tmp_path / "nothing"], docs=docs)
    twin = tmp_path / "other" / "mine"
    twin.mkdir(parents=True)
    (twin / "tables.md").write_text("x")
    with pytest.raises(InputError, match=r"two studies would both become study-mine\.md"):
        publish([study.parent, twin], docs=docs)
    with pytest.raises(SystemExit, match=r"Error: .*is not what `kedro run --pipeline=study` writes"):
        main([str(twin), "--docs", str(docs)])
    assert not docs.exists()


def test_a_file_without_its_record_is_no_study(study):
    Sidecar.beside(study).unlink()
    with pytest.raises(InputError, match="its record"):
        study_page(study)
