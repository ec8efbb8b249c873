"""Wiring of the chat endpoint."""

from kedro.pipeline import Pipeline, node, pipeline

from flexrec.pipelines.chat.nodes import choose_chat, compare_chat, measure_chat, rank_chat, tell_chat
from flexrec.pipelines.shared import show


def create_pipeline() -> Pipeline:
    """prompt_instances, rankings of what is not trained -> rankings_chat, chat_costs, chat_results."""
    return pipeline(
        [
            node(choose_chat, ["params:chat", "params:chats"], "chat_endpoint", name="choose_chat"),
            node(
                rank_chat,
                [
                    "chat_endpoint",
                    "prompt_instances",
                    "items",
                    "params:needs_asked",
                    "params:prompt",
                    "params:chat",
                    "params:seed",
                ],
                ["rankings_chat", "chat_costs"],
                name="rank_chat",
            ),
            node(
                measure_chat,
                [
                    "rankings_baselines",
                    "rankings_untrained",
                    "rankings_chat",
                    "labelled_instances",
                    "true_labels",
                    "params:needs_asked",
                    "params:task.gain",
                    "params:task.relevant_engagement",
                ],
                "chat_instance_metrics",
                name="measure_chat",
            ),
            node(
                compare_chat,
                [
                    "chat_instance_metrics",
                    "rankings_untrained",
                    "params:evaluate",
                    "params:chat",
                    "params:seed",
                ],
                ["chat_summary", "chat_metrics"],
                name="compare_chat",
            ),
            node(
                tell_chat,
                [
                    "chat_summary",
                    "chat_costs",
                    "chat_endpoint",
                    "params:needs_asked",
                    "params:chat",
                    "params:dataset",
                    "params:model",
                    "params:layout",
                    "params:density",
                    "params:seed",
                ],
                ["chat_results", "chat_markdown"],
                name="tell_chat",
            ),
            node(show, "chat_results", None, name="print_chat"),
        ],
        tags="chat",
    )
