"""The same graph twice gives the same bytes: in another folder, process, and order of sets and dictionaries."""

import re

import pytest

from flexrec.fingerprint import content_digest
from whole_project import FACTS


@pytest.fixture(scope="module")
def again(whole, tmp_path_factory):
    project = whole.project.copy(tmp_path_factory.mktemp("again") / "project", "06_models/base")
    run = project.command()
    assert run.reused == {"prepare_model"}
    return project


def test_every_file_has_the_same_digest(whole, again) -> None:
    first, second = whole.project.digests(), again.digests()
    assert first.keys() == second.keys()
    different = {name for name in first if first[name] != second[name]}
    assert different <= FACTS


def test_the_base_model_has_the_same_digests(whole, tiny_folder) -> None:
    """It was made once more, for other tests."""
    made = whole.project.digests()["base_model"]
    assert made == {file.name: content_digest(file) for file in tiny_folder.iterdir()}


def test_what_is_reported_differs_in_facts_only(whole, again) -> None:
    """The command here is pytest's; threads and versions are this machine's in both."""
    fact = re.compile(r"(^\| |<th scope=\"row\">)(command|commit|uncommitted changes)\b")
    for name in FACTS:
        one, two = (project.load(name).splitlines() for project in (whole.project, again))
        different = [pair for pair in zip(one, two, strict=True) if pair[0] != pair[1]]
        assert all(fact.search(line) for pair in different for line in pair), name


def test_another_seed_gives_other_results(whole, fresh) -> None:
    """The digests above could be the same for lack of any chance."""
    fresh.command("--to-outputs", "warm_up_policy", "--params", "seed=1")
    parameters = {"seed": 1}
    place = fresh.load("warm_up_policy", parameters) / "adapter_model.safetensors"
    assert "seed-1" in place.as_posix()
    assert content_digest(place) != whole.project.digests()["warm_up_policy"]["adapter_model.safetensors"]
    both = [project.load("observations", of) for project, of in ((fresh, parameters), (whole.project, None))]
    first, second = (table.order_by("event_id").to_pandas() for table in both)
    assert (first["observed"] != second["observed"]).any()
