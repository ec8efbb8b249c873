"""Which of the critics that are compared is kept."""

from types import SimpleNamespace

import pandas as pd
import pytest

from flexrec.critic import examples, report, training
from flexrec.critic.settings import CriticSettings
from flexrec.pipelines.critic import nodes


@pytest.mark.parametrize("with_statistics", [False, True])
def test_what_is_kept_is_told_last(monkeypatch, with_statistics) -> None:
    """A study shows the last as the critic that training reads. Trained are stand-ins: the order is what is tested."""
    told: list[dict] = []
    monkeypatch.setattr(nodes, "observed_training_rows", lambda table: table)
    monkeypatch.setattr(examples, "build_examples", lambda *_, **__: SimpleNamespace(select=lambda part: part))
    monkeypatch.setattr(
        training, "train_critic", lambda _, variant, seed: (variant.item_statistics, pd.DataFrame({"epoch": [1]}))
    )
    monkeypatch.setattr(report, "compare_critics", lambda critics, _: told.append(critics) or ({}, None, None))
    settings = CriticSettings(item_statistics=with_statistics)
    _, curves, *_ = nodes.fit_critic(None, None, None, "linear", settings, 0)
    assert list(told[0].values()) == [not with_statistics, with_statistics]
    assert len(curves) == 2
