"""Losses of one sample by name, and the error signal that each sends back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..problems import _checks as checks

LOSSES: dict[str, Callable] = {
    "half_mean_square": lambda f, y: 0.5 * jnp.sum((y - f) ** 2),
    "cross_entropy": lambda f, y: -jnp.sum(y * jax.nn.log_softmax(f)),
}


def check_loss(loss: str | Callable) -> str | Callable:
    """Returns a known name or a callable unchanged. **Raises:** `ValueError` naming what is known."""
    if callable(loss):
        return loss
    return checks.choice("loss", loss, LOSSES, extra=", or any callable of (outputs, targets)")


def check_targets(loss: str | Callable, y) -> None:
    """**Raises:** `ValueError` for targets that a loss makes no sense of."""
    if loss != "cross_entropy":
        return
    if y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(
            "cross_entropy needs targets y of shape [samples, outputs] with at least 2 outputs; "
            f"their shape is {y.shape}."
        )
    known = checks.concrete(y)
    if known is not None and known.min() < 0:
        raise ValueError(f"cross_entropy needs targets y of at least 0, such as probabilities; one is {known.min():g}.")


def loss_name(loss: str | Callable) -> str:
    """What a trajectory calls the convention of its losses: means over samples."""
    return "mean_loss" if callable(loss) else loss


def sample_losses(loss: str | Callable, f: Float[Array, "*batch outputs"], y) -> Float[Array, "*batch"]:
    r"""The losses $\ell(f_\mu, y_\mu)$ of every sample; outputs and targets have the outputs last."""
    function = loss if callable(loss) else LOSSES[loss]
    for _ in f.shape[:-1]:
        function = jax.vmap(function)
    return function(f, jnp.broadcast_to(y, f.shape))


def error_signal(loss: str | Callable, f: Float[Array, "samples outputs"], y) -> Float[Array, "samples outputs"]:
    r"""$\Delta_{\mu k} = -\partial\ell(f_\mu, y_\mu)/\partial f_{\mu k}$; $y - f$ for the half mean square."""
    if loss == "half_mean_square":
        return y - f
    function = loss if callable(loss) else LOSSES[loss]
    return -jax.vmap(jax.grad(function))(f, y)
