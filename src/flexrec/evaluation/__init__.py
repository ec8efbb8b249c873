"""From rankings and true labels to metrics per instance, and from those to means, intervals and tests."""

from flexrec.evaluation.rankings import evaluate_rankings, true_gains
from flexrec.evaluation.summary import headline_metrics, summarise

__all__ = ["evaluate_rankings", "headline_metrics", "summarise", "true_gains"]
