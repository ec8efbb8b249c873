"""Rankings by everything that is no language model: the first rows to beat in every table."""

from flexrec.baselines.rankings import BASELINES, baseline_rankings, rank_by_score

__all__ = ["BASELINES", "baseline_rankings", "rank_by_score"]
