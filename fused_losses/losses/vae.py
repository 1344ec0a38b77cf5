"""Loss of a variational autoencoder: the formula, which `loss` fuses, and the Module."""

from __future__ import annotations

from .. import _checks as check
from .._loss import loss
from .._module import LossModule
from .._options import Choice, Number
from ._shared import accumulate, exp_excess, reduce, rows_shape
from .binary import cross_entropy_of_logits, cross_entropy_of_probabilities

LIKELIHOODS = Choice({"bernoulli": 0, "bernoulli_logits": 1, "gaussian": 2})


def check_autoencoder(name, reconstruction, target, mu, logvar, likelihood):
    """Data and code of one batch, in one dtype; the target of any, of integers a mask for the Bernoulli kinds."""
    check.alike(name, "target", target, reconstruction)
    if reconstruction.ndim == 0:
        raise ValueError(f"{name}: expected reconstruction of shape (B, ...), got ()")
    check.tensor(name, "mu", mu)
    check.alike(name, "logvar", logvar, mu, check.FLOATING)
    if mu.shape[:1] != reconstruction.shape[:1]:
        raise ValueError(f"{name}: expected mu of shape ({reconstruction.shape[0]}, ...), got {tuple(mu.shape)}")
    for argument, value in (("mu", mu), ("logvar", logvar)):
        if value.dtype != reconstruction.dtype:
            raise TypeError(f"{name}: expected {argument} of dtype {reconstruction.dtype}, got {value.dtype}")
    check.same_device(name, "mu", mu, reconstruction)
    if likelihood != "gaussian":
        check.mask(name, "target", target)


@loss(shape=rows_shape, check=check_autoencoder, options={"likelihood": LIKELIHOODS, "beta": Number(low=0)})
def vae_loss(reconstruction, target, mu, logvar, *, likelihood="bernoulli", beta=1.0, reduction="mean"):
    """Loss of a (beta-)VAE: negative log-likelihood of the data plus the divergence of the code from N(0, I).

    .. math:: R + \\beta K, \\quad K = \\tfrac{1}{2} \\sum (e^{v} - v - 1 + \\mu^2), \\; v = \\log \\sigma^2

    with R, for each sample the sum over everything but the batch, one of

    - "bernoulli": binary cross-entropy of the reconstruction as probabilities, logarithms clamped at -100;
    - "bernoulli_logits": the same on logits;
    - "gaussian": Σ (t - x)², without ½.

    Args:
        reconstruction: x (B, ...), for "bernoulli" in [0, 1]; float32, float64, float16 or bfloat16.
        target: t, the reconstruction's shape; floating, bool, uint8, int32 or int64; for the Bernoulli kinds
            in [0, 1], of integers 0 or 1.
        mu, logvar: μ and v (B, ...), of the same shape and of the reconstruction's dtype.
        likelihood: "bernoulli", "bernoulli_logits" or "gaussian".
        beta: weight of the divergence, >= 0.
        reduction: "none" (of each sample), "mean" (over the batch) or "sum".

    Returns:
        (total, reconstruction_term, kl_term), kl_term before beta: scalars, or (B,) with "none"; float64 for float64
        input, else float32. Any of the three may be differentiated.

    As :func:`binary_cross_entropy` at probabilities of 0 and 1. NaN propagates; the mean of nothing is NaN; e^logvar
    may overflow to infinity.
    Raises ValueError or TypeError on a wrong shape, dtype, device or option; for "bernoulli" RuntimeError on a
    reconstruction or target outside [0, 1], for both Bernoulli kinds on integers that are no mask: device assertions on
    CUDA.
    Kingma and Welling, "Auto-encoding variational Bayes" (2014); Higgins et al., "beta-VAE" (2017).

    Example:
        >>> image, target = torch.full((1, 4), 0.5), torch.ones(1, 4)
        >>> total, reconstruction, kl = F.vae_loss(image, target, torch.ones(1, 2), torch.zeros(1, 2), beta=4.0)
        >>> total, reconstruction, kl  # the first is the second plus 4 times the third
        (tensor(6.7726), tensor(2.7726), tensor(1.))
    """
    x, t, mu, logvar = accumulate(reconstruction, target, mu, logvar)
    if likelihood == "bernoulli":
        nll = cross_entropy_of_probabilities(x, t)
    elif likelihood == "bernoulli_logits":
        nll = cross_entropy_of_logits(x, t)
    else:
        nll = (t - x) ** 2
    divergence = (exp_excess(logvar) + mu**2) / 2
    nll, divergence = (v.sum(tuple(range(1, v.ndim))) if v.ndim > 1 else v for v in (nll, divergence))
    reconstruction_term, kl_term = reduce(nll, reduction), reduce(divergence, reduction)
    return reconstruction_term + beta * kl_term, reconstruction_term, kl_term


class VAELoss(LossModule, function=vae_loss, tensors=("reconstruction", "target", "mu", "logvar")):
    """Module of :func:`vae_loss`.

    Example:
        >>> criterion = fused_losses.VAELoss(likelihood="gaussian")
        >>> criterion(torch.zeros(1, 4), torch.ones(1, 4), torch.ones(1, 2), torch.zeros(1, 2))
        (tensor(5.), tensor(4.), tensor(1.))
    """
