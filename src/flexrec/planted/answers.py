"""What the planted-truth study found, in sentences and tables; no number is typed by hand."""

from collections.abc import Iterable, Sequence

import pandas as pd

from flexrec.planted.results import BEST, COMMON, FAMILY
from flexrec.planted.settings import ReportedStatistics
from flexrec.planted.study import IDEAL, JOINT
from flexrec.reporting.style import interval, number, p_value

_LIST = {
    "area ndcg_at_5": "NDCG@5, mean over the training",
    "final ndcg_at_5": "NDCG@5 at the end",
    "final ndcg_at_k": "NDCG@K at the end",
    "final ndcg_of_tail": "NDCG of the tail",
}

_BEHIND = ("swap noncausal, pooled", "independent, pooled", "sequence")
"""Variants that FlexRec (arXiv 2603.11901) puts behind its own."""


class Answers:
    """Reads `planted_results` and `planted_rates`, and says what they hold.

    Args:
        results: Table of `flexrec.planted.results.summarise_planted`.
        rates: The tables of rates of `flexrec.planted.study.compare`, stacked.
        statistics: When a difference is called one.
    """

    def __init__(self, results: pd.DataFrame, rates: pd.DataFrame, statistics: ReportedStatistics) -> None:
        self._results, self._rates, self._significant = results, rates, statistics.significant

    # ---- rows ----

    def _rows(self, experiment: str, measure: str, choice: str = "") -> pd.DataFrame:
        found = self._results
        found = found[(found["experiment"] == experiment) & (found["measure"] == measure)]
        return found[found["choice"] == choice]

    def _sorted_out(self, rows: pd.DataFrame, name: str) -> tuple[list[str], list[str], list[str]]:
        """Names of rows above their reference, below it, and neither."""
        clear = rows["p_holm"] < self._significant
        above, below = clear & (rows["difference"] > 0), clear & (rows["difference"] < 0)

        def names(chosen: pd.Series) -> list[str]:
            return [f"{row[name]} ({row['difference']:+.3f})" for _, row in rows[chosen].iterrows()]

        return names(above), names(below), names(~clear)

    def _told(self, rows: pd.DataFrame, name: str, above: str, below: str) -> str:
        parts = zip((above, below, "no difference found"), self._sorted_out(rows, name), strict=True)
        return "; ".join(f"{words}: {', '.join(names) or 'none'}" for words, names in parts)

    def few_seeds(self) -> list[str]:
        """For which experiments the seeds are too few for any difference to be called one."""
        sentences = []
        for experiment, own in self._results.dropna(subset=["p"]).groupby("experiment", sort=False):
            # a sign flip of all seeds is as extreme as none; the smallest p of a family counts as often as it has tests
            families = own.groupby(list(FAMILY), sort=False).size()
            least = 2.0 ** (1 - int(own["seeds"].min())) * int(families.min())
            if least >= self._significant:
                sentences.append(
                    f"*{experiment}*: with {int(own['seeds'].min())} seeds no p falls below {min(1.0, least):.2g} by "
                    "Holm's correction, so that no difference can be found whatever it is."
                )
        return sentences

    # ---- one answer per question ----

    def comparison(self, experiment: str, measure: str = "area ndcg_at_5") -> list[str]:
        """How the variants stand to the first, and per-rank to pooled normalisation."""
        sentences = []
        for choice in (BEST, COMMON):
            rows = self._rows(experiment, measure, choice)
            if rows.empty:
                continue
            reference = str(rows["variant"].iloc[0])
            compared = rows[rows["reference"] == reference]
            told = self._told(compared, "variant", "above it", "below it")
            at = "each at its own best learning rate" if choice == BEST else "all at the common learning rate"
            sentences.append(f"{_LIST[measure]}, {at}, against *{reference}*: {told}.")
            pairs = rows[rows["variant"].str.endswith("per rank") & (rows["reference"] != reference)]
            pairs = pd.concat([compared[compared["variant"] == reference.replace("pooled", "per rank")], pairs])
            if len(pairs) and experiment == "rewards":
                told = self._told(pairs, "variant", "above the same reward pooled", "below it")
                sentences.append(f"Normalised per rank, {at}: {told}.")
        return sentences

    def edges(self, experiment: str) -> list[str]:
        """Where a better rate may lie outside those that were tried."""
        own = self._rates[(self._rates["experiment"] == experiment) & self._rates["edge"]]
        names = ", ".join(
            f"{row['variant']} ({'; '.join(filter(None, [format(row['rate'], 'g'), row['setting']]))})"
            for _, row in own.iterrows()
        )
        return [f"The best rate is the smallest or largest that was tried for {names}."] if names else []

    def claim(self, experiment: str) -> list[str]:
        """Whether the first variant is ahead of what the paper puts it ahead of."""
        sentences = []
        for choice in (BEST, COMMON):
            rows = self._rows(experiment, "area ndcg_at_5", choice)
            if rows.empty:
                continue
            reference = rows["variant"].iloc[0]
            rows = rows[(rows["reference"] == reference) & rows["variant"].isin(_BEHIND)]
            above, below, neither = (", ".join(names) or "none" for names in self._sorted_out(rows, "variant"))
            sentences.append(
                f"The paper's order, {reference} ahead of others, {choice}: holds for {below}; the other way round for "
                f"{above}; no difference found: {neither}."
            )
        return sentences

    def uncertainty(self) -> list[str]:
        """Whether weighting helps, and how far the weights are apart."""
        rows = self._rows("uncertainty", "area ndcg_at_5").dropna(subset=["reference"])
        sentences = []
        for scope in dict.fromkeys(rows["variant"]):
            told = self._told(_of(rows, variant=scope), "setting", "helps", "harms")
            spreads = {
                kind: _of(self._rows("uncertainty", f"weight/spread_{kind}"), variant=scope)["mean"]
                for kind in ("in_group", "between_groups")
            }
            spread = ", ".join(
                f"{number(values.min(), 2)} to {number(values.max(), 2)} {words}"
                for values, words in ((spreads["in_group"], "within a group"), (spreads["between_groups"], "between"))
                if len(values)
            )
            sentences.append(
                f"Weights of mean 1 over the {scope}: {told}. Standard deviation of the weights: {spread}."
            )
            over = _of(self._rows("uncertainty", "weight/overestimation"), variant=scope)["mean"]
            if scope == "batch" and len(over):
                sentences.append(
                    "The variance of a reward is divided by the square of an IDCG that the critic itself predicts: "
                    f"weighted over the {scope}, the mean of IDCG over its true value changes by {over.min():+.2f} to "
                    f"{over.max():+.2f}."
                )
        return sentences

    def showing(self) -> list[str]:
        """Where shown lists are ahead of rewarded ones, and where behind."""
        sentences = []
        for measure in ("area ndcg_at_5", "final ndcg_at_5"):
            rows = self._rows("showing", measure, BEST).dropna(subset=["reference"])
            for variant in dict.fromkeys(rows["variant"]):
                own = _of(rows, variant=variant)
                told = self._told(own, "setting", "ahead", "behind")
                sentences.append(f"{_LIST[measure]}, *{variant}* against *{own['reference'].iloc[0]}*: {told}.")
        return sentences

    def transfer(self) -> list[str]:
        """Own need, other needs, joint training; whether a policy switches by the instruction."""
        rows = self._rows("transfer", "final ndcg_at_5").drop_duplicates(["variant", "need"])
        if rows.empty:
            return []
        needs = list(dict.fromkeys(rows["need"]))
        alone = rows[rows["variant"] != JOINT]
        own = alone[alone["variant"] == alone["need"]]["mean"].mean()
        other = alone[alone["variant"] != alone["need"]]["mean"].mean()
        start = self._rows("transfer", "start ndcg_at_5")["mean"].mean()
        sentences = [
            f"NDCG@5 untrained {number(start)}, on the need trained for {number(own)}, on another {number(other)}."
        ]
        joint = _of(self._rows("transfer", "final ndcg_at_5"), variant=JOINT).dropna(subset=["reference"])
        if len(joint):
            told = self._told(joint, "need", "above the policy of the need alone", "below it")
            sentences.append(
                f"One policy for all {len(needs)} needs, with as many tokens in all as each single one: {told}."
            )
            ideal, together = self._mean_tau(IDEAL), self._mean_tau(JOINT)
            apart = self._mean_tau(*(name for name in needs))
            sentences.append(
                "Kendall's tau between the rankings of the same candidates under two needs, mean over the pairs: "
                f"ideal lists {number(ideal, 2)}, the joint policy {number(together, 2)}, "
                f"policies of one need {number(apart, 2)}."
            )
        return sentences

    def _mean_tau(self, *variants: str) -> float:
        own = self._results[(self._results["experiment"] == "transfer") & self._results["variant"].isin(variants)]
        return float(own[own["measure"].str.startswith("tau/")]["mean"].mean())

    def tail(self) -> list[str]:
        """How fast the signal falls over the ranks, and whether it matters."""
        sentences = []
        for kind in ("reward", "advantage"):
            ratios: list[str] = []
            own = self._results[(self._results["experiment"] == "tail") & (self._results["choice"] == BEST)]
            own = own[own["measure"].str.startswith(f"{kind}/std_at_rank_") & (own["mean"] > 0)]
            for name, part in own.groupby("variant", sort=False):
                line = part.sort_values("measure")
                last = int(line["measure"].iloc[-1][-2:])
                ratios.append(f"{name} {line['mean'].iloc[0] / line['mean'].iloc[-1]:.3g} (rank {last})")
            sentences.append(
                f"Spread of the {kind} at rank 1 over that at the last rank with any: {', '.join(ratios)}."
            )
        for measure in ("final ndcg_at_5", "final ndcg_at_k", "final ndcg_of_tail"):
            rows = self._rows("tail", measure, BEST)
            rows = rows[rows["reference"] == rows["variant"].iloc[0]] if len(rows) else rows
            if len(rows):
                told = self._told(rows, "variant", "above it", "below it")
                sentences.append(f"{_LIST[measure]}, against *{rows['reference'].iloc[0]}*: {told}.")
        return sentences

    def gradients(self) -> list[str]:
        """Which reward pushes where, and how noisily."""
        sentences = []
        rows = self._rows("gradients", "alignment of a batch")
        for setting, part in rows.groupby("setting", sort=False):
            line = part.sort_values("mean", ascending=False)
            told = ", ".join(f"{row['variant']} {number(row['mean'])}" for _, row in line.iterrows())
            sentences.append(f"Cosine of one batch's gradient with that of the true objective, {setting}: {told}.")
        return sentences

    # ---- tables ----

    def comparison_tables(self, experiment: str) -> list[str]:
        """Every variant with its rate, measures, and difference to the first; a table per choice of the rate."""
        return [f"Learning rate: {choice}.\n\n{self._comparison(experiment, choice)}" for choice in (BEST, COMMON)]

    def _comparison(self, experiment: str, choice: str) -> str:
        shown = [measure for measure in _LIST if len(self._rows(experiment, measure, choice))]
        headings = ["variant", "rate", *(_LIST[measure] for measure in shown), "difference to the first", "p (Holm)"]
        rows = []
        tests = self._rows(experiment, "area ndcg_at_5", choice)
        for name in dict.fromkeys(tests["variant"]):
            own = tests[tests["variant"] == name]
            first = own[own["reference"] == tests["variant"].iloc[0]]
            cells = [name, f"{own['rate'].iloc[0]:g}"]
            for measure in shown:
                cells.append(_mean(_of(self._rows(experiment, measure, choice), variant=name)))
            rows.append([*cells, *_difference(first)])
        return _table(headings, rows)

    def uncertainty_table(self) -> str:
        """Every critic and noise level, with the weights' effect and spread."""
        rows = []
        all_rows = self._rows("uncertainty", "area ndcg_at_5")
        for (setting, scope), own in all_rows.groupby(["setting", "variant"], sort=False):
            weights = [
                _of(self._rows("uncertainty", f"weight/{name}"), setting=setting, variant=scope)["mean"].iloc[0]
                for name in ("low", "high", "spread_in_group", "spread_between_groups", "overestimation")
            ]
            told = [number(float(weight), 2) for weight in weights]
            rows.append([str(setting), str(scope), _mean(own), *_difference(own.dropna(subset=["reference"])), *told])
        return _table(
            ["critic", "weights", _LIST["area ndcg_at_5"], "difference to equal weights", "p (Holm)", "10%", "90%",
             "spread in group", "between groups",
             "IDCG over its true value, more by"],
            rows,
        )  # fmt: skip

    def showing_table(self) -> str:
        """Every variant under every critic and number of requests: where it began, on the way, and where it ended."""
        shown = {"warmed-up": "start ndcg_at_5"} | {_LIST[m]: m for m in ("area ndcg_at_5", "final ndcg_at_5")}
        tests = self._rows("showing", "final ndcg_at_5", BEST)
        rows = []
        for (setting, variant), own in tests.groupby(["setting", "variant"], sort=False):
            places = {"setting": setting, "variant": variant}
            means = [_mean(_of(self._rows("showing", measure, BEST), **places)) for measure in shown.values()]
            cells = [str(setting), str(variant), f"{own['rate'].iloc[0]:g}", *means]
            rows.append([*cells, *_difference(own.dropna(subset=["reference"]))])
        return _table(
            ["critic, requests", "variant", "rate", *shown, "difference to the first at the end", "p (Holm)"], rows
        )

    def transfer_table(self) -> str:
        """The transfer matrix, the joint and the untrained policy."""
        rows = self._rows("transfer", "final ndcg_at_5").drop_duplicates(["variant", "need"])
        needs = list(dict.fromkeys(rows["need"]))
        start = self._rows("transfer", "start ndcg_at_5").drop_duplicates("need").set_index("need")
        lines = [["untrained", *(_mean(start.loc[[need]]) for need in needs)]]
        for name in dict.fromkeys(rows["variant"]):
            own = rows[rows["variant"] == name].set_index("need")
            lines.append([name, *(_mean(own.loc[[need]]) for need in needs)])
        return _table(["trained for", *(f"asked for {need}" for need in needs)], lines)

    def gradients_table(self) -> str:
        """Both cosines of every variant, at every point of the training."""
        rows = self._results[self._results["experiment"] == "gradients"]
        places = list(dict.fromkeys(zip(rows["setting"], rows["measure"], strict=True)))
        lines = []
        for name in dict.fromkeys(rows["variant"]):
            own = rows[rows["variant"] == name].set_index(["setting", "measure"])
            lines.append([name, *(_mean(own.loc[[place]]) for place in places)])
        return _table(["variant", *(f"{measure}, {setting}" for setting, measure in places)], lines)


def _of(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows in which columns have these values."""
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return rows


def _mean(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "-"
    row = rows.iloc[0]
    return interval(float(row["mean"]), float(row["low"]), float(row["high"]))


def _difference(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return ["", ""]
    row = rows.iloc[0]
    told = interval(float(row["difference"]), float(row["difference_low"]), float(row["difference_high"]))
    return [told, p_value(float(row["p_holm"]))]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
