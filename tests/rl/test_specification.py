"""Training from a file: the same bytes as `kedro run`, without Kedro, and every mistake told in words."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flexrec.errors import InputError
from flexrec.export import export
from flexrec.rl.__main__ import main
from flexrec.rl.specification import load_specification, run
from flexrec.rl.trainer import RankingTrainer
from flexrec.rl.travelling import check_digests

WITHOUT_KEDRO = """
import importlib, json, os, pkgutil, sys
from importlib.machinery import PathFinder

NEVER = {"kedro", "kedro_datasets", "kedro_viz", "mlflow"}
HIDDEN = NEVER | set(json.loads(os.environ["HIDDEN"]))
find_spec = PathFinder.find_spec


def find_others(name, *rest):
    # as if they were not installed
    return None if name.partition(".")[0] in HIDDEN else find_spec(name, *rest)


PathFinder.find_spec = staticmethod(find_others)

from flexrec.rl.__main__ import main

status = main(sys.argv[1:])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
# what training from a file does not import, an extra of the project's may need
HIDDEN = NEVER
for package in ("rl", "policy", "prompting", "ranking"):
    for module in pkgutil.iter_modules(importlib.import_module(f"flexrec.{package}").__path__):
        if module.name not in ("__main__", "vllm_processor"):  # which only vLLM loads
            importlib.import_module(f"flexrec.{package}.{module.name}")
assert not HIDDEN & {name.partition(".")[0] for name in sys.modules}
sys.exit(status)
"""


def documented(project_root) -> list[Requirement]:
    """What docs/backends.md has one install for training from a file, beside the project itself."""
    text = (project_root / "docs" / "backends.md").read_text()
    (command,) = re.findall(r"pip install --no-deps -e \.\n((?:    .*\n)+)", text)
    program, verb, *requirements = shlex.split(command.replace("\\\n", " "))
    assert (program, verb) == ("pip", "install")
    return [Requirement(text) for text in requirements]


def brought(requirements) -> set[str]:
    """Names of the distributions that requirements bring here, in their canonical form."""
    known, left = set(), list(requirements)
    while left:
        one = left.pop()
        if (key := (canonicalize_name(one.name), *sorted(one.extras))) in known:
            continue
        known.add(key)
        try:
            needed = [Requirement(text) for text in distribution(one.name).requires or ()]
        except PackageNotFoundError:  # of another build of torch
            continue
        extras = {"", *one.extras}
        left += [
            need
            for need in needed
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return {name for name, *_ in known}


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory) -> Path:
    """A folder made from the artifacts of a run of the whole graph."""
    target = tmp_path_factory.mktemp("exported") / "folder"
    with whole.project.entered():
        export(whole.project.path, target, env="test", parameters={})
    return target


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of it, somewhere else."""
    return shutil.copytree(exported, tmp_path / "moved" / "here")


@pytest.fixture(scope="module")
def trained(exported, tmp_path_factory, project_root) -> Path:
    """A copy in which the training has been run, in a process that has the documented packages and no others."""
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("trained") / "elsewhere")
    modules = {
        name: {canonicalize_name(owner) for owner in owners} for name, owners in packages_distributions().items()
    }
    there = brought(documented(project_root)) | {"flexrec"}
    hidden = [name for name, owners in modules.items() if not owners & there]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KEDRO, str(folder / "specification.yml")],
        cwd=folder.parent,
        env={**os.environ, "PYTHONHASHSEED": "99", "HIDDEN": json.dumps(hidden)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    printed, imported = done.stdout.splitlines()
    assert printed == str(folder / "output" / "run.json")
    used = {owner for name in json.loads(imported) for owner in modules.get(name, ())}
    superfluous = {canonicalize_name(one.name) for one in documented(project_root)} - used
    assert not superfluous, "docs/backends.md has them installed, and nothing imports them"
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rewrite(folder: Path, **values) -> Path:
    """Change keys of the specification (`rl={"steps": 1}` is merged into the block); None takes one out."""
    file = folder / "specification.yml"
    content = yaml.safe_load(file.read_text())
    for name, value in values.items():
        if value is None:
            content.pop(name)
        else:
            content[name] = content.get(name, {}) | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_same_bytes_as_kedro_from_the_same_inputs(whole, trained):
    outputs = whole.project.outputs()
    kedro_policy = {name: data for name, data in contents(outputs["policy"]).items() if "fingerprint" not in name}
    assert contents(trained / "output" / "policy") == kedro_policy
    pd.testing.assert_frame_equal(
        pd.read_parquet(trained / "output" / "rl_curves.parquet"),
        pd.read_parquet(outputs["rl_curves"]),
        check_exact=True,
    )
    # the warm-up policy itself did not pass for the trained one
    assert contents(trained / "checkpoint") != kedro_policy


def test_the_documented_packages_are_of_the_projects_versions(project_root):
    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {str(one) for one in documented(project_root)} <= {str(Requirement(text)) for text in project}


def test_the_wheels_that_travel_are_all_that_torch_and_transformers_do_not_bring(project_root):
    """Downloaded without what they need themselves, so that torch stays behind (benchmarks/README.md)."""
    text = (project_root / "benchmarks" / "README.md").read_text()
    (command,) = re.findall(r"pip download --no-deps -d wheels -c versions\.txt ((?:.*\\\n)*.*\n)", text)
    wheels = {canonicalize_name(name) for name in shlex.split(command.replace("\\\n", " "))}
    there = brought([Requirement("torch"), Requirement("transformers")])
    assert brought(documented(project_root)) - there <= wheels


def test_the_record_says_what_was_run(trained):
    assert sorted(path.name for path in (trained / "output").iterdir()) == [
        "policy",
        "rl_curves.parquet",
        "run.json",
        "started_with.json",
    ]
    record = json.loads((trained / "output" / "run.json").read_text())
    assert record["specification"]["rl"]["steps"] == 3
    assert record["specification"]["rl"]["clip_low"] == 0.2  # a default, written out
    assert set(record["inputs"]) == {
        "data.labelled_instances",
        "data.items",
        "data.training_gains",
        "data.true_gains",
        "model.folder",
        "checkpoint",
    }
    assert record["resumed"] is False
    assert "flexrec.rl.trainer" in record["code"]
    assert {"torch", "trl"} <= set(record["libraries"])
    assert not {"kedro", "mlflow"} & set(record["libraries"])


def test_test_instances_stay_behind(whole, exported):
    everything = whole.project.load("labelled_instances")
    assert "test" in set(everything["split"])
    instances = pd.read_parquet(exported / "data" / "labelled_instances.parquet")
    assert set(instances["split"]) == {"train", "validation"}
    gains = pd.read_parquet(exported / "data" / "true_gains.parquet")
    assert set(gains["instance_id"]) <= set(instances.loc[instances["split"] == "validation", "instance_id"])


class _KilledError(Exception):
    pass


def test_a_killed_run_ends_with_the_same_bytes(folder, trained, monkeypatch, capsys):
    rollout = RankingTrainer.rollout

    def dying(self, prompts, trainer):
        if self.state.global_step == 2:
            raise _KilledError
        return rollout(self, prompts, trainer)

    with monkeypatch.context() as patched:
        patched.setattr(RankingTrainer, "rollout", dying)
        with pytest.raises(_KilledError):
            run(folder / "specification.yml")
    assert not (folder / "output" / "run.json").exists()
    # another specification must not go on from these checkpoints
    text = (folder / "specification.yml").read_text()
    with pytest.raises(InputError, match=r"parameter rl\.kl changed from 0\.01 to 0\.5"):
        run(rewrite(folder, rl={"kl": 0.5}))
    (folder / "specification.yml").write_text(text)

    # it took an hour to its checkpoint, and had begun to write another
    work = folder / "output" / "work"
    begun = (work / ".seconds").stat().st_mtime
    os.utime(work / "checkpoint-2" / "complete", (begun + 3600, begun + 3600))
    record = run(folder / "specification.yml")
    assert json.loads(record.read_text())["resumed"] is True
    assert json.loads(record.read_text())["seconds"] > 3600
    for name in ("policy", "rl_curves.parquet"):
        whole, resumed = trained / "output" / name, folder / "output" / name
        assert (contents(resumed) == contents(whole)) if whole.is_dir() else resumed.read_bytes() == whole.read_bytes()
    assert not (folder / "output" / "work").exists()

    # done is done
    before = contents(folder / "output")
    assert main([str(folder / "specification.yml")]) == 0
    assert contents(folder / "output") == before
    assert capsys.readouterr().out.strip() == str(record)


def test_a_fresh_adapter_and_a_fresh_start(folder, capsys):
    """Also: JSON is YAML, and an absolute path is taken as it is."""
    content = yaml.safe_load(rewrite(folder, checkpoint=None, rl={"steps": 1}).read_text())
    content |= {"adapter": {"rank": 2, "alpha": 2, "upper_layers": 1}, "output": str(folder / "other")}
    file = folder / "own.json"
    file.write_text(json.dumps(content))
    record = json.loads(run(file).read_text())
    assert record["specification"]["adapter"]["rank"] == 2
    config = json.loads((folder / "other" / "policy" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "tiny")

    file.write_text(json.dumps({**content, "seed": 1}))
    assert main([str(file)]) == 1
    assert "holds another run: parameter seed changed from 0 to 1" in capsys.readouterr().err
    before = contents(folder / "other" / "policy")
    # what a kill leaves of a policy that was being written
    (folder / "other" / ".policy.1a2b.partial").mkdir()
    assert main([str(file), "--fresh"]) == 0
    assert not list((folder / "other").glob(".*.partial"))
    assert contents(folder / "other" / "policy") != before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rl": {"setps": 3}}, r"unknown key `rl\.setps`; allowed there: clip_high, .*steps"),
        ({"modle": "x"}, r"unknown key `modle`; allowed there: adapter, checkpoint, data"),
        ({"needs": {"odd": {"instruction": "x", "terms": [], "relevant": {"rule": "top"}}}}, r"`needs\.odd\.terms`: "),
        ({"method": {"uncertainty": {"scoop": "none"}}}, r"unknown key `method\.uncertainty\.scoop`; allowed .* scope"),
        ({"method": {"uncertainty": {"low": 2.0}}}, r"`method\.uncertainty\.low`: .* less than or equal to 1"),
        ({"rl": {"steps": 0}}, r"`rl\.steps`: input should be greater than or equal to 1 \(it is 0\)"),
        ({"seed": None}, r"the key `seed` is missing"),
        ({"checkpoint": None}, r"give either `checkpoint`, .* or `adapter`"),
        ({"adapter": {"rank": 4}}, r"give either `checkpoint`, .* or `adapter`"),
        ({"checkpoint": "nowhere"}, r"`checkpoint` does not exist: .*nowhere"),
        ({"data": "nowhere"}, r"`data\.labelled_instances` does not exist: .*nowhere/labelled_instances\.parquet"),
        ({"generation": {"kind": "vllm", "mode": "server"}}, r"mode `server` needs `url`"),
        ({"generation": {"kind": "vlm"}}, r"`generation\.kind`: input should be 'shared_prompt' or 'vllm'"),
        (
            {"method": {"algorithm": "dpo"}},
            r"`method\.algorithm`: input should be one of .*'ppo', 'sft' \(it is 'dpo'\)",
        ),
        (
            {"method": {"adapter": {"rank": 2}}},
            r"unknown key `method\.adapter`; allowed there: algorithm, clip, .* ppo, ",
        ),
    ],
)
def test_mistakes_are_told_in_words(folder, values, message):
    with pytest.raises(InputError, match=message) as caught:
        load_specification(rewrite(folder, **values))
    assert str(folder / "specification.yml") in str(caught.value)


def test_a_method_with_an_adapter_of_its_own_starts_from_the_base_model(folder):
    file = folder / "specification.yml"
    content = yaml.safe_load(file.read_text()) | {"method": {"adapter": {"rank": 2}}}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"the key `method\.algorithm` is missing"):
        load_specification(file)
    content["method"]["algorithm"] = "sft"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="`method` has an adapter of its own: leave out `checkpoint` and `adapter`"):
        load_specification(file)
    assert load_specification(rewrite(folder, checkpoint=None)).method.adapter.rank == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "the key 'seed' occurs twice.*line 2"),
        ("rl: {steps: 1, steps: 2}\n", "the key 'steps' occurs twice"),
        ("a: [\n", "this is not YAML"),
        ("!!python/object/apply:os.getcwd []\n", "this is not YAML"),
        ("just words\n", "a specification is a mapping with the keys data, model"),
    ],
)
def test_what_is_no_specification(tmp_path, text, message):
    file = tmp_path / "spec.yml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_specification(file)
    with pytest.raises(InputError, match=r"absent\.yml: cannot be read"):
        load_specification(tmp_path / "absent.yml")


def test_files_that_changed_on_the_way(folder, capsys):
    file = folder / "specification.yml"
    assert main(["--check", str(file)]) == 0
    count = check_digests(folder)
    assert f"{count} files are as exported" in capsys.readouterr().out
    assert count == len(contents(folder)) - 2  # all but the list and the specification
    weights = folder / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main([str(file)]) == 1
    assert "model.safetensors is not the file that was exported" in capsys.readouterr().err
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is listed .* but is not there"):
        check_digests(folder)
    (folder / "SHA256SUMS").write_text("00  ../outside\n")
    with pytest.raises(InputError, match="line 1: a digest and a file name"):
        check_digests(folder)


def test_tables_are_checked(folder):
    place = folder / "data" / "items.parquet"
    (folder / "SHA256SUMS").unlink()
    pd.read_parquet(place).drop(columns="title").to_parquet(place)
    with pytest.raises(InputError, match=r"items\.parquet: table items, column title: the column is missing"):
        run(folder / "specification.yml")
    place.write_bytes(b"no table")
    with pytest.raises(InputError, match=r"items\.parquet: cannot be read as Parquet"):
        run(folder / "specification.yml")
    assert not (folder / "output").exists()


def test_somebody_elses_folder_is_left_alone(folder, whole):
    (folder / "output").mkdir()
    (folder / "output" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(folder / "specification.yml")
    with whole.project.entered(), pytest.raises(InputError, match="is there already"):
        export(whole.project.path, folder, env="test", parameters={})
    assert (folder / "output" / "thesis.txt").read_text() == "mine"


def test_what_other_parameters_made_is_not_exported(whole, tmp_path):
    """The warm-up has one place whatever its length: what lies there was made with the length of the environment."""
    with whole.project.entered(), pytest.raises(InputError) as caught:
        export(whole.project.path, tmp_path / "out", env="test", parameters={"warm_up": {"lists_per_step": 3}})
    assert "node 'train_warm_up' would run again, because parameter warm_up.lists_per_step changed" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_exporting_what_has_not_been_made(fresh, tmp_path):
    with fresh.entered():
        with pytest.raises(InputError, match="kedro run --pipelines=data,warm_up"):
            export(fresh.path, tmp_path / "out", env="test", parameters={})
        with pytest.raises(InputError, match="unknown parameter `sede`"):
            export(fresh.path, tmp_path / "out", env="test", parameters={"sede": 1})
    assert not (tmp_path / "out").exists()
