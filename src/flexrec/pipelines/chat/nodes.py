"""A chat endpoint among the methods."""

from typing import Any

import pandas as pd

from flexrec.errors import InputError
from flexrec.evaluation.llm import llm_rankings
from flexrec.evaluation.rankings import evaluate_rankings
from flexrec.evaluation.settings import EvaluationSettings
from flexrec.evaluation.summary import headline_metrics, summarise
from flexrec.policy.chat import ChatRanker, Chats, ChatSettings, costs_sentence
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.columns import Columns
from flexrec.ranking.gains import GainKind
from flexrec.ranking.task import Needs
from flexrec.reporting.blocks import markdown_text
from flexrec.reporting.provenance import provenance
from flexrec.reporting.tables import facts_markdown, results_markdown, summary_sentences, terminal_table

NOBODY = "none"


def choose_chat(chat: str, chats: Chats) -> dict[str, Any]:
    """The chosen entry; a node of its own, and the first, so that nothing is computed where none is chosen."""
    if chat == NOBODY:
        raise InputError(
            "no chat endpoint is chosen; add `--params chat=<name>`. "
            f"Names in conf/base/parameters_chat.yml: {', '.join(chats.root) or 'none'}"
        )
    return chats.root[chat].model_dump(mode="json")


def rank_chat(
    chat_endpoint: dict[str, Any],
    labelled_instances: pd.DataFrame,
    items: pd.DataFrame,
    needs: Needs,
    prompt: PromptSettings,
    chat: str,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Rankings of the endpoint, and what they cost."""
    ranker = ChatRanker(ChatSettings.model_validate(chat_endpoint), prompt)
    test = labelled_instances[labelled_instances[Columns.SPLIT] == "test"]
    rankings = llm_rankings(ranker, test, items, needs.root, method=_method(chat), seed=seed)
    return rankings, ranker.costs()


def measure_chat(
    baselines: pd.DataFrame,
    untrained: pd.DataFrame,
    chat: pd.DataFrame,
    labelled_instances: pd.DataFrame,
    true_labels: pd.DataFrame,
    needs: Needs,
    gain: GainKind,
    relevant_engagement: float,
) -> pd.DataFrame:
    """Metrics of every ranking: the endpoint's, and of all that needs no training."""
    rankings = pd.concat([baselines, untrained, chat], ignore_index=True)
    return evaluate_rankings(
        rankings, labelled_instances, true_labels, needs.root, kind=gain, threshold=relevant_engagement
    )


def compare_chat(
    chat_instance_metrics: pd.DataFrame, untrained: pd.DataFrame, settings: EvaluationSettings, chat: str, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Means with intervals, and paired tests of the endpoint against the untrained model and the baselines."""
    summary = summarise(
        chat_instance_metrics,
        references={_method(chat): (*dict.fromkeys(untrained[Columns.METHOD]), *settings.baselines)},
        **settings.resampling(seed),
    )
    return summary, headline_metrics(summary)


def tell_chat(
    chat_summary: pd.DataFrame,
    chat_costs: dict[str, float],
    chat_endpoint: dict[str, Any],
    needs: Needs,
    chat: str,
    dataset: str,
    model: str,
    layout: str,
    density: float,
    seed: int,
) -> tuple[str, str]:
    """The results as text for the terminal, and as Markdown."""
    names, told = list(needs.root), [*summary_sentences(chat_summary, method=_method(chat)), costs_sentence(chat_costs)]
    facts = provenance(
        dataset=dataset,
        needs=names,
        chat=chat,
        **{"chat model": chat_endpoint["model"], "untrained model": model},
        layout=layout,
        density=density,
        seed=seed,
    )
    parts = [
        f"# {markdown_text(', '.join(names))} on {markdown_text(dataset)}: {markdown_text(chat)}, zero-shot",
        "A model behind an endpoint, without any training, beside what needs none: docs/chat.md.",
        *map(markdown_text, told),
        results_markdown(chat_summary),
        facts_markdown(facts),
    ]
    markdown = "\n\n".join(part.strip("\n") for part in parts) + "\n"
    return "\n".join([terminal_table(chat_summary), *told, ""]), markdown


def _method(chat: str) -> str:
    return f"chat_{chat}"
