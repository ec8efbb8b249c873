"""Training of the critic."""

import copy
import logging

import numpy as np
import pandas as pd
import torch

from flexrec.critic.examples import CriticExamples
from flexrec.critic.loss import beta_nll
from flexrec.critic.model import TwoTowerCritic
from flexrec.critic.prediction import predict_examples
from flexrec.critic.settings import CriticSettings
from flexrec.progress import emit, track

log = logging.getLogger(__name__)


def train_critic(examples: CriticExamples, settings: CriticSettings) -> tuple[TwoTowerCritic, pd.DataFrame]:
    """Fit a critic by beta-NLL and keep the epoch with the best validation MSE.

    Bit for bit the same for the same examples, settings and number of threads on a CPU. Neither reads nor changes the
    caller's random state.

    Args:
        examples: As `build_examples` makes them, with at least one fit and one validation example.
        settings: Network, optimiser and seed.

    Returns:
        The critic in evaluation mode, and one row per epoch: epoch (from 0), train_loss (mean beta-NLL of the standardised
        gain), validation_mse (squared gains), validation_nll (nats), best (the epoch kept).
    """
    fit, validation = examples.select("fit"), examples.select("validation")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        critic = TwoTowerCritic(settings, examples.embeddings.shape[1], examples.gain)
        _standardise(critic, fit)
        best, history = _fit(critic, fit, validation, settings)
    critic.load_state_dict(best)
    critic.eval()
    kept = history.loc[history["best"]].iloc[0]
    log.info(
        "critic: %d fit examples, epoch %d of %d kept, validation MSE %.4g (variance of the gain %.4g)",
        len(fit.target), kept["epoch"], settings.epochs, kept["validation_mse"], validation.target.var(),
    )  # fmt: skip
    return critic, history


def _standardise(critic: TwoTowerCritic, fit: CriticExamples) -> None:
    """Fill the critic's buffers; a constant column keeps scale 1."""

    def positive(std: np.ndarray) -> np.ndarray:
        return np.where(std > 1e-6, std, 1.0)

    target, statistics = fit.target.astype(np.float64), fit.statistics.astype(np.float64)
    critic.target_mean.fill_(float(target.mean()))
    critic.target_std.fill_(float(positive(target.std())))
    critic.statistics_mean.copy_(torch.from_numpy(statistics.mean(axis=0)))
    critic.statistics_std.copy_(torch.from_numpy(positive(statistics.std(axis=0))))


def _fit(
    critic: TwoTowerCritic, fit: CriticExamples, validation: CriticExamples, settings: CriticSettings
) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    """Run the epochs; returns the best state and the table of `train_critic`."""
    embeddings, histories = torch.from_numpy(fit.embeddings), torch.from_numpy(fit.history)
    candidates, statistics = torch.from_numpy(fit.candidate), torch.from_numpy(fit.statistics)
    targets = (torch.from_numpy(fit.target) - critic.target_mean) / critic.target_std
    optimizer = torch.optim.AdamW(
        critic.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    rows: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    for epoch in track(range(settings.epochs), description="critic", total=settings.epochs):
        critic.train()
        total = 0.0
        for batch in torch.randperm(len(targets)).split(settings.batch_size):
            mean, variance = critic.standardised(histories[batch], embeddings[candidates[batch]], statistics[batch])
            loss = beta_nll(mean, variance, targets[batch], settings.beta).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        mean, variance = predict_examples(critic, validation)
        error = (validation.target - mean) ** 2
        row = {
            "train_loss": total / len(targets),
            "validation_mse": float(error.mean()),
            "validation_nll": float(0.5 * (error / variance + np.log(2 * np.pi * variance)).mean()),
        }
        emit("critic", epoch, row)
        if not rows or row["validation_mse"] < min(previous["validation_mse"] for previous in rows):
            best = copy.deepcopy(critic.state_dict())
        rows.append({"epoch": epoch, **row})
    history = pd.DataFrame(rows)
    history["best"] = history.index == history["validation_mse"].idxmin()
    return best, history
