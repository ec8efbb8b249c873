"""Training from one file: what goes in, where it lies, the settings, and where the result goes.

A specification is YAML (JSON is YAML too). Its paths are relative to the file, so that a folder with everything in it
can be moved to another machine; `write_specification` makes such a folder. Neither Kedro nor MLflow is needed, and
`train_rl` of the project's pipeline gives the same weights and curves, bit for bit, from the same inputs.
"""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from flexrec.attempts import Clock
from flexrec.config import Settings, walked
from flexrec.errors import InputError
from flexrec.files import building, replacing
from flexrec.fingerprint import Fingerprint, content_digest, parameter_parts
from flexrec.policy.settings import AdapterSettings, DecodingSettings, GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.needs import Need
from flexrec.rl.settings import Method, MethodSettings, RlSettings, WarmUpSettings
from flexrec.rl.training import checked_table, own_adapter, train_on_tables
from flexrec.rl.travelling import check_digests
from flexrec.source_code import code_of

logger = logging.getLogger(__name__)

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
    method: Method = MethodSettings()
    rl: RlSettings = RlSettings()
    warm_up: WarmUpSettings = Field(
        WarmUpSettings(), description="Updates that other methods had before; read by one with an adapter of its own"
    )
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
        if own_adapter(self.method) is not None:
            if self.checkpoint is not None or self.adapter is not None:
                raise ValueError("`method` has an adapter of its own: leave out `checkpoint` and `adapter`")
        elif (self.checkpoint is None) == (self.adapter is None):
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
    place = list(problem["loc"])
    key = ".".join(walked(Specification, place)[1])
    if problem["type"] == "extra_forbidden":
        allowed = sorted({name for model in walked(Specification, place[:-1])[0] for name in model.model_fields})
        return f"unknown key `{key}`" + (f"; allowed there: {', '.join(allowed)}" if allowed else "")
    if problem["type"] == "missing":
        return f"the key `{key}` is missing"
    if problem["type"].startswith("union_tag"):
        # the name comes in quotation marks
        context = problem["ctx"]
        name = f"{key}.{context['discriminator'][1:-1]}"
        if problem["type"] == "union_tag_not_found":
            return f"the key `{name}` is missing"
        return f"`{name}`: input should be one of {context['expected_tags']} (it is {context['tag']!r})"
    reason = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict | list) else f" (it is {problem['input']!r})"
    return f"{f'`{key}`: ' if key else ''}{reason[:1].lower()}{reason[1:]}{given}"


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
    from flexrec.rl.callbacks import last_complete_checkpoint

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
    resumed = last_complete_checkpoint(work) is not None
    logger.info("%s", "going on from the last checkpoint" if resumed else "training")
    work.mkdir(parents=True, exist_ok=True)
    before, started = Clock(work).start(), time.time()
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
        warm_up=spec.warm_up,
        generation=spec.generation,
    )
    with building(spec.output / POLICY) as folder:
        folder.mkdir()
        save_policy(ranker.model, folder, base_name=spec.model.name)
    with replacing(spec.output / CURVES, "wb") as opened:
        curves.to_parquet(opened)
    values = {
        "specification": _settings(spec),
        "inputs": {key: {"path": str(place), "sha256": content_digest(place)} for key, place in _inputs(spec).items()},
        "outputs": {name: content_digest(spec.output / name) for name in (POLICY, CURVES)},
        "code": made_of.parts["code"],
        "libraries": made_of.parts["library"],
        "resumed": resumed,
        "seconds": round(before + time.time() - started, 1),
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
    # and what a kill left of a file or folder that was being written
    for path in (output / POLICY, output / WORK, *output.glob(".*.partial")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _hardware() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}
