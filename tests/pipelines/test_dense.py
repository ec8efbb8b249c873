"""KuaiRec with every label observed (`density=1.0`): training learns from the labels, and no critic is needed."""

import pytest

from flexrec.critic.completion import training_gains
from flexrec.ranking.columns import Columns
from whole_project import WholeProject

ASKED = {
    "dataset": "fabricated-kuairec",
    "need": "interest",
    "density": 1.0,
    "task": {"candidates": 8, "instances": {"train": 40, "validation": 4, "test": 8}},
}


def test_the_gains_of_training_are_the_labels(fork_server, tmp_path) -> None:
    project = WholeProject(tmp_path / "project", fork_server)
    project.edit("conf/base/datasets.yml", "scale: 0.002", "scale: 0.0005")
    project.run(ASKED, pipeline_names=["critic"])
    gains = project.load("training_gains", ASKED).set_index(Columns.INSTANCE_ID)
    labelled = project.load("labelled_instances", ASKED)
    train = labelled[labelled[Columns.SPLIT] == "train"]
    assert len(gains) == len(train) == 40
    with project.entered():
        interactions = project.catalog(ASKED)["interactions"].load().to_pandas()
    watched = interactions.set_index([Columns.USER_ID, Columns.ITEM_ID])[Columns.ENGAGEMENT]
    for row in train.itertuples():
        # the watch ratio as it is, and nothing that a model says
        labels = watched.loc[[(row.user_id, item) for item in row.candidates]].tolist()
        assert gains.at[row.instance_id, Columns.MEAN].tolist() == labels
        assert set(gains.at[row.instance_id, Columns.VARIANCE]) == {0.0}
    # the same from the labels alone, without a prediction
    predictions = project.load("critic_predictions", ASKED)
    needs = project.load("params:needs_asked", ASKED)
    alone = training_gains(labelled, predictions.head(0), needs.root, "linear", completion="observed")
    for name in (Columns.MEAN, Columns.VARIANCE):
        assert alone.set_index(Columns.INSTANCE_ID)[name].map(list).equals(gains[name].map(list))
    assert project.load("training_gains_report", ASKED)["training_gains"]["interest"]["instances"] == 40


def test_with_a_tenth_observed_they_are_not(fork_server, tmp_path) -> None:
    """The other side of it: what the test above compares can differ."""
    asked = ASKED | {"density": 0.1}
    project = WholeProject(tmp_path / "project", fork_server)
    project.edit("conf/base/datasets.yml", "scale: 0.002", "scale: 0.0005")
    project.run(asked, pipeline_names=["critic"])
    variances = [value for row in project.load("training_gains", asked)[Columns.VARIANCE] for value in row]
    assert sum(value > 0 for value in variances) / len(variances) == pytest.approx(0.9, abs=0.08)
