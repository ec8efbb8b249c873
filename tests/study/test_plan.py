import pytest

from flexrec.errors import InputError
from flexrec.study.plan import Cell, cells_of, refuse_unknown_rows
from flexrec.study.settings import StudyOptions, StudySettings

KNOWN = {
    "datasets": ["ml-100k", "ml-1m"],
    "methods": {"flexrec": "critic", "rec_r1": "observed", "per_rank": "critic"},
    "models": ["small"],
    "layouts": ["default", "wide"],
}


def study(*grid: dict, **others: object) -> StudySettings:
    return StudySettings.model_validate({"title": "t", "grid": list(grid), **others})


def cells(*grid: dict, given: tuple[str, ...] = (), **others: object) -> list[Cell]:
    return cells_of("mine", study(*grid, **others), given=given, **KNOWN)


def test_every_combination_comes_once_and_neighbours_share():
    block = {"needs": ["a", "b"], "methods": ["flexrec", "rec_r1", "per_rank"], "seeds": [1, 0]}
    found = cells(block, {"needs": ["a"], "methods": ["flexrec"], "seeds": [0]})
    # seed, then need, then what stands for unobserved labels (critic, observed), then method
    assert [(cell.seed, cell.need, cell.method) for cell in found] == [
        (seed, need, method) for seed in (1, 0) for need in ("a", "b") for method in ("flexrec", "per_rank", "rec_r1")
    ]


def test_datasets_come_one_after_the_other():
    found = cells(
        {"needs": ["a"], "methods": ["flexrec"], "seeds": [0, 1], "dataset": "ml-1m"},
        {"needs": ["a"], "methods": ["rec_r1"], "seeds": [0, 1], "dataset": "ml-100k"},
        {"needs": ["a"], "methods": ["rec_r1"], "seeds": [0], "dataset": "ml-1m"},
    )
    assert [(cell.dataset, cell.seed, cell.method) for cell in found] == [
        ("ml-1m", 0, "flexrec"),
        ("ml-1m", 0, "rec_r1"),
        ("ml-1m", 1, "flexrec"),
        ("ml-100k", 0, "rec_r1"),
        ("ml-100k", 1, "rec_r1"),
    ]


def test_the_arguments_are_those_of_the_command_line():
    block = {"needs": ["a"], "methods": ["flexrec"], "dataset": "ml-1m", "density": 0.2, "overrides": ["rl.steps=2"]}
    (cell,) = cells(block, overrides=["rl.steps=1"], given=("rl.steps=3",))
    # the command line comes last and wins
    assert cell.arguments == (
        "dataset=ml-1m", "need=a", "method=flexrec", "density=0.2", "seed=0", "rl.steps=1", "rl.steps=2", "rl.steps=3",
    )  # fmt: skip
    assert cell.words == "ml-1m a flexrec density 0.2 seed 0"
    assert cell.file_name == "ml-1m_a_flexrec_density_0.2_seed_0"


def test_what_a_cell_goes_through_beside_the_evaluation_adds_up():
    block = {"needs": ["a"], "methods": ["flexrec"]}
    assert [cell.also for cell in cells(block, {**block, "also": ["probe"]}, block)] == [("probe",)]


def test_a_layout_of_the_prompt_makes_another_run():
    block = {"needs": ["a"], "methods": ["flexrec"], "model": "small"}
    found = cells(block, {**block, "layout": "wide"}, block)
    assert [cell.layout for cell in found] == [None, "wide"]
    assert found[1].arguments == ("need=a", "method=flexrec", "model=small", "layout=wide", "seed=0")
    assert found[1].words == "a flexrec small layout wide seed 0"
    assert len({cell.file_name for cell in found}) == 2


def test_one_run_cannot_have_two_budgets():
    block = {"needs": ["a"], "methods": ["flexrec"]}
    with pytest.raises(InputError, match=r"a flexrec seed 0 is in its grid with two sets of overrides .*rl.steps=2"):
        cells(block, {**block, "overrides": ["rl.steps=2"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["flexrek"]}, "part 1 of its grid: unknown method 'flexrek'. Allowed: flexrec, rec_r1"),
        ({"dataset": "ml"}, "unknown dataset 'ml'"),
        ({"model": "large"}, "unknown model 'large'"),
    ],
)
def test_unknown_names_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        cells({"needs": ["a"], "methods": ["flexrec"], **change})


def rows_of(table: dict | None = None, **others: object) -> None:
    options = StudyOptions.model_validate({"log_folder": "logs", "tables": {"6": {"title": "t"} | (table or {})}})
    study_of = study({"needs": ["a"], "methods": ["flexrec"]}, **others)
    refuse_unknown_rows("mine", study_of, options, KNOWN["methods"], ["item_mean", "untrained"])


def test_references_and_rows_of_tables_are_names_that_exist():
    rows_of({"rows": ["flexrec", "rec_r1"], "cross": {"columns": ["a"], "rows": {"b": ["per_rank"]}}})
    rows_of(references=["flexrec", "item_mean", "untrained", "warmed_up", "warmed_up_observed", "chat_openai"])
    with pytest.raises(InputError, match=r"^study 'mine': unknown reference 'flexrek'. Allowed: flexrec, rec_r1, "):
        rows_of(references=["flexrek", "untrained"])
    with pytest.raises(InputError, match=r"^study_options.tables.6: unknown method 'item_mean'. Allowed: flexrec"):
        rows_of({"rows": ["flexrec", "item_mean"]})
    with pytest.raises(InputError, match=r"^study_options.tables.6: unknown method 'pop'"):
        rows_of({"cross": {"columns": ["a"], "rows": {"b": ["pop"]}}})


@pytest.mark.parametrize("text", ["seed=5", "need=trend", "method=flexrec", "dataset=a", "density=1.0", "layout=b"])
def test_the_command_line_does_not_rename_all_runs(text):
    """Three seeds would be one training, told three times."""
    block = {"needs": ["interest"], "methods": ["flexrec"], "seeds": [0, 1, 2]}
    with pytest.raises(InputError, match=rf"says which {text.partition('=')[0]} its runs have, so {text} cannot"):
        cells(block, given=("rl.steps=3", text))


@pytest.mark.parametrize("text", ["rl.steps", "=3", "seed=3", "study=x", "method=flexrec"])
def test_overrides_are_pairs_of_something_else(text):
    with pytest.raises(ValueError, match="override"):
        study({"needs": ["a"], "methods": ["flexrec"], "overrides": [text]})


@pytest.mark.parametrize("seed", [-1, 2**31, "1", 1.0])
def test_seeds_are_those_that_a_run_takes(seed):
    with pytest.raises(ValueError, match="seeds"):
        study({"needs": ["a"], "methods": ["flexrec"], "seeds": [0, seed]})
