"""Learning rules: which field teaches the hidden weights, in place of the gradient."""

from typing import Any

import equinox as eqx

from ..problems import _checks as checks


class AbstractRule(eqx.Module):
    r"""How hidden weights learn. With the errors $\Delta = -\partial\ell/\partial f$ they move by

    $$\delta W^l = \frac{\eta\gamma_0}{P}\sum_\mu \Delta_\mu\, \tilde g^{l+1}_\mu\, \phi(h^l_\mu)^T / \sqrt N$$

    and a rule says what the pseudo-gradient $\tilde g$ is. The readout always follows its gradient.

    ??? cite "Source"
        The Influence of Learning Rule on Representation Dynamics in Wide Neural Networks, arXiv 2210.02157.
    """


class Backpropagation(AbstractRule):
    r"""The gradient: $\tilde g^l = \phi'(h^l)\, W^{lT}\tilde g^{l+1}/\sqrt N$, $\tilde g^L = \phi'(h^L)\, w$."""


class FeedbackAlignment(AbstractRule):
    r"""Errors travel back through frozen matrices, $\tilde g^l = \phi'(h^l)\, F^{lT}\tilde g^{l+1}/\sqrt N$ with
    $F^l = \rho W^l(0) + \sqrt{1-\rho^2}\,\tilde W^l$ and independent $\tilde W^l$; likewise from the readout.

    **Arguments:**

    - `correlation`: $\rho$, from 0 (independent of the forward weights) to 1 (their values at initialisation).
    """

    correlation: Any

    def __init__(self, correlation=0.0):
        self.correlation = checks.number("correlation", correlation, low=0.0, high=1.0)


class DirectFeedbackAlignment(AbstractRule):
    r"""Errors reach every layer directly: $\tilde g^l = \phi'(h^l)\, \tilde z^l$ with frozen standard normal
    $\tilde z^l$, the same for all samples (one for each output)."""


class Hebb(AbstractRule):
    r"""Error-modulated Hebbian learning: $\tilde g^l_\mu = \Delta_\mu\, \phi(h^l_\mu)$. For one output."""


class GatedLinear(AbstractRule):
    r"""Gated linear units trained by gradient descent: $\phi(h^l)$ is replaced by $\phi'(m^l)\, h^l$ with frozen gates
    $m^l = V^l x/\sqrt D$, $V^l_{ij} \sim N(0, 1)$, independent in every layer; the activation only shapes the gates."""


def is_trained_by_gradient(rule: AbstractRule) -> bool:
    """Whether the rule follows the gradient of the loss of its own network."""
    return isinstance(rule, (Backpropagation, GatedLinear))
