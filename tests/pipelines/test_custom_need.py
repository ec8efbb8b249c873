"""A need that the paper does not have, from its YAML to its gains, and the page that tells how."""

import re

import numpy as np
import yaml

from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import SIGNALS


def page(project_root) -> str:
    return (project_root / "docs" / "needs.md").read_text(encoding="utf-8")


def test_the_page_shows_the_entry_as_it_is(project_root) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", page(project_root), flags=re.DOTALL)
    needs = yaml.safe_load((project_root / "conf" / "base" / "needs.yml").read_text(encoding="utf-8"))["needs"]
    assert yaml.safe_load(shown) == {"fresh": needs["fresh"]}


def test_the_page_names_every_signal(project_root) -> None:
    assert tuple(re.findall(r"^\| `(\w+)` \|", page(project_root), flags=re.MULTILINE)) == SIGNALS


def test_gains_of_recent_releases(done) -> None:
    run = done.run({"need": "fresh"}, pipeline_names=["data"])
    # everything before the gains is there already
    assert run.ran == {"label_gains", "report_task", "print_task"}
    gains = done.load("true_gains", {"need": "fresh"}).set_index(Columns.INSTANCE_ID)
    labelled = done.load("labelled_instances").set_index(Columns.INSTANCE_ID)
    assert set(gains[Columns.NEED]) == {"fresh"}
    assert len(gains) == (labelled[Columns.SPLIT] != "train").sum()
    spread = 0
    for instance_id, row in gains[Columns.GAINS].items():
        expected = np.zeros(len(row))
        for signal in (Columns.SIMILARITY, Columns.RECENCY):
            values = np.asarray(labelled.loc[instance_id, signal], dtype=np.float64)
            if np.ptp(values) > 0:
                expected += 0.5 * (values - values.min()) / np.ptp(values)
        spread += np.ptp(labelled.loc[instance_id, Columns.RECENCY]) > 0
        np.testing.assert_allclose(row, expected, atol=1e-12)
    # the made-up films have years from 1950 to 1999
    assert spread == len(gains)
