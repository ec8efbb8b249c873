"""The pipeline `headroom` through a whole session, beside a finished run of the project."""

import pandas as pd
import pytest

from flexrec.baselines.settings import FittedSettings
from flexrec.errors import InputError
from flexrec.evaluation.headroom import REFERENCE, ROWS
from flexrec.pipelines.headroom.nodes import measure_headroom
from flexrec.ranking.schemas import InstanceMetrics
from flexrec.ranking.task import TaskSettings
from flexrec.reporting.publish_pages import found_pages, published


def test_headroom(done, capsys) -> None:
    run = done.run(pipeline_names=["headroom"])
    assert run.ran == {"measure_headroom", "summarise_headroom", "tell_headroom", "print_headroom"}
    printed = capsys.readouterr().out
    catalog = done.catalog()
    with done.entered():
        metrics = InstanceMetrics.validate(catalog["headroom_instance_metrics"].load())
        found, figure = catalog["headroom"].load(), catalog["headroom_figure"].load()
        ranked = catalog["instance_metrics"].load().query("method == 'item_mean'")
        held_out = catalog["labelled_instances"].load().query("split != 'train'")
        (page,) = found_pages([done.path / "data" / "08_reporting"]).items()
    assert found["instances"] == len(held_out)
    assert metrics.groupby("method").size().to_dict() == {row.name: len(held_out) for row in ROWS}
    # both list metrics of the same rankings, for another need's gains
    reference = metrics.query("method == @REFERENCE").set_index("instance_id")
    assert reference.loc[ranked["instance_id"], "kendall_tau"].tolist() == ranked["kendall_tau"].tolist()
    assert [trace.name for trace in figure.data] == ["items: what is observed", "items: all interactions", "critic"]
    for words in ("Above the item mean", "Were everything known of the user too"):
        assert words in printed
    assert page[0] == "fabricated-headroom-density-0.1_seed-0.md"
    text = published(page[1], page[0])
    assert text.startswith("# Headroom above the item mean on fabricated\n\nMade by `")
    assert f"| {REFERENCE} |" not in text
    assert "| all interactions | all but the candidates | factorisation |" in text


def test_queries_have_no_history_to_know_more_of() -> None:
    task = TaskSettings.model_construct(context="query", source="esci")
    with pytest.raises(InputError, match="the requests of esci are queries; take a dataset of users"):
        measure_headroom(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), task, FittedSettings(), 0)
