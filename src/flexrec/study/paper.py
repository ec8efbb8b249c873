"""The paper's own numbers (arXiv 2603.11901), to stand beside those of the same dataset, need and regime."""

from dataclasses import dataclass

from flexrec.study.settings import Regime

_METRICS = ("ndcg_at_5", "ndcg_at_10", "ndcg_at_30", "recall_at_5", "precision_at_5", "mrr_at_5")

_TABLES = """
# table dataset need regime method trained_on model N@5 N@10 N@30 R@5 P@5 MRR@5
1 kuairec interest sparse bert4rec  - -          .415 .479 .706 .182 - .578
1 kuairec interest sparse star      - -          .384 .457 .697 .170 - .541
1 kuairec interest sparse untrained - GPT-4o     .376 .451 .695 .154 - .505
1 kuairec interest sparse untrained - Qwen2.5-3B .375 .451 .693 .160 - .515
1 kuairec interest sparse tallrec   - Qwen2.5-3B .507 .558 .730 .264 - .729
1 kuairec interest sparse rec_r1    - Qwen2.5-3B .391 .466 .700 .174 - .545
1 kuairec interest sparse rank_grpo - Qwen2.5-3B .389 .462 .698 .174 - .520
1 kuairec interest sparse flexrec   - Qwen2.5-3B .597 .635 .788 .335 - .840
1 ml-1m   interest sparse bert4rec  - -          .502 .560 .796 - .128 .231
1 ml-1m   interest sparse star      - -          .500 .562 .797 - .129 .234
1 ml-1m   interest sparse untrained - GPT-4o     .508 .564 .800 - .139 .244
1 ml-1m   interest sparse untrained - Qwen2.5-3B .497 .553 .794 - .131 .245
1 ml-1m   interest sparse tallrec   - Qwen2.5-3B .569 .609 .821 - .184 .330
1 ml-1m   interest sparse rec_r1    - Qwen2.5-3B .554 .600 .817 - .170 .325
1 ml-1m   interest sparse rank_grpo - Qwen2.5-3B .492 .549 .792 - .131 .245
1 ml-1m   interest sparse flexrec   - Qwen2.5-3B .615 .665 .844 - .235 .368
search esci search dense  star      - -          .412 - - - - -
search esci search dense  untrained - GPT-4o     .502 - - - - -
search esci search dense  untrained - Qwen2.5-3B .449 - - - - -
search esci search dense  tallrec   - Qwen2.5-3B .399 - - - - -
search esci search dense  rec_r1    - Qwen2.5-3B .504 - - - - -
search esci search dense  rank_grpo - Qwen2.5-3B .397 - - - - -
search esci search dense  flexrec   - Qwen2.5-3B .528 - - - - -
2 kuairec explore sparse untrained - Qwen2.5-3B .706 - - - - -
2 kuairec explore sparse flexrec interest Qwen2.5-3B .733 - - - - -
2 ml-1m   explore sparse untrained - Qwen2.5-3B .729 - - - - -
2 ml-1m   explore sparse flexrec interest Qwen2.5-3B .748 - - - - -
3 kuairec trend   sparse untrained - Qwen2.5-3B .540 - - - - -
3 kuairec trend   sparse flexrec interest Qwen2.5-3B .563 - - - - -
3 ml-1m   trend   sparse untrained - Qwen2.5-3B .581 - - - - -
3 ml-1m   trend   sparse flexrec interest Qwen2.5-3B .630 - - - - -
6 kuairec interest dense independent     - Qwen2.5-3B .380 - - - - -
6 kuairec interest dense swap_noncausal  - Qwen2.5-3B .461 - - - - -
6 kuairec interest dense flexrec         - Qwen2.5-3B .607 - - - - -
6 kuairec interest dense ppo_independent - Qwen2.5-3B .390 - - - - -
6 kuairec interest dense ppo_noncausal   - Qwen2.5-3B .383 - - - - -
6 kuairec interest dense ppo             - Qwen2.5-3B .621 - - - - -
7 kuairec interest sparse user_knn   - Qwen2.5-3B .410 - - - - -
7 kuairec interest sparse item_knn   - Qwen2.5-3B .417 - - - - -
7 kuairec interest sparse critic_raw - Qwen2.5-3B .566 - - - - -
7 kuairec interest sparse flexrec    - Qwen2.5-3B .595 - - - - -
9 kuairec interest dense tallrec   - Qwen2.5-3B .585 - - - - -
9 kuairec interest dense rec_r1    - Qwen2.5-3B .572 - - - - -
9 kuairec interest dense rank_grpo - Qwen2.5-3B .381 - - - - -
9 kuairec interest dense flexrec   - Qwen2.5-3B .607 - - - - -
"""

NEAR_RANDOM = ("star", "untrained")
"""Methods that learn nothing of the need; STAR's similarity chose the candidates, and says little among them."""


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's tables.

    Attributes:
        table: The kind of table in which it stands, a key of `study_options.tables`.
        dataset: An entry of `datasets.yml`.
        need: An entry of `needs.yml`.
        regime: Whether every label was observed.
        method: An entry of `methods.yml`, or a baseline.
        trained_on: Need that it was trained for.
        model: The base model; empty where there is none.
        metrics: What the paper tells, by metric.
    """

    table: str
    dataset: str
    need: str
    regime: Regime
    method: str
    trained_on: str
    model: str
    metrics: dict[str, float]


def paper_rows(table: str, dataset: str, need: str, regime: Regime) -> list[PaperRow]:
    """The paper's rows for a table; empty where it has none."""
    rows = [_row(line) for line in _TABLES.strip().splitlines() if not line.startswith("#")]
    return [row for row in rows if (row.table, row.dataset, row.need, row.regime) == (table, dataset, need, regime)]


def near_random_rows(dataset: str, need: str) -> list[PaperRow]:
    """The paper's rows that order at random, or nearly: STAR and the untrained models, on candidates of STAR's own.

    Those of a need that nothing was trained for stand in its tables of transfer.

    Args:
        dataset: Of the paper.
        need: An entry of `needs.yml`.
    """
    rows = [_row(line) for line in _TABLES.strip().splitlines() if not line.startswith("#")]
    return [row for row in rows if (row.dataset, row.need) == (dataset, need) and row.method in NEAR_RANDOM]


def _row(line: str) -> PaperRow:
    table, dataset, need, regime, method, trained_on, model, *values = line.split()
    known = {name: float(text) for name, text in zip(_METRICS, values, strict=True) if text != "-"}
    return PaperRow(
        table=table,
        dataset=dataset,
        need=need,
        regime="dense" if regime == "dense" else "sparse",
        method=method,
        trained_on=need if trained_on == "-" else trained_on,
        model="" if model == "-" else model,
        metrics=known,
    )
