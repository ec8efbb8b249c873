"""What a prompt shows."""

import dataclasses

from flexrec.prompting.messages import build_messages
from flexrec.prompting.settings import PromptSettings
from flexrec.ranking.instances import Instance
from flexrec.ranking.needs import Need


def user_text(instance: Instance, need: Need, **settings: object) -> str:
    messages = build_messages(instance, need, PromptSettings.model_validate(settings))
    assert [message["role"] for message in messages] == ["system", "user"]
    return messages[1]["content"]


def with_titles(instance: Instance, *titles: str) -> Instance:
    candidates = [dataclasses.replace(instance.candidates[0], title=title) for title in titles]
    return dataclasses.replace(instance, candidates=tuple(candidates))
