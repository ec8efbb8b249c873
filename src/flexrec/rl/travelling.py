"""A folder that holds everything one training needs, and travels to another machine.

`python -m flexrec.rl` reads the specification in it; a list of SHA-256 says whether everything arrived as it left.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel

from flexrec.errors import InputError
from flexrec.files import building
from flexrec.fingerprint import content_digest
from flexrec.policy.settings import AdapterSettings, DecodingSettings, GenerationSettings
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.needs import Need
from flexrec.rl.settings import Method, RlSettings, WarmUpSettings
from flexrec.rl.training import TABLES, checked_table, own_adapter

SPECIFICATION = "specification.yml"
DIGESTS = "SHA256SUMS"


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
    method: Method,
    rl: RlSettings,
    warm_up: WarmUpSettings,
    generation: GenerationSettings,
    seed: int,
) -> Path:
    """Write a folder that holds everything one training needs, and a list of its files' SHA-256.

    Test instances and the gains of anything but validation instances stay behind: training has no use for them.

    Args:
        target: Folder to make; it must not be there, or be empty.
        tables: The tables named in `TABLES`.
        base_model: Folder of the base model.
        model_name: What the trained adapter calls it.
        checkpoint: Policy that training starts from, or None; stays behind where the method has an adapter of its own.
        adapter: Which weights are trained where there is no checkpoint.
        needs: Needs by name.
        prompt: Layout of the prompt.
        decoding: Form of the answers.
        method: Rewards and advantages, or supervised fine-tuning.
        rl: Optimisation.
        warm_up: The updates behind the checkpoint; written where the method makes up for them.
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
        **{name: checked_table(name, tables[name]) for name in TABLES},
        "labelled_instances": instances[splits.isin(["train", "validation"])],
        "true_gains": true_gains[true_gains[Columns.INSTANCE_ID].isin(validation)],
    }
    start: dict[str, Any] = {"checkpoint": "checkpoint"}
    if own_adapter(method) is not None:
        checkpoint, start = None, {"warm_up": _plain(warm_up)}
    elif checkpoint is None:
        start = {"adapter": _plain(adapter)}
    content = {
        "data": "data",
        "model": {"folder": "model", "name": model_name},
        **start,
        "needs": {name: _plain(need) for name, need in needs.items()},
        "prompt": _plain(prompt),
        "decoding": _plain(decoding),
        "method": _plain(method),
        "rl": _plain(rl),
        "generation": _plain(generation),
        "seed": seed,
        "output": "output",
    }
    with building(target) as partial:
        (partial / "data").mkdir(parents=True)
        for name, table in kept.items():
            table.reset_index(drop=True).to_parquet(partial / "data" / f"{name}.parquet")
        shutil.copytree(base_model, partial / "model")
        if checkpoint is not None:
            shutil.copytree(checkpoint, partial / "checkpoint")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        lines = [f"{content_digest(path)}  {path.relative_to(partial).as_posix()}\n" for path in files]
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
        if content_digest(place) != digest:
            raise InputError(f"{place} is not the file that was exported (its SHA-256 differs): copy it again")
    return len(lines)
