"""The feature-learning limit of wide multilayer perceptrons."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp

from ..nets import MLP as Network
from ..nets import Ensemble
from ..nets._activations import check_activation
from ..nets._losses import check_loss
from ..nets._saved_record import WHOLE, save_record, saved_record
from ..nets.rules import AbstractRule, Backpropagation
from ..problems import OVERFLOW, ConvergenceError, Trajectory, check
from ..problems import _checks as checks
from ..solvers import AbstractFieldAxis, LazyKernels, SpikedMatrix, as_float, double, resumable
from ._base import AbstractLimit
from ._memory import Cost
from ._mlp_lazy import kernels_of_the_start
from ._mlp_problem import check_task, outputs, pose
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
        task = check_task(self, task)
        return Network.init(self, task.dim, size, key, outputs=outputs(task))

    def ensemble(self, task, *, size: int, seeds: int, key=None) -> Ensemble:
        """`seeds` pairs of networks that differ by the sign of the readout, so that the mean of a pair starts at 0."""
        task = check_task(self, task)
        return Network.pairs(self, task.dim, size, seeds, key, outputs=outputs(task))

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
        - `axis`: `SampleAxis()` or `CoefficientAxis()` (exact, identity only); the default goes by the activation. The
            lazy limit needs neither by default, but for weight decay, densities, and activations with kinks that have
            no closed form: it is descent with `lazy_kernels`, without sampling.
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
        checks.flag("throw", throw)
        if out is not None and checks.is_traced((self, task, protocol, key)):
            raise TypeError("out saves numbers, and there are none inside of a transformation; solve outside of it.")
        how = {"approximation": approximation, "samples": samples, "replicas": replicas, "axis": axis, "keep": keep}
        how |= {"tolerance": tolerance, "rank": rank, "densities": densities, "test_batch": test_batch}
        how |= {"adjoint": adjoint, "precision": precision}
        problem = pose(self, task, protocol, key, **how)
        with resumable(out, problem.configuration) as saved:
            if saved is None:
                trajectory, stable_below = problem.solve(memory_limit)
            else:
                if WHOLE not in saved.steps():
                    trajectory, stable_below = problem.solve(memory_limit, saved)
                    save_record(saved, trajectory, about=stable_below)
                trajectory, _, stable_below = saved_record(saved)
        if throw:
            if checks.concrete(trajectory.status_code) == OVERFLOW:
                room = dict(trajectory.attributes)["rank"]
                raise ConvergenceError(
                    f"the march needs more than {room} basis directions; raise rank (this problem never needs more "
                    f"than {problem.most}) or tolerance."
                )
            check(trajectory, stable_below)
        return trajectory

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
        how = {"approximation": approximation, "samples": samples, "replicas": replicas, "axis": axis, "keep": keep}
        how |= {"rank": rank, "densities": densities, "test_batch": test_batch, "precision": precision}
        problem = pose(self, task, protocol, None, **how)
        found = problem.cost(problem.room)
        runs = 3 if approximation == "leading_order" else 1
        return replace(found, flops=found.flops * runs * (1 if rank is None else 2))

    def lazy_kernels(self, x, z=None) -> LazyKernels:
        r"""Kernels of the start between inputs `[rows, dim]` and `[columns, dim]` (by default the same), in float64.

        Without sampling, in closed form for `"erf"`, `"identity"` and `"relu"`, for other activations by a Hermite
        series, whose error `truncation` judges: about 1e-12 for smooth ones at scales of order one. `tangent` is $K$
        of `solve` with richness 0 (of the learning rule, with the learning rates of layers), for every output.

        **Returns:** `LazyKernels`: `Phi[l]` and `G[l]`, l = 0..depth, `tangent`, each `[rows, columns]`.

        **Raises:** `ValueError` for inputs of other shapes.

        ??? cite "Source"
            Neural Tangent Kernel: Convergence and Generalization in Neural Networks, arXiv 1806.07572; of learning
            rules: arXiv 2210.02157.
        """
        return kernels_of_the_start(self, x, x if z is None else z)

    def stability(self, task, protocol, trajectory: Trajectory):
        """From the recorded `sharpness`, at the time before each update. **Raises:** `ValueError` where it is not."""
        missing(trajectory, ("sharpness",))
        return protocol.learning_rate * trajectory.extras["sharpness"][:-1] / (2 * (1 + protocol.momentum))

    def spectrum(self, trajectory: Trajectory, layer: int, *, count: int = 4) -> Spectrum:
        """See `lx.spectrum`; the spikes are the orthonormal directions that the march has revealed."""
        return spiked_spectrum(self.spiked_matrices(trajectory, layer), trajectory, count)

    def spiked_matrices(self, trajectory: Trajectory, layer: int) -> SpikedMatrix:
        """What `spiked_spectrum` needs of a weight matrix. **Raises:** `ValueError` where there are no directions."""
        layer = check_layer(layer, 1, self.depth)
        if dict(trajectory.attributes).get("rank", 0) is None:
            raise ValueError(
                "trajectory was solved by the kernel of the lazy limit, which has no directions; use axis=SampleAxis()."
            )
        names = f"core_{layer}", f"response_phi_{layer}", f"response_g_{layer}", "decay"
        missing(trajectory, names)
        with double():
            core, response_phi, response_g, d, scale = as_float((*map(trajectory.extras.get, names), self.init_scale))
            core, d = core.swapaxes(0, 1), d[..., layer].T
            one = jnp.broadcast_to(jnp.eye(core.shape[-1]), response_phi.shape)
            scale = (scale if scale.ndim == 0 else scale[layer]) * d
            aspect = jnp.ones(len(core))
            return SpikedMatrix(one, one, response_phi, response_g, core, aspect, scale)


def _by_layer(name: str, value, depth: int):
    value = checks.array(name, value, ndim=(0, 1), low=0.0, place="layer")
    if value.ndim == 1 and len(value) != depth + 1:
        raise ValueError(
            f"{name} must be a number or have depth + 1 = {depth + 1} entries, the readout's last; it has {len(value)}."
        )
    return value
