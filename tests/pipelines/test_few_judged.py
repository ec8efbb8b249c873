"""ESCI with all judged products where there are K or fewer: lists of many lengths, from the files to the metrics."""

import numpy as np

from flexrec.critic.completion import SHORTER, SILENT
from flexrec.ranking.columns import Columns

K = 24
ASKED = {
    "dataset": "fabricated-esci",
    "need": "search",
    "density": 1.0,
    "datasets": {"fabricated-esci": {"source_options": {"scale": 0.002, "fewest_judged": 2}, "candidates": K}},
}


def test_queries_with_few_judged_products_are_ranked_whole(fresh) -> None:
    run = fresh.run(ASKED, pipeline_names=["evaluate"])
    with fresh.entered():
        interactions = fresh.catalog(ASKED)["interactions"].load().to_pandas()
    judged = interactions.groupby(Columns.USER_ID)[Columns.ITEM_ID].agg(set)
    labelled = fresh.load("labelled_instances", ASKED).set_index(Columns.INSTANCE_ID)
    sizes = labelled[Columns.CANDIDATES].map(len)
    for row in labelled.itertuples():
        if len(judged[row.user_id]) <= K:
            assert set(row.candidates) == judged[row.user_id]
        else:
            assert len(row.candidates) == K
    test = labelled[labelled[Columns.SPLIT] == "test"]
    assert sizes[test.index].nunique() > 3

    # a step of training takes lists of K, and says so
    train = labelled[labelled[Columns.SPLIT] == "train"]
    report = fresh.load("training_gains_report", ASKED)["training_gains"]["search"]
    gains = fresh.load("training_gains", ASKED).set_index(Columns.INSTANCE_ID)[Columns.MEAN]
    teaching = gains[gains.map(np.ptp) > 0]
    assert report == {
        "instances": len(train),
        SILENT: len(train) - len(teaching),
        SHORTER: sum(len(row) < K for row in teaching),
    }
    assert 0 < report[SHORTER] < len(teaching)
    said = f"{report[SHORTER]} of {len(train)} training prompts are left out: they have fewer than {K} candidates"
    # before the warm-up and before the training
    assert sum(said in line for line in run.lines) == 2

    # every method ranks the whole list of every query, and is measured by it
    rankings = fresh.load("rankings", ASKED)
    true = fresh.load("true_gains", ASKED).set_index(Columns.INSTANCE_ID)[Columns.GAINS]
    metrics = fresh.load("instance_metrics", ASKED).set_index(["method", Columns.INSTANCE_ID])["ndcg_at_30"]
    assert {"untrained", "warmed_up", "flexrec", "retriever", "lambdamart"} <= set(rankings["method"])
    for row in rankings.itertuples():
        candidates = list(labelled.at[row.instance_id, Columns.CANDIDATES])
        assert sorted(row.ranking) == sorted(candidates)
        gain = dict(zip(candidates, true[row.instance_id], strict=True))
        discounts = 1 / np.log2(np.arange(2, len(candidates) + 2))
        ideal = np.sort(list(gain.values()))[::-1] @ discounts
        found = [gain[item] for item in row.ranking] @ discounts
        expected = found / ideal if ideal else 0.0
        np.testing.assert_allclose(metrics[row.method, row.instance_id], expected, rtol=1e-6)
