"""Deep linear networks in the proportional limit: width, input dimension and samples grow together."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nets import DeepLinear as Network
from ..nets import Ensemble
from ..problems import (
    CONVERGED,
    DIVERGED,
    Gaussian,
    GradientDescent,
    Isotropic,
    OnlineSGD,
    Trajectory,
    check,
    first_divergence,
)
from ..problems import _checks as checks
from ..solvers import (
    CAUSAL_ADJOINTS,
    DeepLinearInputs,
    SpikedMatrix,
    as_float,
    context,
    deep_linear,
    deep_residual,
    double,
    in_precision,
    linear_optimiser,
    symmetric,
    to_host,
)
from ._base import AbstractLimit
from ._memory import Cost
from ._spectrum import Spectrum, check_layer, missing, spiked_spectrum


class DeepLinear(AbstractLimit):
    r"""A deep linear network whose width $N = \nu D$, inputs $D$ and samples $P = \alpha D$ are all large.

    $$f(x) = \frac{w^T W^{L-1} \cdots W^0 x}{\sqrt D\, N^{(L-1)/2}\, \gamma\sqrt N}, \qquad
      W^l_{ij} \sim N(0, \sigma_W^2), \quad w_i \sim N(0, \sigma_w^2)$$

    trained with raw steps $\eta\gamma^2 D$ on $\frac{1}{2P}\sum_\mu(y_\mu - f_\mu)^2$, with $\gamma =
    \gamma_0\sqrt\nu$ in the maximal-update and $\gamma = \gamma_0$ in the neural-tangent parameterisation. Updates of
    a weight matrix have a few singular values as large as the bulk of its random entries. Finite width, the sample and
    the label noise all leave their mark: nothing here is a kernel limit.

    **Arguments:**

    - `depth`: $L \ge 1$, the number of hidden layers.
    - `width_ratio`: $\nu > 0$, up to infinity.
    - `richness`: $\gamma_0 > 0$.
    - `init_scale`, `readout_scale`: $\sigma_W \ge 0$ and $\sigma_w \ge 0$.
    - `parameterization`: `"mup"` or `"ntk"`; they differ in how things change with `width_ratio`.
    - `residual`: whether the layers above the first are $1 + a W^l / \sqrt N$ with $a = 1/\sqrt{L-1}$.

    ??? cite "Source"
        Deep Linear Network Training Dynamics from Random Initialization: Data, Width, Depth, and Hyperparameter
        Transfer, arXiv 2502.02531.
    """

    size_name: ClassVar[str] = "input dimension"

    depth: int = eqx.field(static=True)
    width_ratio: Any
    richness: Any
    init_scale: Any
    readout_scale: Any
    parameterization: str = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        depth: int,
        width_ratio=1.0,
        richness=1.0,
        init_scale=1.0,
        readout_scale=1.0,
        parameterization: str = "mup",
        residual: bool = False,
    ):
        self.depth = checks.integer("depth", depth)
        self.width_ratio = checks.number("width_ratio", width_ratio, above=0.0, finite=False)
        self.richness = checks.number("richness", richness, above=0.0)
        self.init_scale = checks.number("init_scale", init_scale, low=0.0)
        self.readout_scale = checks.number("readout_scale", readout_scale, low=0.0)
        self.parameterization = checks.choice("parameterization", parameterization, ("mup", "ntk"))
        self.residual = checks.flag("residual", residual)

    def finite(self, task, *, size: int, key=None) -> Network:
        """One random network on `size` inputs.

        **Raises:** `ValueError` where `width_ratio` times `size` is less than one neuron.
        """
        _distribution(task)
        return Network.init(self, size, key)

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent networks on `size` inputs; each will draw its own teacher and data."""
        _distribution(task)
        return Network.ensemble(self, size, seeds, key)

    def solve(
        self,
        task,
        protocol,
        *,
        key=None,
        precision: Literal["double", "single"] = "double",
        adjoint: Literal["tape", "blocked", "direct"] = "tape",
        memory_limit: float | None = None,
        throw: bool = True,
    ) -> Trajectory:
        r"""The exact training dynamics, by one causal sweep; see `solvers.deep_linear` and `solvers.deep_residual`.

        **Arguments:**

        - `task`: `isotropic` or `gaussian` with a `sample_ratio` (infinite: the population).
        - `protocol`: `GradientDescent` on the same samples at every step, or `OnlineSGD` with a `batch_ratio` of fresh
          samples (the task's `sample_ratio` then says nothing).
        - `key`: not used; nothing is random.
        - `precision`: `"double"`, or `"single"` (relative error about 1e-4 while the loss is above 1e-3).
        - `adjoint`: how derivatives are taken; `"direct"` also in forward mode.
        - `memory_limit`: bytes that may be used; by default what is free.
        - `throw`: whether divergence raises.

        **Returns:**

        A record with `test_loss` (population, no noise) and `train_loss` (of the samples; with fresh ones, before they
        are learned), both `[steps + 1]`, `"half_mean_square"`. Its `extras` hold the order parameters `[time, time]`
        of every weight matrix l = 0..depth-1: `correlation_k_l`, `response_k_l` of the fields $k^l$ below it and
        `correlation_g_{l+1}`, `response_g_{l+1}` of $g^{l+1}$ above it, and `optimiser`, `decay` (what training
        makes of forces and of the start).

        **Raises:** `DivergedError` with the step; `MemoryError` before any work.
        """
        fresh = check_problem(task, protocol)
        checks.choice("precision", precision, ("double", "single"))
        checks.choice("adjoint", adjoint, CAUSAL_ADJOINTS)
        checks.flag("throw", throw)
        self.cost(task, protocol, precision=precision).check("DeepLinear.solve", memory_limit)

        def run(problem, _):
            return _solve(problem, fresh, adjoint)

        run = run if adjoint == "direct" else in_precision(run, precision)
        with context(precision):
            solution = run(as_float((self, task, protocol)), ())
        losses, extras, code, diverged = to_host(solution)
        trajectory = Trajectory(
            **losses,
            extras=extras,
            status_code=code,
            diverged_step=diverged,
            loss_convention="half_mean_square",
            attributes=(("precision", precision), ("adjoint", adjoint)),
        )
        return check(trajectory) if throw else trajectory

    def spectrum(self, trajectory: Trajectory, layer: int, *, count: int = 4) -> Spectrum:
        """See `lx.spectrum`; the spikes of $W^l$ are $g^{l+1}(s)$ and $k^l(s)$ at all earlier times s."""
        return spiked_spectrum(self.spiked_matrices(trajectory, layer), trajectory, count)

    def spiked_matrices(self, trajectory: Trajectory, layer: int) -> SpikedMatrix:
        """What `spiked_spectrum` needs of a weight matrix."""
        layer = check_layer(layer, 0, self.depth)
        below, above = f"k_{layer}", f"g_{layer + 1}"
        fields = [f"{kind}_{side}" for kind in ("correlation", "response") for side in (below, above)]
        missing(trajectory, (*fields, "optimiser", "decay"))
        ratio = checks.concrete(self.width_ratio)
        if layer == 0 and ratio is not None and np.isinf(ratio):
            raise ValueError("layer 0 has no spectrum at width_ratio=inf: its singular values grow with the width.")
        with double():
            C_k, C_g, R_k, R_g, c, d, limit = as_float(
                (*(trajectory.extras[name] for name in (*fields, "optimiser", "decay")), self)
            )
            # the fields feel weights that have decayed until their time
            scale, response = limit.init_scale, limit.init_scale * d
            branch = (self.depth - 1) ** -0.5 if self.residual and layer > 0 else 1.0
            coefficients = branch * limit.dynamic_richness * c
            aspect = limit.width_ratio if layer == 0 else jnp.ones(())
            matrix = SpikedMatrix(C_k, C_g, R_k * response, R_g * response, coefficients, aspect, scale * d)
            return jax.tree.map(lambda leaf: leaf[None], matrix)

    def stability(self, task, protocol, trajectory: Trajectory):
        """See `lx.sharpness`."""
        from ._sharpness import sharpness  # which is built on this module

        return sharpness(self, task, protocol).stability

    @property
    def dynamic_richness(self):
        r"""$\tilde\gamma$, the richness as it enters the dynamics: $\gamma_0$ or, in `"ntk"`, $\gamma_0/\sqrt\nu$."""
        return self.richness * (1.0 if self.parameterization == "mup" else (1 / self.width_ratio) ** 0.5)

    def cost(self, task, protocol, *, precision="double", **options) -> Cost:
        """Memory as steps², time as steps³, both times the order parameters: those of every layer, and of every mode.
        See `AbstractLimit.cost`."""
        modes, time = 1 if isinstance(task, Isotropic) else len(task.eigenvalues), protocol.steps + 1
        maps = 4 * self.depth**2 + 2 * self.depth if self.residual else 6 * self.depth
        word = 8 if precision == "double" else 4
        tables = maps + 4 * modes + 6
        return Cost(
            {"order parameters": 3.0 * tables * time**2 * word},
            2.0 * tables * time**3,
            {"order parameters": "use fewer steps or modes"},
            f"steps={protocol.steps}, {modes} modes, depth={self.depth}",
        )


@eqx.filter_jit
def _solve(problem, fresh: bool, adjoint: str):
    limit = problem[0]
    inputs = sweep_inputs(*problem)
    solve = deep_residual if limit.residual else deep_linear
    history = solve(inputs, depth=limit.depth, fresh=fresh, adjoint=adjoint)
    data = history.data
    risk = data.loss if fresh else 2 * jnp.diagonal(data.C_v)
    residual = risk + inputs.noise_power if fresh else 2 * jnp.diagonal(data.C_residual)
    losses = {"test_loss": risk / 2, "train_loss": residual / 2}
    diverged = jnp.maximum(first_divergence(losses["test_loss"]), first_divergence(losses["train_loss"]))
    code = jnp.where(diverged >= 0, jnp.int32(DIVERGED), jnp.int32(CONVERGED))
    extras = _order_parameters(history, inputs) | {"optimiser": inputs.optimiser, "decay": inputs.decay}
    return losses, extras, code, diverged.astype(jnp.int32)


def _order_parameters(history, inputs: DeepLinearInputs):
    # zero in the neural-tangent parameterisation at infinite width, where a root has no slope
    moving = inputs.richness_squared > 0
    richness = jnp.where(moving, jnp.sqrt(jnp.where(moving, inputs.richness_squared, 1.0)), 0.0)
    response = richness * inputs.output_power * _mean_response(history.data)
    found = {"correlation_k_0": symmetric(history.data.C_u), "response_k_0": response}
    for l in range(history.depth):
        C_k, C_g, K_psi, G_zeta = history.layer(l)
        found[f"correlation_k_{l + 1}"], found[f"correlation_g_{l + 1}"] = symmetric(C_k), symmetric(C_g)
        found[f"response_k_{l + 1}"], found[f"response_g_{l + 1}"] = richness * K_psi, richness * G_zeta
    return found


def _mean_response(data):
    return jnp.mean(data.U_psi, axis=1)


def sweep_inputs(limit: DeepLinear, task, protocol) -> DeepLinearInputs:
    """What the sweep needs, from the three; in the float type of the current precision context."""
    inverse_width = 1 / limit.width_ratio
    square = limit.richness**2
    if limit.parameterization == "mup":
        richness_squared, output_power = square, inverse_width / square
    else:
        richness_squared, output_power = square * inverse_width, 1 / square
    if isinstance(task, Isotropic):
        eigenvalues = teacher_power = jnp.ones(1, inverse_width.dtype)
    else:
        # the teacher of a mode is shared among its copies, and in units of 1 / sqrt(dimension)
        eigenvalues, teacher_power = task.eigenvalues, task.teacher**2 * len(task.eigenvalues)
    rates = protocol.learning_rate, protocol.momentum
    if isinstance(protocol, OnlineSGD):
        optimiser, decay = linear_optimiser(*rates, jnp.zeros_like(rates[0]), protocol.extra_gradient)
        ratio = jnp.append(protocol.batch_ratio, protocol.batch_ratio[-1])
    else:
        optimiser, decay = linear_optimiser(*rates, protocol.weight_decay)
        ratio = jnp.full_like(decay, task.sample_ratio)
    return DeepLinearInputs(
        eigenvalues=eigenvalues,
        teacher_power=teacher_power,
        noise_power=task.noise**2,
        richness_squared=richness_squared,
        output_power=output_power,
        init_power=limit.init_scale**2,
        readout_power=limit.readout_scale**2,
        optimiser=jnp.pad(optimiser, ((0, 0), (0, 1))),
        decay=decay,
        inverse_ratio=1 / ratio,
    )


def _distribution(task):
    checks.instance("task", task, (Isotropic, Gaussian), "isotropic or gaussian for DeepLinear")
    if isinstance(task, Gaussian) and task.samples is not None:
        raise ValueError(
            "samples is a number; in the proportional limit give sample_ratio, samples over input dimensions."
        )
    return task


def check_problem(task, protocol) -> bool:
    """Checks that they fit together; returns whether no sample is seen twice."""
    _distribution(task)
    allowed = "GradientDescent or OnlineSGD for DeepLinear (others are not solved yet)"
    checks.instance("protocol", protocol, (GradientDescent, OnlineSGD), allowed)
    if isinstance(protocol, OnlineSGD):
        if protocol.batch_ratio is None:
            raise ValueError(
                "batch_size is a number; in the proportional limit give batch_ratio, samples over input dimensions."
            )
        return True
    if task.sample_ratio is None:
        raise ValueError(
            "sample_ratio is needed by GradientDescent: samples over input dimensions, inf: the population."
        )
    ratio = checks.concrete(task.sample_ratio)
    return ratio is not None and bool(np.isinf(ratio))
