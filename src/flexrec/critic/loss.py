"""The loss of the critic."""

import torch
from jaxtyping import Float


def beta_nll(
    mean: Float[torch.Tensor, "*batch"],
    variance: Float[torch.Tensor, "*batch"],
    target: Float[torch.Tensor, "*batch"],
    beta: float,
) -> Float[torch.Tensor, "*batch"]:
    r"""Gaussian negative log-likelihood, weighted by the predicted variance as a constant.

    .. math:: \lfloor \sigma^{2\beta} \rfloor \cdot \tfrac12 \left( \frac{(y - \mu)^2}{\sigma^2} + \log \sigma^2 \right)

    where the brackets stop the gradient. The likelihood alone neglects the mean of points that it calls noisy; the
    weight undoes that: with `beta` = 0 this is the likelihood (without its constant), with `beta` = 1 the mean learns
    as from the squared error.

    Source: Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks
    (arXiv 2203.09168), section 4.

    Args:
        mean: Predicted mean.
        variance: Predicted variance, > 0.
        target: Observed value.
        beta: In [0, 1].

    Returns:
        Loss of each element.
    """
    nll = 0.5 * ((target - mean).square() / variance + variance.log())
    return variance.detach().pow(beta) * nll
