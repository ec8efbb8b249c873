"""Ranking tasks in the project's default layout, over made-up films: prompts as training and serving see them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import FIRST, ROOT, SECOND, load_tokenizer

HISTORY = 5
CONFIGURATION = ROOT / "benchmarks" / "configuration.json"


@cache
def configuration(root: Path = ROOT) -> dict[str, Any]:
    """What training reads of the default configuration, with everything resolved.

    Kedro reads it. Where Kedro is not installed, it comes from `benchmarks/configuration.json`, which
    `python -m benchmarks.tasks` writes on a machine where it is.
    """
    try:
        from kedro.config import OmegaConfigLoader
    except ImportError:
        if not CONFIGURATION.exists():
            raise SystemExit(
                "neither Kedro nor benchmarks/configuration.json here: write the file with "
                "`python -m benchmarks.tasks` where the project is installed, and bring it along"
            ) from None
        return json.loads(CONFIGURATION.read_text())
    from flexrec.settings import CONFIG_LOADER_ARGS

    parameters = OmegaConfigLoader(conf_source=str(root / "conf"), **CONFIG_LOADER_ARGS)["parameters"]
    found = {name: parameters[name] for name in ("rl", "adapter", "prompt", "decoding", "method_settings")}
    found["need"] = next(iter(parameters["needs_asked"].values()))
    found["candidates"] = parameters["task"]["candidates"]
    return found


def make_queries(count: int, candidates: int, *, seed: int, root: Path = ROOT) -> list[Any]:
    """Requests under the default need, each with its own history and candidates."""
    import numpy as np

    from flexrec.policy.ranker import Query
    from flexrec.ranking.instances import Candidate, HistoryItem, Instance
    from flexrec.ranking.needs import Need

    need = Need.model_validate(configuration(root)["need"])
    rng = np.random.default_rng(seed)
    titles = [
        f"{first} {second} ({1950 + 5 * a + b})" for a, first in enumerate(FIRST) for b, second in enumerate(SECOND)
    ]
    queries = []
    for number in range(count):
        drawn = rng.choice(len(titles), HISTORY + candidates, replace=False).tolist()
        history = tuple(HistoryItem(item, titles[item], ("Drama",), 4.0) for item in drawn[:HISTORY])
        shown = tuple(
            Candidate(
                item,
                titles[item],
                ("Drama",),
                {
                    "similarity": float(rng.random()),
                    "niche": float(rng.integers(0, 2)),
                    "trend": float(rng.integers(0, 60)),
                    "popularity": float(rng.integers(0, 300)),
                    "quality": float(1 + 4 * rng.random()),
                },
            )
            for item in drawn[HISTORY:]
        )
        queries.append(Query(Instance(number, number, 1_000_000, history, shown), need))
    return queries


def make_examples(count: int, candidates: int, *, seed: int, root: Path = ROOT) -> list[Any]:
    """Requests with random gains to train on."""
    import numpy as np

    from flexrec.rl.examples import Example

    rng = np.random.default_rng(seed)
    queries = make_queries(count, candidates, seed=seed, root=root)
    return [Example(query, "need", rng.random(candidates), np.zeros(candidates)) for query in queries]


def project_ranker(model: Any, folder: Path, root: Path = ROOT, *, prompt: Mapping[str, Any] | None = None) -> Any:
    """A ranker with the default layout, but for what `prompt` says otherwise, and the default decoding."""
    from flexrec.policy.ranker import Ranker
    from flexrec.policy.settings import DecodingSettings
    from flexrec.prompting import PromptSettings

    settings = configuration(root)
    # another commit may not know every key
    changes = {name: value for name, value in (prompt or {}).items() if name in settings["prompt"]}
    prompting = PromptSettings.model_validate(settings["prompt"] | changes)
    return Ranker(model, load_tokenizer(folder), prompting, DecodingSettings.model_validate(settings["decoding"]))


if __name__ == "__main__":
    CONFIGURATION.write_text(json.dumps(configuration(), indent=1) + "\n")
