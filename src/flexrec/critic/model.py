"""The critic's network."""

import torch
from jaxtyping import Float
from torch import nn

from flexrec.critic.settings import CriticSettings
from flexrec.ranking.gains import GainKind


class TwoTowerCritic(nn.Module):
    """History tower and projected candidate, their interaction, a mean head and a log-variance head.

    With the user vector `u` and the candidate vector `v`, `[u, v, u*v, |u-v|]` and, if asked for, the candidate's item
    statistics go through one hidden layer to both heads. The log variance of the standardised gain is `B tanh(x /
    B)`: it lies in (-B, B) and has a gradient everywhere. Two towers with mean and variance: FlexRec (arXiv
    2603.11901); the interaction and the bound are our choice.

    The network works on the scale of the buffers `target_mean`, `target_std`, `statistics_mean` and `statistics_std`,
    which training fills from the fit examples; `forward` returns the scale of the gain.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor
    statistics_mean: torch.Tensor
    statistics_std: torch.Tensor

    def __init__(self, settings: CriticSettings, embedding_size: int, gain: GainKind) -> None:
        """Draw initial weights from torch's global generator.

        Args:
            settings: Sizes, and how histories and statistics are made.
            embedding_size: Length d of the item embeddings.
            gain: How engagement becomes the gain that is predicted.
        """
        super().__init__()
        self.settings = settings
        self.embedding_size = embedding_size
        self.gain: GainKind = gain
        hidden, width = settings.hidden_size, settings.interaction_size
        self.history_tower = nn.Sequential(
            nn.Linear(embedding_size, hidden),
            nn.ReLU(),
            nn.LayerNorm(hidden),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, width),
        )
        self.candidate_projection = nn.Linear(embedding_size, width)
        self.interaction = nn.Sequential(
            nn.Linear(4 * width + (settings.statistics_width if settings.item_statistics else 0), hidden),
            nn.ReLU(),
            nn.LayerNorm(hidden),
            nn.Dropout(settings.dropout),
        )
        self.mean_head = nn.Linear(hidden, 1)
        self.log_variance_head = nn.Linear(hidden, 1)
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        self.register_buffer("statistics_mean", torch.zeros(settings.statistics_width))
        self.register_buffer("statistics_std", torch.ones(settings.statistics_width))

    def standardised(
        self,
        history: Float[torch.Tensor, "batch d"],
        candidate: Float[torch.Tensor, "batch d"],
        statistics: Float[torch.Tensor, "batch s"],
    ) -> tuple[Float[torch.Tensor, " batch"], Float[torch.Tensor, " batch"]]:
        """Mean and variance of the standardised gain; arguments as in `forward`."""
        u, v = self.history_tower(history), self.candidate_projection(candidate)
        features = [u, v, u * v, (u - v).abs()]
        if self.settings.item_statistics:
            features.append((statistics - self.statistics_mean) / self.statistics_std)
        hidden = self.interaction(torch.cat(features, dim=-1))
        bound = self.settings.log_variance_bound
        log_variance = bound * torch.tanh(self.log_variance_head(hidden).squeeze(-1) / bound)
        return self.mean_head(hidden).squeeze(-1), log_variance.exp()

    def forward(
        self,
        history: Float[torch.Tensor, "batch d"],
        candidate: Float[torch.Tensor, "batch d"],
        statistics: Float[torch.Tensor, "batch s"],
    ) -> tuple[Float[torch.Tensor, " batch"], Float[torch.Tensor, " batch"]]:
        """Mean and variance (> 0) of the engagement gain.

        Args:
            history: History embeddings, unit norm or zeros.
            candidate: Item embeddings.
            statistics: `item_statistics` of the candidates, and `taste` if asked for; not read without the former.
        """
        mean, variance = self.standardised(history, candidate, statistics)
        return mean * self.target_std + self.target_mean, variance * self.target_std.square()
