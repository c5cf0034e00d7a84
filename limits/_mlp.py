"""The feature-learning limit of wide multilayer perceptrons."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

from ..nets import MLP as Network
from ..nets import Ensemble
from ..nets._activations import activation_function, check_activation
from ..nets._losses import check_loss
from ..nets.rules import AbstractRule, Backpropagation
from ..problems import OVERFLOW, ConvergenceError, Dataset, GradientDescent, Trajectory, check, default_key, key_name
from ..problems import _checks as checks
from ..solvers import (
    AbstractFieldAxis,
    CoefficientAxis,
    MarchInputs,
    SampleAxis,
    SpikedMatrix,
    as_float,
    context,
    double,
    in_precision,
    to_host,
)
from ._base import AbstractLimit
from ._memory import check_memory
from ._mlp_solution import solve_mlp
from ._spectrum import Spectrum, check_layer, missing, spiked_spectrum


class MLP(AbstractLimit):
    r"""A wide perceptron that learns features: the mean-field parameterisation, width $N \to \infty$ at fixed data.

    $$h^1 = \frac{W^0 x}{\sqrt D} + b^1, \quad h^{l+1} = \frac{W^l\phi(h^l)}{\sqrt N} + b^{l+1}, \quad
      f = \frac{w\cdot\phi(h^L)}{\gamma_0 N}, \qquad
      W^l_{ij} \sim N(0, s_l^2),\ w_i \sim N(0, s_L^2),\ b^l_i \sim N(0, \sigma_b^2)$$

    Every parameter moves at the rate `learning_rate` $\gamma_0^2 N$ on $\frac{1}{2P}\sum_\mu (y_\mu - f_\mu)^2$.
    Then preactivations move by O($\gamma_0$), everything in a `Trajectory` is O(1), and predictions start at zero.

    **Arguments:**

    - `depth`: $L$, the number of hidden layers.
    - `activation`: `"erf"`, `"gelu"`, `"identity"`, `"relu"`, `"softplus"`, `"tanh"`, or an elementwise function of
        arrays. Derivatives of a solution need a smooth one: those of `"relu"` miss what happens at the kink.
    - `richness`: $\gamma_0 \ge 0$. Zero is the lazy limit, gradient descent with a static tangent kernel.
    - `init_scale`: $s_0, \dots, s_L$, one number for all or an array `[depth + 1]`, the readout's last.
    - `bias_scale`: $\sigma_b$; zero means a network without biases.
    - `rule`: how hidden weights learn, one of `lx.rules`; backpropagation by default.
    - `loss`: of one sample: `"half_mean_square"` (summed over outputs), `"cross_entropy"` (of the softmax, targets are
        probabilities), or a function of outputs and targets, both `[outputs]`.
    - `rate_scale`: $r_0, \dots, r_L$, the learning rate of each layer over the protocol's; shaped like `init_scale`.
        Biases $b^{l+1}$ go with $W^l$.

    ??? cite "Source"
        Self-Consistent Dynamical Field Theory of Kernel Evolution in Wide Neural Networks, arXiv 2205.09653.
        The Influence of Learning Rule on Representation Dynamics in Wide Neural Networks, arXiv 2210.02157.
    """

    depth: int = eqx.field(static=True)
    activation: str | Callable = eqx.field(static=True)
    richness: Any
    init_scale: Any
    bias_scale: Any
    rule: AbstractRule
    loss: str | Callable = eqx.field(static=True)
    rate_scale: Any

    def __init__(
        self,
        depth: int,
        activation: str | Callable,
        richness=1.0,
        init_scale=1.0,
        bias_scale=0.0,
        *,
        rule: AbstractRule | None = None,
        loss: str | Callable = "half_mean_square",
        rate_scale=1.0,
    ):
        self.depth = checks.integer("depth", depth)
        self.activation = check_activation(activation)
        self.richness = checks.number("richness", richness, low=0.0)
        self.init_scale = _by_layer("init_scale", init_scale, depth)
        self.bias_scale = checks.number("bias_scale", bias_scale, low=0.0)
        self.rule = Backpropagation() if rule is None else rule
        checks.instance("rule", self.rule, AbstractRule, "one of lx.rules, such as FeedbackAlignment(0.5)")
        self.loss = check_loss(loss)
        self.rate_scale = _by_layer("rate_scale", rate_scale, depth)

    @property
    def has_biases(self) -> bool:
        """Whether there are biases; a traced scale counts as positive."""
        scale = checks.concrete(self.bias_scale)
        return scale is None or bool(scale > 0)

    def finite(self, task, *, size: int, key=None) -> Network:
        """One random network of width `size`."""
        return Network.init(self, _fixed(task).dim, size, key)

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` pairs of networks that differ by the sign of the readout, so that the mean of a pair starts at 0."""
        return Network.pairs(self, _fixed(task).dim, size, seeds, key)

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        samples: int = 10_000,
        replicas: int = 4,
        axis: AbstractFieldAxis | None = None,
        tolerance: float | None = None,
        capacity: int | None = None,
        keep: Literal["all", "diagonal"] | None = "all",
        adjoint: Literal["tape", "direct"] = "tape",
        memory_limit: float | None = None,
        precision: Literal["single", "double"] | None = None,
        throw: bool = True,
    ) -> Trajectory:
        r"""Training in the limit, by one causal pass in time; see `solvers.march`.

        **Arguments:**

        - `task`: a fixed data set with one output. `protocol`: `GradientDescent`.
        - `key`: random key of the Monte-Carlo particles.
        - `samples`: number of particles over all replicas, rounded up to whole pairs. The error is
            O(`samples`$^{-1/2}$) with a bias of O(`replicas / samples`). Linear networks need none and have no error.
        - `replicas`: independent runs, whose mean is returned and whose spread gives `sampling_error`.
        - `axis`: `SampleAxis()` or `CoefficientAxis()` (exact, identity only); the default goes by the activation.
        - `tolerance`: a field brings a new basis direction if it has more than this share of its variance outside
            of the basis. By default twice the inverse number of particles of a replica; 1e-18 if exact.
        - `capacity`: directions that fit in a basis. The default grows, where values are concrete, until it is enough.
        - `keep`: kernels between all times, at equal times (`"diagonal"`), or none.
        - `adjoint`: `"tape"` for gradients at a small cost in time and memory, `"direct"` for forward mode.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `precision`: exact solutions are in `"double"` by default, Monte Carlo follows JAX's global flag.
        - `throw`: whether divergence or a lack of capacity raises.

        **Returns:**

        A record with `predictions` `[steps + 1, samples]`, `test_predictions`, the losses of these predictions
        (`"half_mean_square"`), and `kernels["Phi", l]` and `kernels["G", l]`, l = 1..depth, on training samples:
        $\langle\phi(h^l)\phi(h^l)\rangle$ and $\langle g^l g^l\rangle$, $g^l = \gamma_0 N\,\partial f/\partial h^l$.
        Unless `keep` is `None`, `extras` hold the trained hidden weights for `spectrum`.

        **Raises:** `DivergedError` with the stability bound at initialisation; `ConvergenceError` for too small a
        `capacity`; `MemoryError` before any work.
        """
        task = _fixed(task)
        checks.instance("protocol", protocol, GradientDescent, "GradientDescent for MLP (others are not solved yet)")
        checks.choice("keep", keep, ("all", "diagonal", None))
        checks.choice("adjoint", adjoint, ("tape", "direct"))
        checks.choice("precision", precision, (None, "double", "single"))
        checks.flag("throw", throw)
        samples, replicas = checks.integer("samples", samples, low=2), checks.integer("replicas", replicas)
        key = default_key(key)
        axis = self._axis(axis)
        exact = isinstance(axis, CoefficientAxis)
        if exact:
            replicas = 1
        particles = 2 * -(-samples // (2 * replicas))
        if precision is None:
            precision = "double" if exact or jnp.result_type(float) == jnp.float64 else "single"
        if tolerance is None:
            tolerance = (1e-18 if precision == "double" else 1e-9) if exact else 2.0 / particles
        tolerance = checks.number("tolerance", tolerance, above=0.0, below=1.0)
        richness = checks.concrete(self.richness)
        options = {
            "activation": activation_function(self.activation),
            "replicas": replicas,
            "keep": keep,
            "lazy": richness is not None and bool(richness == 0),
            "adjoint": adjoint,
        }

        most = len(task.x) * protocol.steps
        room = 5 * (self.depth + 1) * len(task.x) if capacity is None else checks.integer("capacity", capacity)
        while True:
            room = min(room, most)
            sized = axis.sized(particles, room + len(task.x))
            self._check_memory(task, protocol.steps, room, sized.size, options, precision, memory_limit)
            with context(precision):
                floats, small = as_float(((self._inputs(task, protocol), task.y_test), tolerance))
                run = partial(_run, axis=sized, capacity=room, **options)
                solution = (in_precision(run, precision) if adjoint == "tape" else run)(floats, (key, small))
            code = checks.concrete(solution.code)
            if code != OVERFLOW or capacity is not None or room == most:
                break
            room = 2 * room

        solution = to_host(solution)
        absent = set() if task.has_test else {"test_predictions"}
        present = lambda values: values and {name: v for name, v in values.items() if name not in absent}  # noqa: E731
        trajectory = Trajectory(
            **present(solution.curves),
            kernels=solution.kernels,
            sampling_error=present(solution.error),
            extras=solution.trained,
            status_code=solution.code,
            diverged_step=solution.diverged,
            attributes=(
                ("key", key_name(key)),
                ("samples", None if exact else particles * replicas),
                ("replicas", replicas),
                ("capacity", room),
                ("precision", precision),
            ),
        )
        if throw:
            if code == OVERFLOW:
                raise ConvergenceError(
                    f"the march needs more than {room} basis directions; raise capacity (this problem never needs more "
                    f"than {most}) or tolerance."
                )
            check(trajectory, _stable_below(protocol, solution.largest_eigenvalue))
        return trajectory

    def spectrum(self, trajectory: Trajectory, layer: int, *, count: int = 4) -> Spectrum:
        """See `lx.spectrum`; the spikes are the orthonormal directions that the march has revealed."""
        return spiked_spectrum(self.spiked_matrices(trajectory, layer), trajectory, count)

    def spiked_matrices(self, trajectory: Trajectory, layer: int) -> SpikedMatrix:
        """What `spiked_spectrum` needs of a weight matrix."""
        layer = check_layer(layer, 1, self.depth)
        names = f"core_{layer}", f"response_phi_{layer}", f"response_g_{layer}", "decay"
        missing(trajectory, names)
        with double():
            core, response_phi, response_g, d, scale = as_float((*map(trajectory.extras.get, names), self.init_scale))
            core, d = core.swapaxes(0, 1), d.T
            one = jnp.broadcast_to(jnp.eye(core.shape[-1]), response_phi.shape)
            scale = (scale if scale.ndim == 0 else scale[layer]) * d
            aspect = jnp.ones(len(core))
            return SpikedMatrix(one, one, response_phi, response_g, core, aspect, scale)

    def _axis(self, axis):
        linear = self.activation == "identity"
        if axis is None:
            return CoefficientAxis() if linear else SampleAxis()
        checks.instance("axis", axis, AbstractFieldAxis, "SampleAxis() or CoefficientAxis()")
        if isinstance(axis, CoefficientAxis) and not linear:
            raise ValueError('CoefficientAxis is exact for linear networks only; it needs activation="identity".')
        return axis

    def _inputs(self, task, protocol) -> MarchInputs:
        x_test = task.x_test if task.has_test else jnp.zeros((0, task.dim))
        scale = jnp.broadcast_to(jnp.asarray(self.init_scale), (self.depth + 1,))
        schedules = protocol.learning_rate, protocol.momentum, protocol.weight_decay
        return MarchInputs(task.x, task.y, x_test, *schedules, self.richness, scale, self.bias_scale)

    def _check_memory(self, task, steps, room, size, options, precision, memory_limit):
        P, T, hidden, replicas = len(task.x), steps + 1, self.depth - 1, options["replicas"]
        everything = options["keep"] == "all" or options["lazy"]
        word = 8 if precision == "double" else 4
        pairs = T * T * P * P if everything else T * P * P
        tests = len(task.x_test) if task.has_test else 0
        needs = {
            "kernels": 2 * self.depth * (replicas + 1) * pairs * word if options["keep"] or options["lazy"] else 0,
            "fields": (8 * hidden * (room + P) + 10 * (P + tests) * self.depth + 2 * T * P * everything) * size * word,
        }
        remedies = {
            "kernels": 'use fewer steps or data samples, or keep="diagonal"',
            "fields": "use fewer samples (particles), or more replicas",
        }
        check_memory(needs, remedies, "MLP.solve", f"steps={steps}, {P} data samples", memory_limit)


def _run(floats, rest, *, axis, **options):
    return solve_mlp(*floats, *rest, axis, **options)


def _by_layer(name: str, value, depth: int):
    value = checks.array(name, value, ndim=(0, 1), low=0.0, place="layer")
    if value.ndim == 1 and len(value) != depth + 1:
        raise ValueError(
            f"{name} must be a number or have depth + 1 = {depth + 1} entries, the readout's last; it has {len(value)}."
        )
    return value


def _fixed(task) -> Dataset:
    checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for MLP")
    if task.y.ndim == 2:
        raise ValueError(f"MLP has one output so far: y must have the shape [samples]; it has {task.y.shape}.")
    return task


def _stable_below(protocol: GradientDescent, largest_eigenvalue) -> float | None:
    """Where gradient descent, or the heavy ball, is linearly stable on a quadratic with this largest curvature."""
    momentum, largest = checks.concrete(protocol.momentum), checks.concrete(largest_eigenvalue)
    if momentum is None or largest is None or not largest > 0:
        return None
    return float(2.0 * (1.0 + momentum[0]) / largest)
