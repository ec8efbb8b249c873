"""Training of the critic."""

import copy
import logging
import math

import numpy as np
import pandas as pd
import torch

from flexrec.critic.calibration import accuracy
from flexrec.critic.examples import CriticExamples
from flexrec.critic.loss import beta_nll
from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.prediction import predict_examples
from flexrec.critic.settings import CriticSettings
from flexrec.errors import InputError
from flexrec.progress import emit, track

log = logging.getLogger(__name__)


def train_critic(
    examples: CriticExamples, settings: CriticSettings, *, seed: int
) -> tuple[TwoTowerCritic, pd.DataFrame]:
    """Fit a critic by beta-NLL and keep the epoch with the best validation MSE.

    On a CPU the result is the same bit for bit for the same examples, settings, seed and number of threads. The
    caller's random state is neither read nor changed.

    Args:
        examples: As `build_examples` makes them, with at least one fit and one validation example.
        settings: Network and optimiser; those the examples were built with.
        seed: Seed of the initial weights, the order of the batches and the dropout, >= 0.

    Returns:
        The critic in evaluation mode, and one row per epoch: `epoch` (from 0), `train_loss` (mean beta-NLL of the
        standardised gain), `validation_mse` (squared gain), `validation_nll` (nats), `best` (whether it is the one
        kept).

    Raises:
        InputError: The training diverges.
    """
    validation = examples.select("validation")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = TwoTowerCritic(settings, examples.embeddings.shape[1], examples.gain)
        _standardise(critic, examples)
        best, curve = _fit(critic, examples, validation, settings)
    critic.load_state_dict(best)
    critic.eval()
    kept = curve.loc[curve["best"]].iloc[0]
    log.info(
        "critic: epoch %d of %d kept, validation MSE %.4g; the labels' variance is %.4g",
        kept["epoch"],
        settings.epochs,
        kept["validation_mse"],
        validation.target.var(),
    )
    return critic, curve


def _standardise(critic: TwoTowerCritic, examples: CriticExamples) -> None:
    """Fill the critic's buffers from the fit examples; a column that does not vary keeps the scale 1."""
    rows = examples.rows("fit")
    for name, values in (("target", examples.target[rows]), ("statistics", examples.statistics[rows])):
        std = values.std(axis=0, dtype=np.float64)
        getattr(critic, f"{name}_mean").copy_(torch.as_tensor(values.mean(axis=0, dtype=np.float64)))
        getattr(critic, f"{name}_std").copy_(torch.as_tensor(np.where(std > 1e-6, std, 1.0)))


def _fit(
    critic: TwoTowerCritic, examples: CriticExamples, validation: CriticExamples, settings: CriticSettings
) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    """Run the epochs; returns the best state and the table that `train_critic` describes."""
    rows = torch.from_numpy(examples.rows("fit"))
    embeddings, candidate = torch.from_numpy(examples.embeddings), torch.from_numpy(examples.candidate)
    target = (torch.from_numpy(examples.target) - critic.target_mean) / critic.target_std
    columns = (torch.from_numpy(examples.history), candidate, torch.from_numpy(examples.statistics), target)
    optimizer = torch.optim.AdamW(
        critic.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    curve: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    lowest = math.inf
    for epoch in track(range(settings.epochs), description="training the critic", total=settings.epochs):
        critic.train()
        total = 0.0
        for batch in rows[torch.randperm(len(rows))].split(settings.batch_size):
            # copies whole rows: three times as fast as indexing with brackets
            history, item, statistics, label = (column.index_select(0, batch) for column in columns)
            mean, variance = critic.standardised(history, embeddings.index_select(0, item), statistics)
            loss = beta_nll(mean, variance, label, settings.beta).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        measured = accuracy(*predict_examples(critic, validation), validation.target)
        point = {
            "train_loss": total / len(rows),
            "validation_mse": measured["mse"],
            "validation_nll": measured["nll"],
        }
        if not all(math.isfinite(value) for value in point.values()):
            raise InputError(f"the critic's training diverges in epoch {epoch}; lower its learning_rate")
        emit("critic", epoch, point)
        curve.append({"epoch": epoch, **point})
        if point["validation_mse"] < lowest:
            lowest = point["validation_mse"]
            best = copy.deepcopy(critic.state_dict())
    table = pd.DataFrame(curve)
    return best, table.assign(best=table.index == table["validation_mse"].idxmin())
