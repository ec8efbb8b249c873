"""Every environment's configuration as a session reads it."""

import copy
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline

from flexrec.errors import InputError
from flexrec.runner import is_persisted, is_work_folder, unwrapped
from flexrec.selection import Parameters, validate_selection
from flexrec.settings import CONFIG_LOADER_ARGS, CONFIG_LOADER_CLASS

ENVIRONMENTS = ["base", "test", "gpu", "spark"]


def settings_of(root: Path, env: str, given: dict | None = None) -> Parameters:
    bootstrap_project(root)
    with KedroSession.create(root, env=env, runtime_params=given) as session:
        return Parameters.model_validate(session._get_config_loader()["parameters"])


@pytest.fixture(scope="module")
def read(project_root) -> dict[str, Parameters]:
    return {env: settings_of(project_root, env) for env in ENVIRONMENTS}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_loads_and_validates(project_root, env) -> None:
    bootstrap_project(project_root)
    with KedroSession.create(project_root, env=env) as session:
        context = session.load_context()
        assert Parameters.model_validate(session._get_config_loader()["parameters"])
        catalog = context.catalog
    # every output is kept on disk, with a layer for kedro-viz; a study looks at its runs every time
    passing = {"study_looked_at", "study_runs"}
    whole = sum((pipelines[name] for name in pipelines), Pipeline([]))
    for name in whole.all_outputs() - passing:
        dataset = unwrapped(catalog[name])
        assert is_persisted(dataset), name
        assert dataset.metadata["kedro-viz"]["layer"]
    for name in whole.inputs():
        assert name.startswith("params:") or is_work_folder(unwrapped(catalog[name])), name
    # no entry that nothing makes or reads
    entries = {name for name in catalog.keys() if not name.startswith("params:") and name != "parameters"}  # noqa: SIM118
    assert entries == {name for name in whole.datasets() - passing if not name.startswith("params:")}


def test_what_each_environment_is_for(read) -> None:
    base, test, gpu, spark = (read[env] for env in ENVIRONMENTS)
    assert (base.dataset, base.model, base.retrieve.embedder.kind) == (
        "ml-100k",
        "smollm2-135m",
        "sentence_transformers",
    )
    assert (test.dataset, test.model, test.retrieve.embedder.kind) == ("fabricated", "tiny", "hashing")
    assert (gpu.dataset, gpu.model, gpu.adapter.kind) == ("ml-1m", "qwen2.5-3b", "full")
    # the paper's scale
    assert (gpu.task.candidates, gpu.task.history) == (30, 10)
    assert gpu.task.instances.model_dump() == {"train": 5000, "validation": 500, "test": 1000}
    assert gpu.model_settings.root.repository == "Qwen/Qwen2.5-3B-Instruct"
    assert len(gpu.model_settings.root.revision) == 40
    # what an environment does not name stays
    assert test.rl.learning_rate == base.rl.learning_rate
    assert gpu.task.gain == base.datasets["ml-1m"].gain
    # Spark differs by its engine alone
    assert (base.engine.root.kind, spark.engine.root.kind) == ("duckdb", "spark")
    assert spark.model_copy(update={"engine": base.engine}) == base
    # nothing is fetched from a hub unless an entry says so
    assert base.model_settings.root.source == "index"


def test_a_choice_on_the_command_line_picks_its_entry(project_root, read) -> None:
    chosen = settings_of(project_root, "base", {"dataset": "ml-1m", "need": "all", "seed": 3, "rl": {"steps": 7}})
    base = read["base"]
    assert chosen.task == base.datasets["ml-1m"] != base.task
    # all that the dataset can serve
    assert chosen.needs_asked == {name: need for name, need in base.needs.items() if need.context == "history"}
    assert list(base.needs_asked) == [base.need]
    assert (chosen.seed, chosen.rl.steps, chosen.rl.rollouts) == (3, 7, base.rl.rollouts)


def test_what_can_be_chosen_is_in_the_paths(project_root) -> None:
    given = {"dataset": "ml-1m", "need": "explore", "density": 0.2, "seed": 5, "model": "tiny", "method": "flexrec"}
    bootstrap_project(project_root)
    with KedroSession.create(project_root, env="base", runtime_params=given) as session:
        catalog = session.load_context().catalog
    path = str(unwrapped(catalog["policy"])._filepath)
    assert path.endswith("data/06_models/ml-1m/density-0.2_seed-5/explore/tiny/flexrec/policy")
    assert str(unwrapped(catalog["interactions"])._filepath).endswith("ml-1m/interactions.parquet")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"need": "interest,trend"}, "density-0.1_seed-0/interest+trend/smollm2-135m/gains-critic"),
        ({"need": "trend + interest"}, "density-0.1_seed-0/interest+trend/smollm2-135m/gains-critic"),
        ({"density": 1}, "density-1.0_seed-0/trend/smollm2-135m/gains-critic"),
        ({"density": "1.0"}, "density-1.0_seed-0/trend/smollm2-135m/gains-critic"),
        ({"density": "thin"}, "density-thin_seed-0/trend/smollm2-135m/gains-critic"),
        ({"method": "rec_r1"}, "density-0.1_seed-0/trend/smollm2-135m/gains-observed"),
        ({"methods": {"flexrec": {"gains": "item_knn"}}}, "density-0.1_seed-0/trend/smollm2-135m/gains-item_knn"),
        ({"method_settings": {"gains": "user_knn"}}, "density-0.1_seed-0/trend/smollm2-135m/gains-user_knn"),
    ],
)
def test_a_choice_has_one_place_however_it_is_spelled(project_root, given, part) -> None:
    loader = CONFIG_LOADER_CLASS(str(project_root / "conf"), runtime_params=given, **CONFIG_LOADER_ARGS)
    assert loader["catalog"]["warm_up_policy"]["filepath"] == f"data/06_models/ml-100k/{part}/warm_up_policy"


def test_an_environment_changes_what_is_picked_out_of_a_table(project_root, tmp_path) -> None:
    conf = shutil.copytree(project_root / "conf", tmp_path / "conf")
    (conf / "mine").mkdir()
    for name, text in {
        "needs": "needs: {trend: {instruction: Mine.}}",
        "methods": "methods: {flexrec: {gains: observed}}",
        "datasets": "datasets: {ml-100k: {trend_window_days: 3}}",
        "parameters": "task: {history: 7}",
    }.items():
        (conf / "mine" / f"{name}.yml").write_text(text)
    base, mine = (
        CONFIG_LOADER_CLASS(str(conf), env=env, runtime_params={"task": {"candidates": 8}}, **CONFIG_LOADER_ARGS)
        for env in ("base", "mine")
    )
    before, after = base["parameters"], mine["parameters"]
    assert after["needs_asked"] == {"trend": {**before["needs_asked"]["trend"], "instruction": "Mine."}}
    assert after["method_settings"] == {**before["method_settings"], "gains": "observed"}
    assert before["task"]["candidates"] == 8
    assert after["task"] == {**before["task"], "trend_window_days": 3, "history": 7}
    # what base makes of the picked entry
    assert (before["critic"]["history_length"], after["critic"]["history_length"]) == (5, 7)
    assert mine["catalog"]["training_gains"]["filepath"].endswith("/training_gains-observed.parquet")


# --- Misspelt keys ---

FREE = {
    ("engine", "config"),
    ("datasets",),
    ("needs",),
    ("methods",),
    ("models",),
    ("embedders",),
    ("needs_asked",),
    ("prompt", "signals"),
}
"""Tables whose keys are names; an entry is checked as what it is. Spark's own settings are not ours to know."""


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where mappings stand in a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [found for key, item in pairs for found in places(item, (*place, key))]
    return [place, *inner] if isinstance(value, dict) else inner


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place; None where there is no such place."""
    for key in place:
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and key < len(value)
        if not inside:
            return None
        value = value[key]
    return value


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_misspelt_key_is_refused_wherever_it_stands(project_root, env) -> None:
    base, parameters = (
        CONFIG_LOADER_CLASS(str(project_root / "conf"), env=one, **CONFIG_LOADER_ARGS)["parameters"]
        for one in ("base", env)
    )
    everywhere = places(parameters)
    assert len(everywhere) > 50
    for place in everywhere:
        # what an environment leaves as it is has been looked at as the base's
        if env != "base" and at(base, place) == at(parameters, place):
            continue
        changed = copy.deepcopy(parameters)
        inner = changed
        for key in place:
            inner = inner[key]
        inner["misspelt"] = {"anything": 1} if place in FREE else 1
        with pytest.raises(InputError, match="misspelt"):
            validate_selection(changed)


def test_a_misspelt_key_in_any_file_is_refused(project_root, tmp_path) -> None:
    shutil.copytree(project_root / "conf", tmp_path / "conf")
    patterns = CONFIG_LOADER_ARGS["config_patterns"]["parameters"]
    files = sorted({file for pattern in patterns for file in (tmp_path / "conf").glob(f"*/{pattern}")})
    files = [file for file in files if file.suffix == ".yml" and file.parent.name != "local"]
    assert len(files) > 10
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}\nmisspelt: 1\n", encoding="utf-8")
        env = file.parent.name
        parameters = CONFIG_LOADER_CLASS(str(tmp_path / "conf"), env=env, **CONFIG_LOADER_ARGS)["parameters"]
        with pytest.raises(InputError, match="parameter `misspelt`: extra inputs are not permitted"):
            validate_selection(parameters)
        file.write_text(text, encoding="utf-8")


def test_the_list_of_pipelines_comes_fast(project_root) -> None:
    """Processor time, which a busy machine does not change much: torch and the like must not be imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "registry", "list"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert set(pipelines) <= set(done.stdout.replace("-", " ").split()) | {"__default__"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_what_a_session_imports_before_it_runs_is_light(project_root) -> None:
    script = (
        "import sys; from pathlib import Path; from kedro.framework.startup import bootstrap_project; "
        f"bootstrap_project(Path({str(project_root)!r})); "
        "from kedro.framework.project import pipelines; dict(pipelines); "
        "print(*(name for name in ('transformers', 'trl', 'peft', 'mlflow', 'ibis') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
