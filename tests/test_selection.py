import pytest
from omegaconf import OmegaConf

from flexrec.errors import InputError
from flexrec.selection import Parameters, entries, entry, most, validate_selection

TABLES = {"needs": {"a": {"weight": 1}, "b": {"weight": 2}, "c": {"weight": 3}}, "methods": {"m": {"x": 1}}}


def test_an_entry_by_its_name() -> None:
    assert entry("need", "needs", "b", _root_=TABLES) == {"weight": 2}


def test_an_entry_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"^unknown method 'n'\. Allowed: m\.$"):
        entry("method", "methods", "n", _root_=TABLES)
    with pytest.raises(InputError, match=r"^unknown need '3'\. Allowed: a, b, c\.$"):
        entry("need", "needs", 3, _root_=TABLES)


@pytest.mark.parametrize(
    ("selection", "names"),
    [("b", ["b"]), ("c,a", ["a", "c"]), ("a+b", ["a", "b"]), ("a, a", ["a"]), ("all", ["a", "b", "c"])],
)
def test_entries_of_a_selection_in_the_order_of_the_table(selection, names) -> None:
    found = entries("needs", selection, _root_=TABLES)
    assert list(found) == names
    assert all(found[name] == TABLES["needs"][name] for name in names)


def test_entries_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="need 'd' is unknown; choose among a, b, c"):
        entries("needs", "a,d", _root_=TABLES)
    # `--params need=`
    with pytest.raises(InputError, match="need '' is unknown; choose among a, b, c"):
        entries("needs", None, _root_=TABLES)


@pytest.mark.parametrize(("needs", "number"), [("a", 8), ("b", 20), ("c", 5), ("a,c", 8), ("c+b", 20), ("all", 20)])
def test_the_most_that_the_needs_of_a_selection_ask_for(needs, number) -> None:
    tables = {**TABLES, "steps": {"default": 8, "b": 20, "c": 5}}
    assert most("steps", needs, _root_=tables) == number


def test_steps_of_a_need_that_does_not_exist(parameters) -> None:
    parameters["warm_up_steps"] = {"default": 1, "sleep": 3}
    with pytest.raises(InputError, match="parameter `warm_up_steps`: unknown need 'sleep', allowed: default, interest"):
        validate_selection(parameters)


def test_an_entry_may_point_at_another() -> None:
    OmegaConf.register_new_resolver("entry_of_this_test", lambda *a, _root_: entry(*a, _root_=_root_))
    try:
        config = OmegaConf.create(
            {"table": {"x": {"y": "${other}"}}, "other": 7, "it": "${entry_of_this_test:thing,table,x}"}
        )
        assert OmegaConf.to_container(config, resolve=True)["it"] == {"y": 7}
    finally:
        OmegaConf.clear_resolver("entry_of_this_test")


@pytest.fixture
def parameters(project_root) -> dict:
    """The base environment's."""
    from kedro.config import OmegaConfigLoader

    from flexrec.settings import CONFIG_LOADER_ARGS

    return OmegaConfigLoader(str(project_root / "conf"), **CONFIG_LOADER_ARGS)["parameters"]


def test_good_parameters_pass(parameters) -> None:
    validate_selection(parameters)


def test_every_key_is_known(parameters) -> None:
    assert set(parameters) == set(Parameters.model_fields)


def test_every_problem_is_told_on_a_line_with_its_key(parameters) -> None:
    parameters["rl"] = parameters["rl"] | {"stepz": 3, "rollouts": 1}
    parameters["needs"]["trend"]["terms"][0]["factors"] = []
    del parameters["seed"]
    with pytest.raises(InputError) as caught:
        validate_selection(parameters)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "parameter `rl.stepz`: extra inputs are not permitted (it is 3)" in lines
    assert "parameter `rl.rollouts`: input should be greater than or equal to 2 (it is 1)" in lines
    assert "parameter `seed`: field required" in lines
    assert any(line.startswith("parameter `needs.trend.terms.0.factors`: ") for line in lines)


def test_the_tag_of_a_union_is_no_part_of_a_key(parameters) -> None:
    parameters["method_settings"] = parameters["method_settings"] | {"gain": "observed"}
    parameters["retrieve"]["embedder"] = parameters["retrieve"]["embedder"] | {"batch_size": 0}
    with pytest.raises(InputError) as caught:
        validate_selection(parameters)
    keys = [line.partition("`: ")[0] for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["parameter `method_settings.gain", "parameter `retrieve.embedder.batch_size"]


def test_names_of_registries_are_checked(parameters) -> None:
    parameters["evaluate"] = parameters["evaluate"] | {"baselines": ["random", "magic"]}
    parameters["datasets"]["ml-1m"]["source"] = "ml-2m"
    with pytest.raises(InputError) as caught:
        validate_selection(parameters)
    source, baseline = str(caught.value).splitlines()
    assert source.startswith("parameter `datasets`: unknown source 'ml-2m', allowed: ml-100k, ml-1m, ")
    assert baseline.startswith("parameter `evaluate`: unknown baseline 'magic', allowed: random, retriever, ")


def test_a_baseline_that_is_named_twice(parameters) -> None:
    parameters["evaluate"] = parameters["evaluate"] | {"baselines": ["random", "star", "random"]}
    with pytest.raises(InputError, match=r"^parameter `evaluate`: baseline 'random' is named twice"):
        validate_selection(parameters)


@pytest.mark.parametrize("name", ["random", "untrained", "warmed_up", "warmed_up_observed", "chat_openai", "rlvr.v2"])
def test_a_method_cannot_have_the_name_of_another_row(parameters, name) -> None:
    parameters["methods"][name] = parameters["methods"]["flexrec"]
    with pytest.raises(InputError, match=f"^parameter `methods`: a method cannot be called '{name}'"):
        validate_selection(parameters)


@pytest.mark.parametrize(
    ("table", "name", "like"),
    [
        ("needs", "calm+new", "trend"),
        ("datasets", "my/data", "ml-100k"),
        ("models", "..", "smollm2-135m"),
        ("layouts", "a,b", "default"),
        ("methods", "", "flexrec"),
    ],
)
def test_a_name_that_cannot_stand_in_a_path_or_a_selection(parameters, table, name, like) -> None:
    parameters[table][name] = parameters[table][like]
    with pytest.raises(InputError) as caught:
        validate_selection(parameters)
    assert f"parameter `{table}`: the name {name!r} cannot be used" in str(caught.value)


def test_a_need_cannot_be_called_all(parameters) -> None:
    parameters["needs"]["all"] = parameters["needs"]["trend"]
    with pytest.raises(InputError, match=r"^parameter `needs`: a need cannot be called 'all'"):
        validate_selection(parameters)


def test_a_need_cannot_have_the_name_of_the_labels(parameters) -> None:
    parameters["needs"]["engagement"] = parameters["needs"]["trend"]
    with pytest.raises(InputError, match=r"^parameter `needs`: a need cannot be called 'engagement'"):
        validate_selection(parameters)


def test_a_number_that_is_infinite_or_none_is_refused_whatever_its_bounds(parameters) -> None:
    parameters["rl"] = parameters["rl"] | {"learning_rate": float("inf")}
    parameters["datasets"]["ml-1m"] = parameters["datasets"]["ml-1m"] | {"relevant_engagement": "nan"}
    parameters["planted"]["rewards"]["rates"][1] = float("inf")
    with pytest.raises(InputError) as caught:
        validate_selection(parameters)
    assert str(caught.value).splitlines() == [
        "parameter `datasets.ml-1m.relevant_engagement`: a finite number is needed (it is nan)",
        "parameter `rl.learning_rate`: a finite number is needed (it is inf)",
        "parameter `planted.rewards.rates.1`: a finite number is needed (it is inf)",
    ]


# ---- which needs a dataset can serve ----


def choice(project_root, need: str, **task: object) -> dict:
    """The base environment's parameters with another need asked of ml-100k, whose entry is changed."""
    from kedro.config import OmegaConfigLoader

    from flexrec.settings import CONFIG_LOADER_ARGS

    given = {"need": need, "datasets": {"ml-100k": task}}
    return OmegaConfigLoader(str(project_root / "conf"), runtime_params=given, **CONFIG_LOADER_ARGS)["parameters"]


@pytest.mark.parametrize(
    ("need", "task", "lacks", "served"),
    [
        ("trend", {"unavailable_signals": ["recency", "trend"]}, "signal trend", "interest, explore"),
        ("interest+trend", {"unavailable_signals": ["trend"]}, "signal trend", "interest, explore, fresh"),
        ("search", {}, "query as the context of its requests", "interest, explore, trend, fresh"),
        ("interest", {"context": "query"}, "history as the context of its requests", "search"),
    ],
)
def test_a_need_that_the_dataset_cannot_serve(project_root, need, task, lacks, served) -> None:
    with pytest.raises(InputError) as caught:
        validate_selection(choice(project_root, need, **task))
    name = need.split("+")[-1]
    assert str(caught.value) == (
        f"dataset ml-100k has no {lacks}, so the need {name}, which uses it, cannot be asked of it; "
        f"needs that can: {served}"
    )


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        ({}, ["interest", "explore", "trend", "fresh"]),
        ({"unavailable_signals": ["trend", "recency"]}, ["interest", "explore"]),
        ({"context": "query"}, ["search"]),
    ],
)
def test_all_needs_are_those_that_the_dataset_serves(project_root, task, needs) -> None:
    parameters = choice(project_root, "all", **task)
    assert list(parameters["needs_asked"]) == needs
    validate_selection(parameters)
    # one that is named is kept, and refused
    named = choice(project_root, "all,search,interest", **task)
    assert set(named["needs_asked"]) == {*needs, "search", "interest"}


def test_the_warm_up_is_as_long_as_the_need_wants(project_root) -> None:
    trend, interest, both = (
        choice(project_root, need)["warm_up"]["steps"] for need in ("trend", "interest", "trend+interest")
    )
    assert trend < interest == both


def test_a_dataset_that_serves_no_need(project_root) -> None:
    with pytest.raises(Exception, match="dataset 'ml-100k' can serve none of the needs interest, explore, trend"):
        choice(project_root, "all", context="query", unavailable_signals=["engagement"])


def test_an_instruction_with_an_unknown_noun(parameters) -> None:
    parameters["needs"]["trend"]["instruction"] = "Rank {itmes} first."
    with pytest.raises(InputError, match=r"instruction of 'trend' has the unknown field \{itmes\}; use \{items\} or"):
        validate_selection(parameters)


# ---- layouts of the prompt ----


@pytest.mark.parametrize(
    ("need", "served"), [("interest", True), ("interest+trend", True), ("trend", False), ("explore,fresh", False)]
)
def test_predictions_are_for_needs_that_use_engagement(project_root, need, served) -> None:
    from kedro.config import OmegaConfigLoader

    from flexrec.settings import CONFIG_LOADER_ARGS

    for layout, shows in (("default", False), ("fine", False), ("predictions", True), ("predictions_percent", True)):
        given = {"need": need, "layout": layout}
        loader = OmegaConfigLoader(str(project_root / "conf"), runtime_params=given, **CONFIG_LOADER_ARGS)
        if served or not shows:
            validate_selection(loader["parameters"])
            continue
        names = need.replace(",", ", ")
        with pytest.raises(InputError, match=rf"layout {layout} shows .* and {names} does not .*does: interest$"):
            validate_selection(loader["parameters"])
    # where every line shows it, no need is refused
    shown = {"signals": {"predicted": "word"}}
    loader = OmegaConfigLoader(
        str(project_root / "conf"), runtime_params={"need": need, "prompt": shown}, **CONFIG_LOADER_ARGS
    )
    validate_selection(loader["parameters"])
