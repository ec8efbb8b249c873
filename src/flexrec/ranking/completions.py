"""What stands for a label that is not observed, where a policy learns from it.

A module of its own, so that the settings of training do not depend on the formulas of gains.
"""

from typing import Literal

Completion = Literal["critic", "observed", "user_knn", "item_knn"]
"""The critic's prediction, nothing, or the prediction of neighbours."""
