"""From a request to the chat messages of a rewrite, and from an answer to the rewritten query.

The request and the documents shown come from data and are not trusted; neither is the answer: what it holds becomes
one line of plain characters before anything is done with it.
"""

import json
import re
from dataclasses import dataclass

from flexrec.prompting import neutralise
from flexrec.prompting.answers import ANSWER_END, ANSWER_START, THINK_END, THINK_START
from flexrec.prompting.templates import fill_template
from flexrec.rewriting.settings import RewritePromptSettings

_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Shown:
    """What every prompt shows beside the request.

    Attributes:
        documents: Some documents.
        rewrites: Some requests, each with a rewrite.
    """

    documents: tuple[str, ...] = ()
    rewrites: tuple[tuple[str, str], ...] = ()


def rewrite_messages(query: str, shown: Shown, settings: RewritePromptSettings, *, items: str) -> list[dict[str, str]]:
    """The chat messages that ask for a rewrite.

    Args:
        query: The request in words.
        shown: Documents and rewrites that are shown as examples.
        settings: Layout.
        items: What the dataset's items are called, plural.

    Returns:
        A system message (if its template is not empty) and a user message, as `{"role": ..., "content": ...}`.
    """
    examples = [
        fill_template(
            settings.example,
            {
                "query": _line(search, settings.max_query_chars, settings),
                "rewrite": json.dumps(_line(text, settings.max_document_chars, settings), ensure_ascii=False),
            },
        )
        for search, text in shown.rewrites
    ]
    values = {
        "query": _line(query, settings.max_query_chars, settings),
        "documents": "\n".join(_line(text, settings.max_document_chars, settings) for text in shown.documents),
        "examples": "".join(examples),
        "items": items,
    }
    messages = [{"role": "user", "content": fill_template(settings.user, values)}]
    if settings.system:
        messages.insert(0, {"role": "system", "content": fill_template(settings.system, values)})
    return messages


def parse_rewrite(text: str, settings: RewritePromptSettings) -> str | None:
    """The rewritten query of an answer.

    The right form is `<think>...</think><answer>{"query": "..."}</answer>` (the first part only where reasoning is
    asked for): every tag once and in this order, and between the answer's tags a JSON object whose `query` is a text
    with a word in it. What follows the answer is not looked at (arXiv 2503.24289).

    Args:
        text: The answer, with its opening.
        settings: Whether there is reasoning, and which tokens must not come out.

    Returns:
        The query as one line of plain characters; None where the form is wrong. Any text is an answer.
    """
    tags = [*((THINK_START, THINK_END) if settings.reasoning else ()), ANSWER_START, ANSWER_END]
    places = [text.find(tag) for tag in tags]
    if any(text.count(tag) != 1 for tag in tags) or places != sorted(places):
        return None
    try:
        value = json.loads(text[places[-2] + len(ANSWER_START) : places[-1]])
    except (ValueError, RecursionError):
        return None
    query = value.get("query") if isinstance(value, dict) else None
    if not isinstance(query, str):
        return None
    line = neutralise(query, settings.special_tokens)
    return line if _WORD.search(line) else None


def _line(text: str, limit: int, settings: RewritePromptSettings) -> str:
    line = neutralise(text, settings.special_tokens)
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
