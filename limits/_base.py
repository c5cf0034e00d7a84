"""What a limit must give, and what it then gets for free."""

import abc
from typing import Any, ClassVar

import equinox as eqx

from ..problems import AbstractProtocol, AbstractTask, Trajectory
from ._memory import Cost


class AbstractLimit(eqx.Module):
    """The infinite limit of a family of networks.

    A limit gives `solve`, the theory, and `finite` and `ensemble`, the networks whose limit it is. It then takes part
    in `compare`, `optimise`, `final_loss`, plots and the command line, none of which knows which limit it is.
    """

    size_name: ClassVar[str] = "width"  # what the size of a finite network is called in pictures and tables

    @abc.abstractmethod
    def solve(
        self, task: AbstractTask, protocol: AbstractProtocol, *, key=None, throw: bool = True, **options
    ) -> Trajectory:
        """The theory: what infinitely large networks do when they learn `task` by `protocol`.

        With `throw=False` a diverged or unreliable solution comes back with its status instead of an error.
        """

    def cost(self, task: Any, protocol: Any, **options) -> Cost:
        """What `solve` with these `options` would take, in bytes and operations: estimated from sizes, at no cost.

        `solve` raises `MemoryError` where `cost(...).bytes` is more than what is free.

        **Raises:** `TypeError` for a limit that does not say.
        """
        raise TypeError(f"{type(self).__name__} does not say what it costs.")

    @abc.abstractmethod
    def finite(self, task: AbstractTask, *, size: int, key=None) -> Any:
        """One random network of the given size whose limit this is; its `design` is this limit."""

    @abc.abstractmethod
    def ensemble(self, task: AbstractTask, *, size: int, seeds: int, key=None) -> Any:
        """`seeds` independent networks, arranged so that their mean approaches the limit fastest."""

    def spectrum(self, trajectory: Trajectory, layer: int, *, count: int) -> Any:
        """What `lx.spectrum` returns.

        **Raises:** `TypeError` for limits that have none.
        """
        raise TypeError(f"{type(self).__name__} has no hidden weight matrices, and no spectrum of them.")

    def stability(self, task, protocol, trajectory: Trajectory) -> Any:
        r"""The learning rate over that at the edge of stability, $\eta_t\lambda_{\max}(t) / 2(1+\beta_t)$, `[steps]`,
        along a solution `trajectory`.

        **Raises:** `TypeError` for limits that do not follow the sharpness.
        """
        raise TypeError(f"{type(self).__name__} does not follow its sharpness; bound the learning rate itself instead.")

    def exact_at_any_size(self, task: AbstractTask, protocol: AbstractProtocol) -> bool:
        """Whether the mean over finite networks equals the theory at every size, so that only their number matters."""
        return False


def of(net) -> AbstractLimit:
    """The limit that a finite network realises: its `design`."""
    design = getattr(net, "design", None)
    if not isinstance(design, AbstractLimit):
        raise TypeError(f"net must be a network made by a limit; {type(net).__name__} has no limit as its design.")
    return design
