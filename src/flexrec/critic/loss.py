"""The loss of the critic."""

import torch
from jaxtyping import Float


def beta_nll(
    mean: Float[torch.Tensor, "*batch"],
    variance: Float[torch.Tensor, "*batch"],
    target: Float[torch.Tensor, "*batch"],
    beta: float,
) -> Float[torch.Tensor, "*batch"]:
    r"""Gaussian negative log-likelihood weighted by the predicted variance, without gradient through the weight.

    .. math:: \tfrac12 \left( \frac{(y - \mu)^2}{\sigma^2} + \log \sigma^2 \right) \lfloor \sigma^2 \rfloor^{\beta}

    Source: Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation (arXiv 2203.09168), equation 5; constant
    dropped. The weight undoes the likelihood's neglect of points that it calls noisy: `beta` = 0 is the likelihood, with
    `beta` = 1 the gradient of the mean is that of the squared error.

    Args:
        mean: Predicted mean.
        variance: Predicted variance, > 0.
        target: Observed value.
        beta: In [0, 1].

    Returns:
        Loss per element, not reduced.
    """
    nll = 0.5 * ((target - mean).square() / variance + variance.log())
    return nll * variance.detach().pow(beta)
