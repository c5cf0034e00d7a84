"""The feature-learning limit of wide multilayer perceptrons."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ..nets import MLP as Network
from ..nets import Ensemble
from ..nets._activations import activation_function, check_activation
from ..nets._batches import batch_weights, check_batch, whole_batch_size
from ..nets._losses import check_loss, check_targets, error_signal, loss_name
from ..nets._mlp_fields import PREACTIVATION_EDGES
from ..nets._saved_record import WHOLE, save_record, saved_record
from ..nets.rules import (
    AbstractRule,
    Backpropagation,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    GatedLinear,
    Hebb,
    is_trained_by_gradient,
)
from ..problems import (
    OVERFLOW,
    ConvergenceError,
    Dataset,
    GradientDescent,
    MinibatchSGD,
    Trajectory,
    check,
    default_key,
    describe,
    key_name,
    versions,
)
from ..problems import _checks as checks
from ..solvers import (
    AbstractFieldAxis,
    CoefficientAxis,
    MarchInputs,
    MarchOptions,
    SampleAxis,
    SpikedMatrix,
    as_float,
    context,
    double,
    in_precision,
    resumable,
    to_host,
    without_derivative,
)
from ._base import AbstractLimit
from ._memory import Cost
from ._mlp_cost import march_cost
from ._mlp_pieces import solve_in_pieces
from ._mlp_solution import record, solve_mlp
from ._spectrum import Spectrum, check_layer, missing, spiked_spectrum

APPROXIMATIONS = ("static_kernel", "gradient_independence", "leading_order")

_FEEDBACK = {
    Backpropagation: "transported",
    GatedLinear: "transported",
    FeedbackAlignment: "frozen",
    DirectFeedbackAlignment: "direct",
    Hebb: "hebbian",
}

_RELU = (
    'the limit of activation "relu" cannot be differentiated: what happens at the kink would be missed; use a smooth '
    'activation, such as "softplus" or "gelu".'
)


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
        task = self._task(task)
        return Network.init(self, task.dim, size, key, outputs=_outputs(task))

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` pairs of networks that differ by the sign of the readout, so that the mean of a pair starts at 0."""
        task = self._task(task)
        return Network.pairs(self, task.dim, size, seeds, key, outputs=_outputs(task))

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        approximation: Literal["static_kernel", "gradient_independence", "leading_order"] | None = None,
        samples: int = 10_000,
        replicas: int = 4,
        axis: AbstractFieldAxis | None = None,
        tolerance: float | None = None,
        rank: int | None = None,
        keep: Literal["all", "diagonal"] | None = "all",
        densities: bool = False,
        test_batch: int | None = None,
        adjoint: Literal["tape", "direct"] = "tape",
        memory_limit: float | None = None,
        precision: Literal["single", "double"] | None = None,
        throw: bool = True,
        out: str | os.PathLike | None = None,
    ) -> Trajectory:
        r"""Training in the limit, by one causal pass in time; see `solvers.march`.

        **Arguments:**

        - `task`: a fixed data set. `protocol`: `GradientDescent` or `MinibatchSGD`; without a `seed` of its own, every
            replica draws its batches anew, and the mean over batches is approached with their number.
        - `key`: random key of the Monte-Carlo particles, and of batches.
        - `approximation`: instead of the theory, what is used in its place: `"static_kernel"`, descent with the
            tangent kernel of the start; `"gradient_independence"`, as if backward passes met independent weights (exact
            for one hidden layer); `"leading_order"`, the constant and the quadratic term in the richness.
        - `samples`: number of particles over all replicas, rounded up to whole pairs. The error is
            O(`samples`$^{-1/2}$) with a bias of O(`replicas / samples`). Linear networks need none and have no error.
        - `replicas`: independent runs, whose mean is returned and whose spread gives `sampling_error`.
        - `axis`: `SampleAxis()` or `CoefficientAxis()` (exact, identity only); the default goes by the activation.
        - `tolerance`: a field brings a new basis direction if it has more than this share of its variance outside
            of the basis. By default twice the inverse number of particles of a replica; 1e-18 if exact.
        - `rank`: directions that fit in a basis, which sets the memory. The default grows, where values are concrete,
            until it is enough. With a rank, `extras["truncation_error"]` `[steps + 1]` is the root mean square over
            samples of what four times the tolerance changes in the predictions.
        - `keep`: kernels between all times, at equal times (`"diagonal"`), or none, nor other diagnostics.
        - `densities`: also the densities of preactivations.
        - `test_batch`: test points that are held in memory at once; by default at most 256.
        - `adjoint`: `"tape"` for gradients at a small cost in time and memory, `"direct"` for forward mode.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `precision`: exact solutions are in `"double"` by default, Monte Carlo follows JAX's global flag.
        - `throw`: whether divergence or a lack of rank raises.
        - `out`: a folder. Replicas are saved in `out/checkpoints` as they are done, so that the same call goes on where
            a killed one stopped, and the record is written to `out/result.nc`.

        **Returns:**

        A record with `predictions` `[steps + 1, samples]` (a last axis of outputs if the targets have one),
        `test_predictions`, the losses of these predictions (in the convention `loss`), and `kernels["Phi", l]` and
        `kernels["G", l]`, l = 1..depth, on training samples: $\langle\phi(h^l)\phi(h^l)\rangle$ and
        $\langle \tilde g^l \tilde g^l\rangle$, where $\tilde g^l$ is what the rule has in place of
        $g^l = \gamma_0 N\,\partial f/\partial h^l$, and with several outputs $\sum_k \Delta_k \tilde g^l_k$.

        Unless `keep` is `None`, `extras` hold the tangent kernel `ntk`
        `[steps + 1, samples, samples]`, $df/d\tau = \frac1P K\Delta$, not symmetric unless the rule is a gradient; its
        `sharpness`, the largest eigenvalue of $K/P$ (for the half mean square, and a rule that is a gradient, that of
        the Gauss-Newton matrix); its `alignment` $y^TKy/|y|^2|K|_F$, and those of Phi, for several outputs of
        $\Phi\otimes 1$, as `alignment_l`. Of several outputs `ntk` is `[steps + 1, samples, outputs, samples, outputs]`
        (in the lazy limit $K\otimes 1$, with one kernel for all). There are always
        `directions_l` `[steps + 1, 2]`, how many the bases of $W^l$ held, forward and backward (means over replicas),
        and the trained hidden weights for `spectrum`. With `densities`, `density_l` `[steps + 1, bins]` of $h^l$ on
        `nets.PREACTIVATION_EDGES`.

        **Raises:** `DivergedError` with the stability bound at initialisation; `ConvergenceError` for too small a
        `rank`; `MemoryError` before any work; `TypeError` for a derivative that this solution does not have (of
        `"relu"`, whose kink it would miss; any, with `out`); `ValueError` for a folder that holds something else.
        """
        task = self._task(task)
        checks.instance(
            "protocol", protocol, (GradientDescent, MinibatchSGD), "GradientDescent or MinibatchSGD for MLP"
        )
        checks.choice("approximation", approximation, (None, *APPROXIMATIONS))
        checks.choice("keep", keep, ("all", "diagonal", None))
        checks.choice("adjoint", adjoint, ("tape", "direct"))
        checks.choice("precision", precision, (None, "double", "single"))
        checks.flag("densities", densities)
        checks.flag("throw", throw)
        key, axis = default_key(key), self._axis(axis)
        exact, leading = isinstance(axis, CoefficientAxis), approximation == "leading_order"
        replicas, particles = self._replicas(protocol, axis, samples, replicas)
        precision = self._precision(axis, approximation, precision)
        if tolerance is None:
            # The leading order is what the smallest moves do: nothing may be dropped.
            tolerance = (1e-18 if precision == "double" else 1e-9) if exact else 1e-12 if leading else 2.0 / particles
        tolerance = checks.number("tolerance", tolerance, above=0.0, below=1.0)
        options = self._options(task, approximation, keep, densities, test_batch)
        static = {
            "options": options,
            "loss": self.loss,
            "replicas": replicas,
            "keep": keep,
            "leading_order": leading,
            "adjoint": adjoint,
        }

        if out is not None and checks.is_traced((self, task, protocol, key)):
            raise TypeError("out saves numbers, and there are none inside of a transformation; solve outside of it.")

        def configuration():
            numbers = {"samples": samples, "replicas": replicas, "tolerance": describe(tolerance), "rank": rank}
            asked = numbers | {name: describe(static[name]) for name in ("options", "keep", "leading_order", "adjoint")}
            about = {"limit": describe(self), "task": describe(task), "protocol": describe(protocol)} | asked
            about |= {"axis": describe(axis), "precision": precision, "key": key_name(key), "versions": versions()}
            return about

        work = partial(self._solved, task, protocol, key, axis, particles, rank, tolerance, precision, memory_limit)
        with resumable(out, configuration) as saved:
            if saved is None:
                trajectory, stable_below = work(static)
            else:
                if WHOLE not in saved.steps():
                    trajectory, stable_below = work(static, saved)
                    save_record(saved, trajectory, about=stable_below)
                trajectory, _, stable_below = saved_record(saved)
        if throw:
            if checks.concrete(trajectory.status_code) == OVERFLOW:
                room, most = dict(trajectory.attributes)["rank"], len(task.x) * (protocol.steps + 1)
                raise ConvergenceError(
                    f"the march needs more than {room} basis directions; raise rank (this problem never needs more "
                    f"than {most}) or tolerance."
                )
            check(trajectory, stable_below)
        return trajectory

    def _solved(
        self, task, protocol, key, axis, particles, rank, tolerance, precision, memory_limit, static, saved=None
    ) -> tuple[Trajectory, float | None]:
        """The record, and the rate below which descent is stable at the start; with `saved`, replica by replica."""
        options, replicas, keep, adjoint = (static[name] for name in ("options", "replicas", "keep", "adjoint"))
        most, room = len(task.x) * (protocol.steps + 1), self._room(task, rank)
        inputs, number = self._inputs(task, protocol), 0
        while True:
            room = min(room, most)
            grows = rank is None and room < most
            sized = self._sized(task, axis, particles, room)
            cost = march_cost(task, protocol.steps, self.depth, room, sized, options, replicas, keep, precision)
            cost.check("MLP.solve", memory_limit)
            with context(precision):
                weights = self._sample_weights(task, protocol, key, replicas)
                floats, small = as_float(((inputs._replace(sample_weights=weights), task.y_test), tolerance))
                if self.activation == "relu" and not options.gated:
                    floats = without_derivative(floats, _RELU)
                run: Any = partial(_run, axis=sized, capacity=room, **static)
                run = in_precision(run, precision) if adjoint == "tape" else run
                if saved is not None:
                    run = partial(_run_in_pieces, axis=sized, capacity=room, saved=saved, grows=grows, **static)
                    run = partial(run, first=number)
                solution = run(floats, (key, small))
                if solution is not None and rank is not None:
                    run = run if saved is None else partial(run, first=number + replicas)
                    coarse = run(floats, (key, 4 * small)).curves["predictions"] - solution.curves["predictions"]
                    coarse = jnp.sqrt(jnp.mean(coarse.reshape(len(coarse), -1) ** 2, axis=1))
                    solution.extras["truncation_error"] = coarse
            if solution is not None and not (grows and checks.concrete(solution.code) == OVERFLOW):
                break
            room, number = 2 * room, number + replicas

        solution = to_host(solution)
        attributes = (
            ("key", key_name(key)),
            ("samples", None if isinstance(axis, CoefficientAxis) else particles * replicas),
            ("replicas", replicas),
            ("rank", room),
            ("precision", precision),
        )
        trajectory = record(solution, task.has_test, loss_name(self.loss), attributes)
        return trajectory, self._stable_below(protocol, solution.largest_eigenvalue)

    def cost(
        self,
        task,
        protocol,
        *,
        approximation=None,
        samples: int = 10_000,
        replicas: int = 4,
        axis: AbstractFieldAxis | None = None,
        rank: int | None = None,
        keep="all",
        densities: bool = False,
        test_batch: int | None = None,
        precision=None,
        **options,
    ) -> Cost:
        """See `AbstractLimit.cost`: memory as particles times basis directions, time as that times steps times data
        samples. A default `rank` is what the solution starts with; it may grow, up to the data samples times steps."""
        task, axis = self._task(task), self._axis(axis)
        room = min(self._room(task, rank), len(task.x) * (protocol.steps + 1))
        replicas, particles = self._replicas(protocol, axis, samples, replicas)
        found = march_cost(
            task,
            protocol.steps,
            self.depth,
            room,
            self._sized(task, axis, particles, room),
            self._options(task, approximation, keep, densities, test_batch),
            replicas,
            keep,
            self._precision(axis, approximation, precision),
        )
        runs = 3 if approximation == "leading_order" else 1
        return replace(found, flops=found.flops * runs * (1 if rank is None else 2))

    def stability(self, task, protocol, trajectory: Trajectory):
        """From the recorded `sharpness`, at the time before each update. **Raises:** `ValueError` where it is not."""
        missing(trajectory, ("sharpness",))
        return protocol.learning_rate * trajectory.extras["sharpness"][:-1] / (2 * (1 + protocol.momentum))

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
            core, d = core.swapaxes(0, 1), d[..., layer].T
            one = jnp.broadcast_to(jnp.eye(core.shape[-1]), response_phi.shape)
            scale = (scale if scale.ndim == 0 else scale[layer]) * d
            aspect = jnp.ones(len(core))
            return SpikedMatrix(one, one, response_phi, response_g, core, aspect, scale)

    def _task(self, task) -> Dataset:
        checks.instance("task", task, Dataset, "a fixed data set (sphere, digits, from_arrays) for MLP")
        check_targets(self.loss, task.y)
        if isinstance(self.rule, Hebb) and task.y.ndim == 2:
            raise ValueError(f"rule Hebb is for one output, y of shape [samples]; the shape of y is {task.y.shape}.")
        return task

    def _axis(self, axis):
        linear = self.activation == "identity" and not isinstance(self.rule, GatedLinear)
        if axis is None:
            return CoefficientAxis() if linear else SampleAxis()
        checks.instance("axis", axis, AbstractFieldAxis, "SampleAxis() or CoefficientAxis()")
        if isinstance(axis, CoefficientAxis) and not linear:
            raise ValueError('CoefficientAxis is exact for linear networks only; it needs activation="identity".')
        return axis

    def _replicas(self, protocol, axis, samples, replicas) -> tuple[int, int]:
        """The number of independent runs, and the particles of each."""
        samples, replicas = checks.integer("samples", samples, low=2), checks.integer("replicas", replicas)
        batches = isinstance(protocol, MinibatchSGD) and protocol.seed is None
        if isinstance(axis, CoefficientAxis) and not batches:
            replicas = 1
        return replicas, 2 * -(-samples // (2 * replicas))

    def _precision(self, axis, approximation, precision) -> Literal["single", "double"]:
        exact = isinstance(axis, CoefficientAxis) or approximation == "leading_order"
        if precision is None:
            return "double" if exact or jnp.result_type(float) == jnp.float64 else "single"
        return precision

    def _room(self, task, rank) -> int:
        return 5 * (self.depth + 1) * len(task.x) if rank is None else checks.integer("rank", rank)

    def _sized(self, task, axis, particles: int, room: int) -> AbstractFieldAxis:
        outputs = _outputs(task) or 1
        slots = room + len(task.x) * (1 if outputs == 1 else 1 + outputs)
        return axis.sized(particles, slots, feedback=_FEEDBACK[type(self.rule)] != "transported")

    def _options(self, task, approximation, keep, densities, test_batch) -> MarchOptions:
        test_batch = 256 if test_batch is None else checks.integer("test_batch", test_batch)
        richness = checks.concrete(self.richness)
        lazy = approximation == "static_kernel" or (richness is not None and bool(richness == 0))
        if lazy and approximation in ("gradient_independence", "leading_order"):
            raise ValueError(f"approximation {approximation} needs a richness above 0; it is 0.")
        return MarchOptions(
            activation=activation_function(self.activation),
            error=_ErrorSignal(self.loss),
            feedback=_FEEDBACK[type(self.rule)],
            gated=isinstance(self.rule, GatedLinear),
            lazy=lazy,
            responses=approximation != "gradient_independence",
            fields=keep == "all",
            weights=keep is not None and approximation != "leading_order",
            gradients=lazy or (_outputs(task) or 1) == 1 or keep is not None,
            density_edges=tuple(PREACTIVATION_EDGES) if densities else None,
            test_batch=test_batch if task.has_test and test_batch < len(task.x_test) else None,
        )

    def _inputs(self, task, protocol) -> MarchInputs:
        x_test = task.x_test if task.has_test else jnp.zeros((0, task.dim))
        by_layer = lambda value: jnp.broadcast_to(jnp.asarray(value), (self.depth + 1,))  # noqa: E731
        schedules = protocol.learning_rate, protocol.momentum, protocol.weight_decay
        scales = self.richness, by_layer(self.init_scale), self.bias_scale, by_layer(self.rate_scale)
        correlation = self.rule.correlation if isinstance(self.rule, FeedbackAlignment) else None
        return MarchInputs(task.x, task.y, x_test, *schedules, *scales, correlation)

    def _sample_weights(self, task, protocol, key, replicas):
        """The weight of every sample at every step, of every replica."""
        largest = whole_batch_size(protocol) if isinstance(protocol, MinibatchSGD) else 0
        if largest:
            check_batch(protocol, len(task.x))
        draw = lambda i: batch_weights(protocol, jax.random.fold_in(key, i), len(task.x), largest, float)  # noqa: E731
        return jnp.stack([draw(2**31 + i) for i in range(replicas)])

    def _stable_below(self, protocol, largest_eigenvalue) -> float | None:
        """Where descent, or the heavy ball, is linearly stable on a quadratic with this largest curvature."""
        if self.loss != "half_mean_square" or not is_trained_by_gradient(self.rule) or largest_eigenvalue is None:
            return None
        momentum, largest = checks.concrete(protocol.momentum), checks.concrete(largest_eigenvalue)
        if momentum is None or largest is None or not largest > 0:
            return None
        return float(2.0 * (1.0 + momentum[0]) / largest)


@dataclass(frozen=True)
class _ErrorSignal:
    """The error signal of a loss, equal for equal losses, so that it is compiled once."""

    loss: str | Callable

    def __call__(self, f, y):
        return error_signal(self.loss, f, y)


def _run(floats, rest, *, axis, **options):
    return solve_mlp(*floats, *rest, axis, **options)


def _run_in_pieces(floats, rest, *, axis, **options):
    key, tolerance = rest
    return solve_in_pieces(floats, key, tolerance, axis, **options)


def _outputs(task) -> int | None:
    return task.y.shape[1] if task.y.ndim == 2 else None


def _by_layer(name: str, value, depth: int):
    value = checks.array(name, value, ndim=(0, 1), low=0.0, place="layer")
    if value.ndim == 1 and len(value) != depth + 1:
        raise ValueError(
            f"{name} must be a number or have depth + 1 = {depth + 1} entries, the readout's last; it has {len(value)}."
        )
    return value
