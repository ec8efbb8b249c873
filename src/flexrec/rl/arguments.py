"""What all trainings ask of transformers' trainers alike."""

from typing import Any, TypeVar

Arguments = TypeVar("Arguments")


def on_one_device(arguments: Arguments) -> Arguments:
    """A trainer's arguments for one GPU at most, the first that is visible.

    Of several, transformers would give each a share of as many times the batch (`nn.DataParallel`), by a forward pass
    that our engines do not take: every update would learn from other prompts than the budget says.
    """
    ours: Any = arguments
    ours._n_gpu = min(ours.n_gpu, 1)
    return arguments
