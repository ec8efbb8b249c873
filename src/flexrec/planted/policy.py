r"""Many small ranking policies side by side: a language model under the grammar of permutations, less the language.

A policy writes a permutation one candidate after the other. The logit of candidate $j$ at rank $t$ depends on its
features $x_j$, on what the need is said to be, $e$, and on what was chosen before:

$$z_{t,j} = v \cdot \mathrm{relu}\bigl( (1 + e W_g) \odot (x_j W_x) + e W_e + b + \tfrac{1}{K}\sum_{i<t} x_{a_i} W_s
+ \tfrac{t}{K} w_t \bigr)$$

and the softmax runs over what remains (Plackett-Luce with context). What was chosen does not matter for the true gain
of what comes: the policy has to find that out, as a language model has to.

Optionally a policy first writes a *view*, one token that names no item: which group of features it will look at. It
stands for reasoning, whose worth shows in the list alone.

R independent policies (one per seed) are trained at once: every parameter has R as its first axis.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_INITIAL = 3
"""What the stream of random numbers of the initial policies is for; the world has those before."""


class Policies(nn.Module):
    """R policies.

    Args:
        seeds: Of the initial parameters, one per policy.
        features: F, of a candidate.
        description: E, length of a need's description.
        hidden: H.
        views: Groups of features that can be looked at; None for all features and no view token.
    """

    views: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        features: int,
        description: int,
        hidden: int,
        views: Float[np.ndarray, "P F"] | None = None,
    ) -> None:
        super().__init__()
        count = 1 if views is None else len(views)
        scales = {
            "item": (features, hidden, features**-0.5),
            "gate": (description, hidden, 1.0),
            "need": (description, hidden, 1.0),
            "bias": (1, hidden, 0.5),
            "state": (features, hidden, 0.5),
            "rank": (1, hidden, 0.5),
            # nearly uniform at first, so that every order is tried
            "out": (hidden, 1, 0.2 * hidden**-0.5),
            "view": (description, count, 0.3),
            # the likeliest at first is another one for every seed
            "view_bias": (1, count, 0.3),
        }
        streams = [np.random.default_rng([seed, _INITIAL]) for seed in seeds]
        self.weights = nn.ParameterDict(
            {
                name: nn.Parameter(
                    torch.tensor(
                        np.stack([stream.standard_normal((rows, columns)) * scale for stream in streams]),
                        dtype=torch.float32,
                    )
                )
                for name, (rows, columns, scale) in scales.items()
            }
        )
        shown = np.ones((1, features)) if views is None else views
        self.register_buffer("views", torch.tensor(shown, dtype=torch.float32))
        self.writes_view = views is not None

    def tokens(self, candidates: int) -> int:
        """T, tokens of an answer: one per candidate, and the view."""
        return candidates + self.writes_view

    def sample(
        self,
        features: Float[Tensor, "R B K F"],
        needs: Float[Tensor, "R B E"],
        uniforms: Float[Tensor, "R B G T"] | None = None,
    ) -> tuple[Int[Tensor, "R B G"], Int[Tensor, "R B G K"]]:
        """Write permutations.

        Args:
            features: Of every candidate of B requests.
            needs: What each request asks for.
            uniforms: One number in [0, 1) per token of every rollout; None for the likeliest choices, with G = 1.

        Returns:
            The views, and the candidates in the order of their choice.
        """
        with torch.no_grad():
            R, B, K, _ = features.shape
            views = _choose(
                self._view_logits(needs)[:, :, None].expand(R, B, 1 if uniforms is None else uniforms.shape[2], -1),
                None if uniforms is None else uniforms[..., -1],
            )
            seen = self._seen(features, views)
            items = self._items(seen, needs)
            G = views.shape[2]
            remain = torch.ones(R, B, G, K, dtype=torch.bool)
            chosen = torch.zeros(R, B, G, features.shape[-1])
            orders = []
            for rank in range(K):
                state = self._state(chosen / K, torch.full((1,), rank / K))
                logits = self._logits(items + state[:, :, :, None])
                logits = logits.masked_fill(~remain, -torch.inf)
                choice = _choose(logits, None if uniforms is None else uniforms[..., rank])
                orders.append(choice)
                remain.scatter_(3, choice[..., None], False)
                chosen = chosen + seen.take_along_dim(choice[..., None, None], 3)[:, :, :, 0]
            return views, torch.stack(orders, -1)

    def log_probabilities(
        self,
        features: Float[Tensor, "R B K F"],
        needs: Float[Tensor, "R B E"],
        views: Int[Tensor, "R B G"],
        orders: Int[Tensor, "R B G K"],
    ) -> Float[Tensor, "R B G T"]:
        """Log-probability of every token of given answers: the candidates in order, then the view (where there is one).

        The view is written first; it stands last here, so that candidate k is token k with a view and without.
        """
        K = orders.shape[-1]
        index = orders[..., None]
        seen = self._seen(features, views)
        ranked = seen.take_along_dim(index, 3)
        items = self._items(seen, needs).take_along_dim(index, 3)
        before = (ranked.cumsum(3) - ranked) / K
        state = self._state(before, torch.arange(K)[:, None] / K)
        # in the order of the rollout, what remains at rank t are the candidates from t on
        logits = self._logits(items[:, :, :, None] + state[..., None, :])
        logits = logits.masked_fill(torch.ones(K, K, dtype=torch.bool).tril(-1), -torch.inf)
        result = logits.diagonal(dim1=-2, dim2=-1) - logits.logsumexp(-1)
        if not self.writes_view:
            return result
        written = self._view_logits(needs).log_softmax(-1).gather(2, views)
        return torch.cat([result, written[..., None]], -1)

    def _seen(self, features: Float[Tensor, "R B K F"], views: Int[Tensor, "R B G"]) -> Float[Tensor, "R B #G K F"]:
        """What a rollout looks at; without views the same for all rollouts of a request."""
        return features[:, :, None] * self.views[views][..., None, :] if self.writes_view else features[:, :, None]

    def _items(self, seen: Float[Tensor, "R B G K F"], needs: Float[Tensor, "R B E"]) -> Float[Tensor, "R B G K H"]:
        """What every candidate has to say, in the light of the need."""
        gate, shift = 1 + needs @ self.weights["gate"], needs @ self.weights["need"] + self.weights["bias"]
        projected = torch.einsum("rbgkf,rfh->rbgkh", seen, self.weights["item"])
        return projected * gate[:, :, None, None] + shift[:, :, None, None]

    def _state(self, before: Float[Tensor, "... F"], rank: Float[Tensor, "*#shape"]) -> Float[Tensor, "... H"]:
        """What the choices so far have to say; `before` begins with R."""
        state = torch.einsum("r...f,rfh->r...h", before, self.weights["state"])
        weight = self.weights["rank"].view(-1, *[1] * (before.ndim - 2), state.shape[-1])
        return state + rank * weight

    def _logits(self, hidden: Float[Tensor, "R *rest H"]) -> Float[Tensor, "R *rest"]:
        # in place: the sum is a tensor of its own, and the largest there is
        return torch.einsum("r...h,rh->r...", hidden.relu_(), self.weights["out"][..., 0])

    def _view_logits(self, needs: Float[Tensor, "R B E"]) -> Float[Tensor, "R B P"]:
        return needs @ self.weights["view"] + self.weights["view_bias"]


def _choose(logits: Float[Tensor, "*shape n"], uniforms: Float[Tensor, "*shape"] | None) -> Int[Tensor, "*shape"]:
    """One draw per row by the inverse of the cumulative distribution, or the likeliest; never one of probability 0."""
    if uniforms is None:
        return logits.argmax(-1)
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[..., -1]
    # below the total after rounding, so that some entry lies above; the first to do so has a probability
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative > target[..., None]).to(torch.int8).argmax(-1)
