"""Seeds that were made elsewhere: joined they are what one place would have made, and what does not fit is refused."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from flexrec.errors import InputError
from flexrec.study.collection import Collected, collect
from flexrec.study.parts import FILES, Part, joined, read_parts, taken
from flexrec.study.printing import study_facts
from made_study import result


def made(method: str, seed: int, **others):
    critic = (
        pd.DataFrame({"mean": [1.0, 2.0], "gain": [1.5, 1.0]}),
        pd.DataFrame({"predicted_std": [1.0], "rmse": [1.0]}),
    )
    return result(method, seed, parameters=f"{method}-{seed}", commit="abc", dtype="float32", critic=critic, **others)


ALL = [made(method, seed) for seed in (0, 1, 2) for method in ("flexrec", "rec_r1_critic")]


def of_seed(seed: int):
    return [one for one in ALL if one.cell.seed == seed]


def write(folder: Path, tables: Collected) -> Path:
    folder.mkdir(parents=True)
    for name, file in FILES.items():
        getattr(tables, name).to_parquet(folder / file)
    return folder


@pytest.fixture
def places(tmp_path) -> Path:
    """Parts with seeds 0 and 2, in one folder."""
    for seed in (2, 0):
        write(tmp_path / "parts" / f"seed-{seed}", collect(of_seed(seed)))
    return tmp_path / "parts"


def test_seeds_of_three_places_are_one_study(places):
    parts = read_parts([places])
    assert [(part.name, part.seeds) for part in parts] == [("seed-0", (0,)), ("seed-2", (2,))]
    lacking, kept = zip(*(taken(part, of_seed(part.seeds[0])) for part in parts), strict=True)
    assert lacking == ([], [])
    found, whole = joined(collect(of_seed(1)), kept), collect(ALL)
    for name in FILES:
        own, expected = getattr(found, name), getattr(whole, name)
        if name == "cells":
            assert own["part"].tolist() == ["seed-0"] * 2 + [""] * 2 + ["seed-2"] * 2
            own = own.assign(part="")
        pd.testing.assert_frame_equal(own, expected, check_dtype=bool(len(expected)))
    assert study_facts("mine", found.cells)["seeds made"] == [
        "0: seed-0, commit abc, float32",
        "1: here, commit abc, float32",
        "2: seed-2, commit abc, float32",
    ]
    assert "seeds made" not in study_facts("mine", whole.cells)


def test_without_parts_nothing_changes():
    whole = collect(ALL)
    assert joined(whole, []) is whole


def test_a_run_that_failed_there_or_is_new_here_is_said_to_be_missing(tmp_path):
    failed = replace(of_seed(1)[1], state="failed", reason="out of memory", metrics=(), curves=None)
    write(tmp_path / "there", collect([of_seed(1)[0], failed]))
    (part,) = read_parts([tmp_path / "there"])
    lacking, kept = taken(part, [result(one.cell.method, 1, state="not run", metrics=(), curves=None, seconds={},
                                        parameters=one.parameters) for one in of_seed(1)])  # fmt: skip
    cells = joined(collect(lacking), [kept]).cells
    assert cells[["method", "state", "reason"]].to_numpy().tolist() == [
        ["rec_r1_critic", "not run", "there does not hold it"],
        ["flexrec", "done", ""],
    ]


def test_other_parameters_are_refused(places):
    part = read_parts([places])[0]
    other = [replace(one, parameters="other") for one in of_seed(0)]
    with pytest.raises(InputError, match=r"interest flexrec 0 in seed-0 was made with other parameters .*commit abc"):
        taken(part, other)


def test_a_cell_that_the_study_does_not_have_is_refused(places):
    part = read_parts([places])[0]
    with pytest.raises(InputError, match=r"seed-0 holds ml-1m 0\.1 small interest rec_r1_critic 0, which is not in"):
        taken(part, of_seed(0)[:1])


def test_a_seed_in_two_places_is_refused(places, tmp_path):
    # folders that studies wrote have the name of the study, all of them
    above, below = places.name, tmp_path.name
    told = {"again": ("seed-2", "again"), "seed-2": (f"{above}/seed-2", f"{below}/seed-2")}
    for name, (first, second) in told.items():
        write(tmp_path / name, collect(of_seed(2)))
        with pytest.raises(InputError, match=f"seed 2 is in {first} and in {second}; keep one"):
            read_parts([places, tmp_path / name])


def test_a_place_without_parts_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=f"{place.name} holds no part of a study; name the folder"):
            read_parts([place])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda file: file.unlink(), r"curves\.parquet is missing: a part of a study has cells\.parquet"),
        (lambda file: file.write_text("no table"), r"curves\.parquet is not a table that a study wrote"),
        (
            lambda file: pd.read_parquet(file).drop(columns="metric").to_parquet(file),
            r"curves\.parquet has no column metric: it was written by another version",
        ),
    ],
)
def test_a_broken_part_is_refused(places, break_it, message):
    break_it(places / "seed-2" / FILES["curves"])
    with pytest.raises(InputError, match=message):
        read_parts([places])


def test_every_dataset_has_its_critic_whatever_place_it_comes_from():
    """The first seed of one was made elsewhere, and the only one of the other here."""
    elsewhere, here = made("flexrec", 0), [made("flexrec", 1), made("flexrec", 1, dataset="ml-100k")]
    part = Part(Path("parts/seed-0"), "seed-0", collect([elsewhere]))
    found = joined(collect(here), [part])
    whole = collect([elsewhere, *here])
    shown = ["ml-1m, density 0.1, seed 0", "ml-100k, density 0.1, seed 1"]
    for name in ("critic_predictions", "critic_reliability"):
        assert list(getattr(whole, name)["variant"].unique()) == shown
        pd.testing.assert_frame_equal(getattr(found, name), getattr(whole, name))
