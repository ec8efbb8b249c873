"""Training from one file: what goes in, where it lies, the settings, and where the result goes.

A specification is YAML (JSON is YAML too). Its paths are relative to the file, so that a folder with everything in it
can be moved to another machine; `write_specification` makes such a folder. Neither Kedro nor MLflow is needed, and
`train_rl` of the project's pipeline gives the same weights and curves, bit for bit, from the same inputs.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

import pandas as pd
import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo, model_validator

from flexrec.config import Settings
from flexrec.errors import InputError
from flexrec.files import replacing, sibling
from flexrec.fingerprint import Fingerprint, content_digest, parameter_parts
from flexrec.policy.settings import AdapterSettings, DecodingSettings
from flexrec.policy.vllm_sampler import GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import Need
from flexrec.rl.settings import MethodSettings, RlSettings
from flexrec.source_code import code_of

if TYPE_CHECKING:
    from flexrec.policy.ranker import Ranker

logger = logging.getLogger(__name__)

SPECIFICATION = "specification.yml"
DIGESTS = "SHA256SUMS"
POLICY, CURVES, RECORD, WORK = "policy", "rl_curves.parquet", "run.json", "work"
STARTED_WITH = "started_with.json"


# --- The file ---------------------------------------------------------------------------------------------------------


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    return Path(os.path.normpath(folder / path.expanduser()))


Place = Annotated[Path, AfterValidator(_beside_the_file)]


class Tables(Settings):
    """The four tables of the pipelines, as Parquet files."""

    labelled_instances: Place = Field(description="Instances; rows of the splits `train` and `validation` are read")
    items: Place = Field(description="Titles and topics")
    training_gains: Place = Field(description="What is learned from")
    true_gains: Place = Field(description="Gains of the validation instances, for the curve and nothing else")


class BaseModelFolder(Settings):
    """The model that an adapter is trained on."""

    folder: Place = Field(description="Hugging Face folder with safetensors and a tokenizer with a chat template")
    name: str = Field(min_length=1, description="What the trained adapter calls its base model")


class Specification(Settings):
    """One training."""

    data: Tables
    model: BaseModelFolder
    checkpoint: Place | None = Field(None, description="Policy folder that training starts from; excludes `adapter`")
    adapter: AdapterSettings | None = Field(None, description="Which weights of the base model are trained instead")
    needs: dict[str, Need] = Field(min_length=1, description="Needs by name, as in `needs.yml`")
    prompt: PromptSettings = PromptSettings()
    decoding: DecodingSettings = DecodingSettings()
    method: MethodSettings = MethodSettings()
    rl: RlSettings = RlSettings()
    generation: GenerationSettings = GenerationSettings()
    seed: int = Field(ge=0)
    output: Place = Field(description="Folder for the policy, the curves and the record of the run")

    @model_validator(mode="before")
    @classmethod
    def _data_folder(cls, value: Any) -> Any:
        """`data: folder` stands for the four tables in it."""
        if isinstance(value, dict) and isinstance(value.get("data"), str):
            folder = value["data"]
            return {**value, "data": {name: f"{folder}/{name}.parquet" for name in Tables.model_fields}}
        return value

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.checkpoint is None) == (self.adapter is None):
            raise ValueError(
                "give either `checkpoint`, a policy to train on, or `adapter`, to train the base model from the start"
            )
        return self


class _Loader(yaml.SafeLoader):
    """YAML in which no key may occur twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        name = loader.construct_object(key, deep=True)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} occurs twice", key.start_mark)
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_specification(file: Path) -> Specification:
    """Read and check a specification.

    Raises:
        InputError: The file cannot be read, a key is unknown (the message has the allowed ones), a value is out of
            range, or a path does not exist.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # a subclass of the safe loader
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: this is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: a specification is a mapping with the keys {', '.join(Specification.model_fields)}")
    try:
        spec = Specification.model_validate(content, context={"folder": file.resolve().parent})
    except ValidationError as error:
        raise InputError("\n".join(f"{file}: {_explained(problem)}" for problem in error.errors())) from error
    for key, place in _inputs(spec).items():
        if not place.exists():
            raise InputError(f"{file}: `{key}` does not exist: {place}")
    return spec


def _explained(problem: Mapping[str, Any]) -> str:
    """One validation error in words."""
    path = list(problem["loc"])
    key = ".".join(str(part) for part in path)
    if problem["type"] == "extra_forbidden":
        allowed = sorted({name for model in _models_at(path[:-1]) for name in model.model_fields})
        return f"unknown key `{key}`" + (f"; allowed there: {', '.join(allowed)}" if allowed else "")
    if problem["type"] == "missing":
        return f"the key `{key}` is missing"
    reason = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | list) else f" (it is {problem['input']!r})"
    return f"{f'`{key}`: ' if key else ''}{reason[:1].lower()}{reason[1:]}{given}"


def _models_at(path: list[Any]) -> list[type[BaseModel]]:
    """The settings models that may stand at a place of a specification."""
    found: list[type[BaseModel]] = [Specification]
    for part in path:
        fields = [model.model_fields[part] for model in found if part in model.model_fields]
        if fields:
            found = [model for field in fields for model in _models_in(field.annotation)]
        # anything else is the key of a table, the place in a list, or the tag of a union
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _inputs(spec: Specification) -> dict[str, Path]:
    """Everything that is read, by the key that names it."""
    places = {f"data.{name}": getattr(spec.data, name) for name in Tables.model_fields}
    places["model.folder"] = spec.model.folder
    return places if spec.checkpoint is None else {**places, "checkpoint": spec.checkpoint}


def _settings(spec: Specification) -> dict[str, Any]:
    """Everything that a specification says but where things lie."""
    values = spec.model_dump(mode="json", exclude={"data", "checkpoint", "output"})
    values["model"] = {"name": spec.model.name}
    return values


# --- Training ---------------------------------------------------------------------------------------------------------


def train_on_tables(
    base_model: Path,
    checkpoint: Path | None,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    training_gains: pd.DataFrame,
    true_gains: pd.DataFrame,
    *,
    needs: Mapping[str, Need],
    prompt: PromptSettings,
    decoding: DecodingSettings,
    method: MethodSettings,
    settings: RlSettings,
    seed: int,
    work_folder: Path,
    adapter: AdapterSettings | None = None,
    generation: GenerationSettings | None = None,
) -> tuple["Ranker", pd.DataFrame]:
    """Train a policy on training instances; validation instances give the curve and nothing else.

    Args:
        base_model: Hugging Face folder.
        checkpoint: Policy folder that training starts from; None starts from the base model.
        labelled_instances: Instances of all splits; test instances are not looked at.
        items: Titles and topics.
        training_gains: Gains of the training instances.
        true_gains: Gains of held-out instances.
        needs: The needs to train for, by name.
        prompt: Layout of the prompt.
        decoding: Form of the answers.
        method: Rewards and advantages.
        settings: Optimisation.
        seed: Seed of adapter, data order and sampling.
        work_folder: Checkpoints; a training that was killed goes on from the last whole one.
        adapter: Which weights are trained where there is no checkpoint.
        generation: Where rollouts come from; None for the built-in sampler.

    Returns:
        The trained ranker and the curves: `step`, `metric`, `value`.
    """
    from flexrec.policy.models import load_policy, load_tokenizer
    from flexrec.policy.ranker import Ranker
    from flexrec.ranking.instances import read_instances
    from flexrec.rl.examples import make_examples
    from flexrec.rl.trainer import train_policy
    from flexrec.rl.warm_up import add_adapter

    model = load_policy(base_model, checkpoint, trainable=True)
    if checkpoint is None:
        model = add_adapter(model, adapter or AdapterSettings(), seed)
    ranker = Ranker(model, load_tokenizer(base_model), prompt, decoding)
    instances = {
        split: read_instances(labelled_instances[labelled_instances[Columns.SPLIT] == split], items)
        for split in ("train", "validation")
    }
    known = {split: {instance.instance_id for instance in members} for split, members in instances.items()}
    examples = make_examples(instances["train"], training_gains, needs, mean=Columns.MEAN, variance=Columns.VARIANCE)
    validation = make_examples(
        instances["validation"],
        true_gains[true_gains[Columns.INSTANCE_ID].isin(known["validation"])],
        needs,
        mean=Columns.GAINS,
        variance=None,
    )
    if not examples:
        raise InputError(f"there is no training instance with gains for the needs {', '.join(needs)}")
    options: dict[str, Any] = {}
    if generation is not None and generation.kind == "vllm":
        from flexrec.policy.vllm_sampler import start_vllm

        options["sampler"] = start_vllm(base_model, generation)
    curves = train_policy(
        ranker, examples, validation, method=method, settings=settings, work_folder=work_folder, seed=seed, **options
    )
    return ranker, curves


def run(file: Path, *, fresh: bool = False) -> Path:
    """Train what a specification says.

    The output folder gets `policy` (the checkpoint), `rl_curves.parquet` and, last, `run.json`: what was run. A run
    that was killed goes on from its last whole checkpoint; one that is done already is left as it is.

    Args:
        file: The specification.
        fresh: Start again, whatever the output folder holds.

    Returns:
        The path of `run.json`.

    Raises:
        InputError: The specification or its data cannot be used, or the output folder holds something else.
    """
    from flexrec.policy.models import save_policy

    spec = load_specification(file)
    check_digests(file.resolve().parent)
    tables = read_tables(spec.data)
    made_of = fingerprint(spec)
    record, work = spec.output / RECORD, spec.output / WORK
    if fresh:
        _clear(spec.output)
    known = _started_with(spec.output)
    if known is not None and (difference := made_of.difference(known)) is not None:
        raise InputError(
            f"{spec.output} holds another run: {difference}. Name another `output`, or start again with --fresh."
        )
    if known is None and spec.output.exists() and any(spec.output.iterdir()):
        raise InputError(f"{spec.output} is not empty and holds no run of flexrec; name another `output`")
    if record.exists():
        logger.info("%s is there already, made of the same inputs; --fresh makes it again", record)
        return record
    with replacing(spec.output / STARTED_WITH) as opened:
        json.dump(made_of.parts, opened, indent=2, sort_keys=True)
    resumed = any(work.glob("checkpoint-*"))
    logger.info("%s", "going on from the last checkpoint" if resumed else f"training, {spec.rl.steps} steps")
    started = time.time()
    work.mkdir(parents=True, exist_ok=True)
    ranker, curves = train_on_tables(
        spec.model.folder,
        spec.checkpoint,
        **tables,
        needs=spec.needs,
        prompt=spec.prompt,
        decoding=spec.decoding,
        method=spec.method,
        settings=spec.rl,
        seed=spec.seed,
        work_folder=work,
        adapter=spec.adapter,
        generation=spec.generation,
    )
    _write_folder(spec.output / POLICY, lambda folder: save_policy(ranker.model, folder, base_name=spec.model.name))
    with replacing(spec.output / CURVES, "wb") as opened:
        curves.to_parquet(opened)
    values = {
        "specification": _settings(spec),
        "inputs": {key: {"path": str(place), "sha256": content_digest(place)} for key, place in _inputs(spec).items()},
        "outputs": {name: content_digest(spec.output / name) for name in (POLICY, CURVES)},
        "code": made_of.parts["code"],
        "libraries": made_of.parts["library"],
        "resumed": resumed,
        "seconds": round(time.time() - started, 1),
        "hardware": _hardware(),
    }
    with replacing(record) as opened:
        json.dump(values, opened, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    shutil.rmtree(work)
    return record


def read_tables(data: Tables) -> dict[str, pd.DataFrame]:
    """The four tables, checked against their schemas.

    Raises:
        InputError: A file is no Parquet file, or its table breaks a rule.
    """
    tables = {}
    for name in Tables.model_fields:
        place = getattr(data, name)
        try:
            tables[name] = checked_table(name, pd.read_parquet(place))
        except InputError as error:
            raise InputError(f"{place}: {error}. Was it exported by another version of flexrec?") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{place}: cannot be read as Parquet ({error})") from error
    return tables


def checked_table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """One of the four tables, checked against its schema, as the catalog does."""
    from flexrec.ranking import schemas

    forms = {
        "labelled_instances": schemas.LabelledInstances,
        "items": schemas.Items,
        "training_gains": schemas.TrainingGains,
        "true_gains": schemas.Gains,
    }
    return forms[name].validate(table)


def fingerprint(spec: Specification) -> Fingerprint:
    """What a training is a function of: code, settings, bytes of the inputs, libraries."""
    code = code_of([train_on_tables])
    return Fingerprint(
        {
            "code": code.modules,
            **parameter_parts({"parameters": _settings(spec)}),
            "input": {key: content_digest(place) for key, place in _inputs(spec).items()},
            "library": code.libraries,
        }
    )


def _started_with(output: Path) -> dict[str, dict[str, str]] | None:
    try:
        return json.loads((output / STARTED_WITH).read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise InputError(f"{output / STARTED_WITH} is damaged ({error}); start again with --fresh") from error


def _clear(output: Path) -> None:
    """Remove what a run writes, and nothing else."""
    for name in (RECORD, STARTED_WITH, CURVES):
        (output / name).unlink(missing_ok=True)
    for name in (POLICY, WORK):
        shutil.rmtree(output / name, ignore_errors=True)


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def _write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make a folder that is complete, or not there."""
    with _building(target) as partial:
        write(partial)


@contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A folder that takes the name `target` once the block ends without an exception."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = sibling(target)
    try:
        partial.mkdir()
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# --- A folder that travels --------------------------------------------------------------------------------------------


def write_specification(
    target: Path,
    *,
    tables: Mapping[str, pd.DataFrame],
    base_model: Path,
    model_name: str,
    checkpoint: Path | None,
    adapter: AdapterSettings | None,
    needs: Mapping[str, Need],
    prompt: PromptSettings,
    decoding: DecodingSettings,
    method: MethodSettings,
    rl: RlSettings,
    generation: GenerationSettings,
    seed: int,
) -> Path:
    """Write a folder that holds everything one training needs, and a list of its files' SHA-256.

    Test instances and the gains of anything but validation instances stay behind: training has no use for them.

    Args:
        target: Folder to make; it must not be there, or be empty.
        tables: The tables named in `Tables`.
        base_model: Folder of the base model.
        model_name: What the trained adapter calls it.
        checkpoint: Policy that training starts from, or None.
        adapter: Which weights are trained where there is no checkpoint.
        needs: Needs by name.
        prompt: Layout of the prompt.
        decoding: Form of the answers.
        method: Rewards and advantages.
        rl: Optimisation.
        generation: Where rollouts come from.
        seed: Seed of the training.

    Returns:
        The path of the specification.

    Raises:
        InputError: The folder is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; name a folder that is not, or an empty one")
    instances = tables["labelled_instances"]
    splits = instances[Columns.SPLIT]
    validation = instances[splits == "validation"][Columns.INSTANCE_ID]
    true_gains = tables["true_gains"]
    kept = {
        **{name: checked_table(name, tables[name]) for name in Tables.model_fields},
        "labelled_instances": instances[splits.isin(["train", "validation"])],
        "true_gains": true_gains[true_gains[Columns.INSTANCE_ID].isin(validation)],
    }
    content = {
        "data": "data",
        "model": {"folder": "model", "name": model_name},
        **({"adapter": _plain(adapter)} if checkpoint is None else {"checkpoint": "checkpoint"}),
        "needs": {name: _plain(need) for name, need in needs.items()},
        "prompt": _plain(prompt),
        "decoding": _plain(decoding),
        "method": _plain(method),
        "rl": _plain(rl),
        "generation": _plain(generation),
        "seed": seed,
        "output": "output",
    }
    with _building(target) as partial:
        (partial / "data").mkdir()
        for name, table in kept.items():
            table.reset_index(drop=True).to_parquet(partial / "data" / f"{name}.parquet")
        shutil.copytree(base_model, partial / "model")
        if checkpoint is not None:
            shutil.copytree(checkpoint, partial / "checkpoint")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        lines = [f"{_sha256(path)}  {path.relative_to(partial).as_posix()}\n" for path in files]
        (partial / DIGESTS).write_text("".join(lines), encoding="utf-8")
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
        (partial / SPECIFICATION).write_text(
            "# One training: `python -m flexrec.rl` with this file. Paths are relative to it; what each key means is\n"
            f"# said in docs/backends.md. The files beside it are listed in {DIGESTS}; this one may be edited.\n{text}",
            encoding="utf-8",
        )
    return target / SPECIFICATION


def _plain(settings: BaseModel | None) -> Any:
    return None if settings is None else settings.model_dump(mode="json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digests(folder: Path) -> int:
    """Compare the files of an exported folder with its list of digests, where it has one.

    Returns:
        How many files were compared.

    Raises:
        InputError: A file is missing or differs.
    """
    listing = folder / DIGESTS
    if not listing.is_file():
        return 0
    lines = listing.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        digest, _, name = line.partition("  ")
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{listing}, line {number}: a digest and a file name are needed, found {line!r}")
        place = folder / name
        if not place.is_file():
            raise InputError(f"{place} is listed in {DIGESTS} but is not there: copy the folder again")
        if _sha256(place) != digest:
            raise InputError(f"{place} is not the file that was exported (its SHA-256 differs): copy it again")
    return len(lines)
