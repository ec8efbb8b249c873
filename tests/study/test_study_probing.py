"""Tables of switching and input order: by hand, against the probe's own summaries, and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.evaluation.input_order import input_order_summary
from flexrec.evaluation.switching import switching_summary
from flexrec.ranking.statistics import holm
from flexrec.study.collection import INPUT_ORDER_COLUMNS, SWITCHING_COLUMNS, collect
from flexrec.study.plan import Cell
from flexrec.study.printing import study_markdown, study_text
from flexrec.study.probing import input_order_tables, switching_tables
from flexrec.study.settings import TableSettings
from made_study import result

NEEDS = ("interest", "explore", "trend")
SWITCHING = TableSettings(title="two needs", sample="switching")
ORDER = TableSettings(title="orders", sample="input_order")


def switching_of(turned: dict[str, float], *, seed: int = 0, users: int = 20) -> pd.DataFrame:
    """Table `probe_switching`: of every method, how much of what it should turn it turns, on average."""
    generator = np.random.default_rng(seed)
    rows = []
    for pair in itertools.combinations(NEEDS, 2):
        ideal = generator.uniform(-0.5, 0.5, users)
        for method, share in turned.items():
            moved = np.clip(generator.normal(share, 0.1, users), 0, 1) if share else np.zeros(users)
            swayed = np.clip(generator.normal(share / 3, 0.1, users), 0, 1) if share else np.zeros(users)
            rows.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "need": pair[0],
                        "other_need": pair[1],
                        "instance_id": np.arange(users) + 100 * seed,
                        "user_id": np.arange(users),
                        "pairs": 10.0,
                        "tau": 1 - 2 * (moved + swayed) / 2,
                        "ideal_tau": ideal,
                        "turned": moved,
                        "swayed": swayed,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def orders_of(copied: dict[str, float], *, seed: int = 0, needs: tuple[str, ...] = ("interest",)) -> pd.DataFrame:
    """Table `probe_input_order`: of every method, what it gains where the best are shown first, and loses else."""
    generator = np.random.default_rng(seed)
    users = 20
    rows = []
    for need, (method, size) in itertools.product(needs, copied.items()):
        ease = generator.uniform(0.4, 0.6, users)
        for arrangement, change in {"shown": 0.0, "ideal": size, "reversed": -size, "random_1": 0.02}.items():
            rows.append(
                pd.DataFrame(
                    {
                        "method": method,
                        "need": need,
                        "arrangement": arrangement,
                        "instance_id": np.arange(users) + 100 * seed,
                        "user_id": np.arange(users),
                        "ndcg_at_5": ease + change + generator.normal(0, 0.001, users),
                        "kendall_tau": size,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def probed(method: str, seed: int, need: str = "interest", *, turns: float = 0.6, copies: float = 0.05, **others):
    models = {"untrained": 0.0, "warmed_up": 0.3, method: turns}
    orders = {"untrained": 0.2, "warmed_up": 0.1, method: copies}
    given = {
        "quality": 0.7,
        "cell": Cell(need, method, seed, also=("probe",)),
        "switching": switching_of(models, seed=seed),
        "input_order": orders_of(orders, seed=seed, needs=tuple(need.split("+"))),
    }
    return result(method, seed, need=need, **{**given, **others})


@pytest.fixture(scope="module")
def found():
    return collect(
        [
            probed("flexrec", 0),
            probed("rec_r1_critic", 0, turns=0.4),
            probed("flexrec", 1),
            probed("rec_r1_critic", 1, state="failed", metrics=(), switching=None, input_order=None),
            probed("flexrec", 0, "interest+trend", turns=0.9),
        ]
    )


def labels(table) -> list[str]:
    return [row[0].text for row in table.rows]


def test_what_several_cells_probed_is_taken_once(found) -> None:
    assert list(found.switching) == list(SWITCHING_COLUMNS)
    assert list(found.input_order) == list(INPUT_ORDER_COLUMNS)
    keys = ["method", "trained_on", "seed", "instance_id", "need", "other_need"]
    assert not found.switching.duplicated(keys).any()
    assert not found.input_order.duplicated([*keys[:-1], "arrangement"]).any()
    untrained = found.input_order[found.input_order["method"] == "untrained"]
    # of the joint cell only the need that no other was asked for in several orders is new
    assert untrained.groupby(["seed", "need"]).size().to_dict() == {
        (0, "interest"): 80,
        (0, "trend"): 80,
        (1, "interest"): 80,
    }


def test_cells_that_were_probed_for_different_needs_give_all_pairs() -> None:
    whole = switching_of({"untrained": 0.0, "flexrec": 0.6})
    of_two = whole[(whole["need"] == "interest") & (whole["other_need"] == "explore")]
    cells = [probed("flexrec", 0, switching=of_two), probed("flexrec", 0, "trend", switching=whole)]
    untrained = collect(cells).switching.query("method == 'untrained'")
    assert untrained.groupby(["need", "other_need"]).size().to_dict() == {
        ("interest", "explore"): 20,
        ("interest", "trend"): 20,
        ("explore", "trend"): 20,
    }


def test_a_kind_of_table_chooses_its_needs(how) -> None:
    cell = result("flexrec", 0, switching=switching_of({"untrained": 0.0, "flexrec": 0.6}))
    kind = SWITCHING.model_copy(update={"needs": ("interest", "trend")})
    (made,) = switching_tables("s", kind, collect([cell]).switching, ["flexrec"], how)
    assert made.group[-2] == "interest+trend"
    (row,) = (row for _, row in made.numbers.iterrows() if row["method"] == "ideal")
    table = cell.switching.query("need == 'interest' and other_need == 'trend' and method == 'flexrec'")
    assert row["tau"] == pytest.approx(table["ideal_tau"].mean())
    nobody = SWITCHING.model_copy(update={"needs": ("search",)})
    assert switching_tables("s", nobody, collect([cell]).switching, ["flexrec"], how) == []


def test_without_a_probe_there_is_nothing(collected, settings, options, how) -> None:
    assert collected.switching.empty
    assert collected.input_order.empty
    assert list(collected.switching) == list(SWITCHING_COLUMNS)
    assert switching_tables("s", SWITCHING, collected.switching, ["flexrec"], how) == []
    assert input_order_tables("o", ORDER, collected.input_order, ["flexrec"], how) == []


def test_switching_says_of_one_seed_what_the_probe_says(how) -> None:
    table = switching_of({"untrained": 0.0, "flexrec": 0.6})
    (made,) = switching_tables(
        "s", SWITCHING, collect([result("flexrec", 0, switching=table)]).switching, ["flexrec"], how
    )
    own = switching_summary(table, resamples=how.resamples, permutations=how.permutations, seed=how.seed)
    own = own[own["need"] == "all"].set_index("method")
    numbers = made.numbers.set_index("method")
    for method in ("untrained", "flexrec"):
        for name in ("tau", "tau_low", "tau_high", "ideal_tau", "unmoved", "turned", "swayed", "switching", "p"):
            assert numbers.loc[method, name] == pytest.approx(own.loc[method, name], abs=1e-12), name
    assert numbers.loc["untrained", ["tau", "unmoved", "switching"]].tolist() == [1.0, 1.0, 0.0]
    ideal = numbers.loc["ideal"]
    assert ideal["tau"] == pytest.approx(own.loc["flexrec", "ideal_tau"])
    assert ideal["tau interest / trend"] == pytest.approx(
        table.query("need == 'interest' and other_need == 'trend' and method == 'flexrec'")["ideal_tau"].mean()
    )


def test_input_order_says_of_one_seed_what_the_probe_says(how) -> None:
    table = orders_of({"untrained": 0.2, "flexrec": 0.05})
    (made,) = input_order_tables(
        "o", ORDER, collect([result("flexrec", 0, input_order=table)]).input_order, ["flexrec"], how
    )
    own = input_order_summary(table, resamples=how.resamples, permutations=how.permutations, seed=how.seed)
    numbers = made.numbers.set_index("method")
    for method in ("untrained", "flexrec"):
        told = own[own["method"] == method].set_index("arrangement")
        row = numbers.loc[method]
        assert row["random"] == pytest.approx(told.loc["random", "mean"])
        assert row["spread"] == pytest.approx(told.loc["random", "spread"])
        assert row["tau"] == pytest.approx(told.loc["random", "tau"])
        for order in ("ideal", "reversed"):
            assert row[order] == pytest.approx(told.loc[order, "mean"])
            for end in ("", "_low", "_high"):
                assert row[f"change_{order}{end}"] == pytest.approx(told.loc[order, f"change{end}"])
            assert row[f"p_{order}"] == pytest.approx(told.loc[order, "p"])
            assert row[f"p_{order}_holm"] == pytest.approx(told.loc[order, "p_holm"])


def test_rows_of_several_seeds(found, how) -> None:
    (table,) = switching_tables("s", SWITCHING, found.switching, ["flexrec", "rec_r1_critic"], how)
    assert labels(table) == [
        "ideal lists",
        "untrained",
        "warmed-up, trained on interest",
        "warmed-up, trained on interest+trend",
        "FlexRec, trained on interest",
        "FlexRec, trained on interest+trend",
        "Rec-R1 + critic, trained on interest",
    ]
    assert [row[-1].text for row in table.rows] == ["2", "2", "2", "1", "2", "1", "1"]
    numbers = table.numbers.set_index(["method", "trained_on"])
    # the mean of the seeds' means, with an interval that covers both
    own = found.switching.query("method == 'flexrec' and trained_on == 'interest'")
    means = own.groupby("seed")["tau"].mean()
    row = numbers.loc[("flexrec", "interest")]
    assert row["tau"] == pytest.approx(means.mean())
    assert row["tau_low"] <= means.min() <= means.max() <= row["tau_high"]
    # ordered by what they turn, and clearly
    assert row["switching"] < numbers.loc[("flexrec", "interest+trend"), "switching"]
    tested = numbers["p"].dropna()
    assert len(tested) == 6
    assert numbers.loc[tested.index, "p_holm"].tolist() == pytest.approx(holm(tested.to_numpy()).tolist())
    assert table.subject == "interest+explore+trend on ml-1m, 0.1 of the labels observed, small"
    assert table.file_name.startswith("table-s-ml-1m-interest+explore+trend")


def test_input_orders_of_a_need_are_a_table_each(found, how) -> None:
    tables = input_order_tables("o", ORDER, found.input_order, ["flexrec", "rec_r1_critic"], how)
    assert [table.group[3] for table in tables] == ["interest", "trend"]
    assert labels(tables[0]) == [
        "untrained",
        "warmed-up",
        "warmed-up, trained on interest+trend",
        "FlexRec",
        "FlexRec, trained on interest+trend",
        "Rec-R1 + critic",
    ]
    row = tables[0].numbers.set_index(["method", "trained_on"]).loc[("untrained", "")]
    # .2 above the prompt's own order, and the random order another .02 above it
    assert row["change_ideal"] == pytest.approx(0.19, abs=0.005)
    assert row["change_reversed"] == pytest.approx(-0.21, abs=0.005)
    chosen = TableSettings(title="orders", sample="input_order", needs=("trend",))
    assert [table.group[3] for table in input_order_tables("o", chosen, found.input_order, ["flexrec"], how)] == [
        "trend"
    ]
    dense = TableSettings(title="orders", sample="input_order", regime="dense")
    assert input_order_tables("o", dense, found.input_order, ["flexrec"], how) == []


def test_they_stand_among_the_tables_of_a_study(found, settings, options, how) -> None:
    from flexrec.study.statistics import comparisons, row_means
    from flexrec.study.tables import study_tables

    kinds = {**options.tables, "switching": SWITCHING, "input_order": ORDER}
    options = options.model_copy(update={"tables": kinds})
    settings = settings.model_copy(update={"tables": ("1", "switching", "input_order")})
    tables = study_tables(
        found.cells,
        found.instances,
        row_means(found.instances, options.metrics, how),
        comparisons(found.instances, settings.references, options.primary, how),
        settings,
        options,
        how,
        switching=found.switching,
        input_order=found.input_order,
    )
    assert [table.name for table in tables] == ["1", "switching", "input_order", "input_order"]
    assert len({table.file_name for table in tables}) == 4
    assert all(len(row) == len(table.headings) for table in tables for row in table.rows)
    markdown, text = study_markdown("A study", tables, {}), study_text(tables, found.cells)
    assert "| ideal lists |" in markdown
    assert "change, best shown last" in markdown
    assert "ideal lists" in text


def test_an_instance_that_was_not_asked_in_every_order_is_refused(how) -> None:
    table = orders_of({"flexrec": 0.05})
    rows = collect([result("flexrec", 0, input_order=table.drop(index=table.index[-1]))]).input_order
    with pytest.raises(InputError, match="'flexrec' was not asked about every instance in every input order for need"):
        input_order_tables("o", ORDER, rows, ["flexrec"], how)


def test_two_needs_that_never_disagree_have_no_switching(how) -> None:
    table = switching_of({"flexrec": 0.5}).query("other_need == 'explore'").assign(turned=np.nan)
    (made,) = switching_tables(
        "s", SWITCHING, collect([result("flexrec", 0, switching=table)]).switching, ["flexrec"], how
    )
    # one pair of needs has no column beside that of all pairs
    assert made.headings[:2] == ("method", "tau")
    assert len(made.headings) == len(made.rows[1])
    row = made.numbers.set_index("method").loc["flexrec"]
    assert np.isnan([row["switching"], row["p"], row["p_holm"]]).all()
    nothing = table.assign(pairs=0.0, tau=np.nan, ideal_tau=np.nan, swayed=np.nan)
    (made,) = switching_tables(
        "s", SWITCHING, collect([result("flexrec", 0, switching=nothing)]).switching, ["flexrec"], how
    )
    assert {cell.text for cell in made.rows[1][1:-1]} <= {"", "-"}
