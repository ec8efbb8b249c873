"""The names of the models that no method has trained, and of the metrics in the order of every table."""

UNTRAINED, WARMED_UP = "untrained", "warmed_up"
"""The base model as it comes, and after supervised warm-up: what stands in the column of methods."""

QUALITY_METRICS = ("ndcg_at_5", "ndcg_at_10", "ndcg_at_30", "recall_at_5", "precision_at_5", "mrr_at_5")
"""Larger is better; compared and tested between methods."""

DIAGNOSTIC_METRICS = ("kendall_tau", "invalid_rate", "repeated_rate", "missing_rate")
"""They describe how a method answers; reported, never tested."""

METRICS = QUALITY_METRICS + DIAGNOSTIC_METRICS
