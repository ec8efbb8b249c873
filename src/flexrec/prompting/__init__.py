"""Prompts and answers: an instance and a need become chat messages, an answer becomes a permutation and token spans."""

from flexrec.prompting.answers import (
    Answer,
    complete_order,
    parse_answer,
    render_answer,
    token_offsets,
    token_ranks,
)
from flexrec.prompting.identifiers import identifier_tokens, identifiers
from flexrec.prompting.messages import build_messages, control_tokens, neutralise
from flexrec.prompting.settings import PromptSettings

__all__ = [
    "Answer",
    "PromptSettings",
    "build_messages",
    "complete_order",
    "control_tokens",
    "identifier_tokens",
    "identifiers",
    "neutralise",
    "parse_answer",
    "render_answer",
    "token_offsets",
    "token_ranks",
]
