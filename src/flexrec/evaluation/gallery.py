"""The same few instances under every need: what the model was told, what it wrote, and the list that came of it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.asking import ARRANGEMENT, SHOWN, TEXT
from flexrec.prompting import PromptSettings, build_messages
from flexrec.ranking.columns import Columns
from flexrec.ranking.instances import Instance, read_instances
from flexrec.ranking.metrics import ndcg
from flexrec.ranking.needs import Need

COLUMNS = (
    Columns.INSTANCE_ID,
    Columns.NEED,
    Columns.METHOD,
    "history",
    "instruction",
    TEXT,
    "titles",
    Columns.GAINS,
    "ndcg_at_5",
)


def gallery(
    answers: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    gains: pd.DataFrame,
    needs: Mapping[str, Need],
    prompting: PromptSettings,
    *,
    count: int,
) -> pd.DataFrame:
    """Lay the answers about a few instances side by side.

    The instances stand at even steps in the table, from the first to the last: whatever the answers look like.

    Args:
        answers: The `answers` table; only answers to prompts as they are shown count.
        labelled_instances: The instances asked about.
        items: The `items` table.
        gains: The `gains` table with every need asked for.
        needs: The needs, by name; their order is that of the gallery.
        prompting: Layout of the prompt.
        count: Number of instances, fewer where there are fewer.

    Returns:
        One row per instance, need and method: those, the `history` (titles, most recent first; the query, where one
        asks), the `instruction` as the prompt has it, the `text` that was written, `titles` and true `gains` in the
        order of the ranking, and its NDCG@5.

    Raises:
        InputError: An instance without gains for a need that was asked for.
    """
    places = np.unique(np.linspace(0, len(labelled_instances) - 1, count).round().astype(int))
    chosen = read_instances(labelled_instances.iloc[places], items)
    shown = answers[answers[ARRANGEMENT] == SHOWN]
    keys = zip(gains[Columns.INSTANCE_ID], gains[Columns.NEED], strict=True)
    gains_of = dict(zip(keys, gains[Columns.GAINS], strict=True))
    rows = []
    for instance in chosen:
        title_of = {candidate.item_id: candidate.title for candidate in instance.candidates}
        for name, need in needs.items():
            here = shown[(shown[Columns.INSTANCE_ID] == instance.instance_id) & (shown[Columns.NEED] == name)]
            if len(here) and (instance.instance_id, name) not in gains_of:
                raise InputError(f"gains: instance {instance.instance_id} has none for the need '{name}'")
            for method, ranking, text in zip(here[Columns.METHOD], here[Columns.RANKING], here[TEXT], strict=True):
                values = np.asarray(gains_of[instance.instance_id, name], dtype=np.float64)
                gain_of = dict(zip(title_of, values, strict=True))
                ranked = np.array([gain_of[int(item)] for item in ranking])
                rows.append(
                    (
                        instance.instance_id,
                        name,
                        method,
                        _context(instance),
                        _instruction(instance, need, prompting),
                        text,
                        [title_of[int(item)] for item in ranking],
                        ranked.tolist(),
                        float(ndcg(ranked, 5)),
                    )
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _context(instance: Instance) -> list[str]:
    return [instance.query] if instance.query else [item.title for item in reversed(instance.history)]


def _instruction(instance: Instance, need: Need, prompting: PromptSettings) -> str:
    """The instruction alone, in the words of the prompt."""
    alone = prompting.model_copy(update={"user": "{instruction}", "user_query": "{instruction}"})
    return build_messages(instance, need, alone)[-1]["content"]
