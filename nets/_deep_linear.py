"""Deep linear networks of finite width on random data, trained at the scale of the proportional limit."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..problems import Gaussian, GradientDescent, Isotropic, OnlineSGD, default_key, schedules
from ..problems import _checks as checks
from ..solvers import spread_map
from ._base import AbstractNet, Ensemble, Frozen
from ._batches import no_steps


class DeepLinearWeights(eqx.Module):
    """All that trains: `hidden[l]` `[fan_out, fan_in]` for l = 0..depth-1 and `readout` `[width]`; entries of order
    one."""

    hidden: tuple[Any, ...]
    readout: Any


class DeepLinear(AbstractNet):
    r"""A deep linear network on $D$ inputs with $N = \nu D$ units in each hidden layer.

    $$f(x) = \frac{w^T W^{L-1} \cdots W^0 x}{\sqrt D\, N^{(L-1)/2}\, \gamma\sqrt N}, \qquad
      W^l_{ij} \sim N(0, \sigma_W^2), \quad w_i \sim N(0, \sigma_w^2)$$

    with $\gamma = \gamma_0\sqrt\nu$ (`"mup"`) or $\gamma = \gamma_0$ (`"ntk"`), and raw steps of $\eta\gamma^2 D$
    (`learning_rate_scale` times the learning rate). With `residual`, the layers above the first are $1 + a
    W^l/\sqrt N$ with $a = 1/\sqrt{L-1}$.

    ??? cite "Source"
        Deep Linear Network Training Dynamics from Random Initialization: Data, Width, Depth, and Hyperparameter
        Transfer, arXiv 2502.02531.
    """

    weights: DeepLinearWeights
    frozen: Frozen = eqx.field(static=True)

    @classmethod
    def ensemble(cls, design, dim: int, seeds: int, key=None) -> Ensemble:
        """`seeds` independent networks on `dim` inputs."""
        checks.integer("size", dim)
        seeds = checks.integer("seeds", seeds)
        width = _width(design, dim)
        weights = _init_weights(design, dim, width, jax.random.split(default_key(key), seeds))
        return Ensemble(cls(weights, Frozen(design)), paired=False)

    @classmethod
    def init(cls, design, dim: int, key=None) -> "DeepLinear":
        """One random network on `dim` inputs."""
        return cls.ensemble(design, dim, 1, key).member(0)

    @property
    def dim(self) -> int:
        """Number of inputs."""
        return self.weights.hidden[0].shape[-1]

    @property
    def width(self) -> int:
        """Number of units in each hidden layer."""
        return self.weights.readout.shape[-1]

    @property
    def learning_rate_scale(self):
        r"""Raw step over learning rate, $\gamma^2 D$."""
        return _output_scale(self.design, self.dim, self.width) ** 2 * self.dim

    def __call__(self, x):
        """The output, a scalar, for one input `[dim]`."""
        if jnp.shape(x) != (self.dim,):
            raise ValueError(
                f"x must have shape [{self.dim}], one input (jax.vmap takes many); its shape is {jnp.shape(x)}."
            )
        return jnp.asarray(x) @ effective_weights(self.weights, self.design)

    def learn(self, weights, task, protocol, *, key, steps, singular_values: bool = False, sharpness: bool = False):
        r"""See `nets.train`. Every seed draws its own teacher and data.

        Records `test_loss`, $\tfrac12 E(f - w\cdot x)^2$ over the population without noise, and `train_loss`, that of
        the sample (fresh samples: before they are learned). `singular_values` records all of $W^l/\sqrt{\rm fan\
        in}$, in decreasing order, as `extras["singular_values_l"]` `[time, min(fan_in, fan_out)]`. `sharpness` records
        the top eigenvalue of the Gauss-Newton matrix as `extras["sharpness"]` `[time]`, so that a learning rate is
        stable below 2 over it.
        """
        checks.flag("singular_values", singular_values)
        checks.flag("sharpness", sharpness)
        no_steps(steps)
        distribution = "isotropic or gaussian for a nets.DeepLinear"
        checks.instance("task", task, (Isotropic, Gaussian), distribution)
        checks.instance("protocol", protocol, (GradientDescent, OnlineSGD), "GradientDescent or OnlineSGD")
        dim = weights.hidden[0].shape[-1]
        copies = _copies(task, dim)
        batches = _batches(protocol, dim)
        keys = jax.random.split(key, weights.readout.shape[0])
        final, fields = _run(
            jax.tree.map(lambda w: w[:, 0], weights),
            self.design,
            task,
            protocol,
            keys,
            copies,
            task.sample_count(copies) if batches is None else None,
            None if batches is None else jnp.asarray(batches),
            None if batches is None else int(max(batches)),
            singular_values,
            sharpness,
        )
        attributes = (("size", dim), ("width", self.width))
        fields |= {"loss_convention": "half_mean_square", "attributes": attributes}
        return jax.tree.map(lambda w: w[:, None], final), fields


def effective_weights(weights: DeepLinearWeights, design):
    r"""The vector $\hat\beta$ `[dim]` of the linear function $f(x) = \hat\beta\cdot x$ that the network is."""
    width, dim = weights.hidden[0].shape
    branch = (design.depth - 1) ** -0.5 if design.residual and design.depth > 1 else None
    g = weights.readout
    for matrix in reversed(weights.hidden[1:]):
        back = g @ matrix / width**0.5
        g = back if branch is None else g + branch * back
    scale = (dim * width) ** 0.5 * _output_scale(design, dim, width)
    return g @ weights.hidden[0] / jnp.asarray(scale, g.dtype)


def _output_scale(design, dim: int, width: int):
    r"""$\gamma$: the richness, times $\sqrt\nu$ in the maximal-update parameterisation."""
    return design.richness * ((width / dim) ** 0.5 if design.parameterization == "mup" else 1.0)


def _width(design, dim: int) -> int:
    ratio = checks.concrete(design.width_ratio)
    if ratio is None:
        raise TypeError("width_ratio must be concrete to build a network: it fixes the shape of the weights.")
    if np.isinf(ratio):
        raise ValueError("width_ratio must be finite for a finite network; it is inf. The theory alone takes it.")
    width = round(float(ratio) * dim)
    if width < 1:
        raise ValueError(
            f"size must give at least one neuron: width_ratio {float(ratio):g} times {dim} inputs is less than one."
        )
    return width


@eqx.filter_jit
def _init_weights(design, dim: int, width: int, keys) -> DeepLinearWeights:
    shapes = [(width, n) for n in [dim] + [width] * (design.depth - 1)] + [(width,)]
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    def one(key):
        # One call for all weights: every call of the generator costs a second of compilation.
        drawn = jnp.split(jax.random.normal(key, (int(ends[-1]),)), ends[:-1])
        scales = [design.init_scale] * design.depth + [design.readout_scale]
        scaled = [jnp.asarray(s, z.dtype) * z.reshape(shape) for s, z, shape in zip(scales, drawn, shapes, strict=True)]
        return DeepLinearWeights(tuple(scaled[:-1]), scaled[-1])

    return jax.vmap(one)(keys)


def _copies(task, dim: int) -> int:
    """The size at which the task has `dim` dimensions."""
    if isinstance(task, Isotropic):
        return dim
    modes = len(task.eigenvalues)
    if dim % modes:
        raise ValueError(
            f"size must be a multiple of the {modes} modes of the task, each of which is repeated; it is {dim}."
        )
    if task.samples is not None:
        raise ValueError("samples is a number; in many dimensions give sample_ratio, samples over dimensions.")
    return dim // modes


def _batches(protocol, dim: int) -> np.ndarray | None:
    """The number of fresh samples of each step."""
    if isinstance(protocol, GradientDescent):
        return None
    if protocol.batch_ratio is None:
        raise ValueError("batch_size is a number; in many dimensions give batch_ratio, fresh samples over dimensions.")
    ratios = checks.concrete(protocol.batch_ratio)
    if ratios is None:
        raise TypeError("batch_ratio must be concrete to train a finite network: it fixes the shape of a batch.")
    if np.any(np.isinf(ratios)):
        raise ValueError("batch_ratio must be finite to draw samples; for the population use GradientDescent.")
    return np.maximum(np.round(ratios * dim), 1).astype(int)


@eqx.filter_jit
def _run(
    weights,
    design,
    task,
    protocol,
    keys,
    copies: int,
    samples: int | None,
    batches,
    largest: int | None,
    singular_values: bool,
    sharpness: bool,
):
    """Final weights and the record, both with leading axis `[seeds]`."""
    width, dim = weights.hidden[0].shape[-2:]
    dtype, steps = weights.readout.dtype, protocol.steps
    scale = jnp.asarray(_output_scale(design, dim, width) ** 2 * dim, dtype)
    optimiser = schedules.transformation(protocol, scale)

    def run_seed(inputs):
        weights, key = inputs
        key_teacher, key_data, key_train = jax.random.split(key, 3)
        problem = task.population(copies, key_teacher)
        x, y = problem.batch(key_data, 1 if samples is None else samples)
        eigenvalues, teacher = (jnp.asarray(a, dtype) for a in (problem.eigenvalues, problem.teacher))
        noise_power = jnp.asarray(problem.noise, dtype) ** 2

        def sample_loss(weights, time, key):
            beta = effective_weights(weights, design)
            risk = jnp.sum(eigenvalues * (teacher - beta) ** 2) / 2
            if largest is not None:
                fresh_x, fresh_y = problem.batch(key, largest)
                now = batches[jnp.minimum(time, steps - 1)]
                # a smaller batch is the head of the largest one
                loss = jnp.sum((jnp.arange(largest) < now) * (fresh_y - fresh_x @ beta) ** 2) / (2 * now)
            elif samples is None:
                loss = risk + noise_power / 2
            else:
                loss = jnp.mean((y - x @ beta) ** 2) / 2
            return loss, risk

        def curvature(v):
            """The matrix of second derivatives of the loss in the effective weights, times a vector."""
            return eigenvalues * v if samples is None or largest is not None else (x @ v) @ x / samples

        def observe(weights, losses):
            row: dict[str, Any] = dict(zip(("train_loss", "test_loss"), losses, strict=True))
            for l, matrix in enumerate(weights.hidden if singular_values else ()):
                values = jnp.linalg.svd(matrix / matrix.shape[1] ** 0.5, compute_uv=False)
                row[f"singular_values_{l}"] = values
            if sharpness:
                row["sharpness"] = scale * _top_eigenvalue(weights, design, curvature)
            return row

        def step(carry, inputs):
            weights, state = carry
            losses, gradient = jax.value_and_grad(sample_loss, has_aux=True)(weights, *inputs)
            row = observe(weights, losses)
            updates, state = optimiser.update(gradient, state, weights)
            return (jax.tree.map(jnp.add, weights, updates), state), row

        times, keys = jnp.arange(steps + 1), jax.random.split(key_train, steps + 1)
        start = (weights, optimiser.init(weights))
        (final, _), rows = jax.lax.scan(step, start, (times[:-1], keys[:-1]))
        last = observe(final, sample_loss(final, times[-1], keys[-1]))
        return final, jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)

    final, rows = spread_map(run_seed, (weights, keys), "seeds")
    losses = {name: rows.pop(name) for name in ("train_loss", "test_loss")}
    return final, losses | {"extras": rows}


def _top_eigenvalue(weights, design, curvature, iterations: int = 200):
    """Of J J^T times the curvature, J the derivative of the effective weights; by power iteration."""
    beta, push = jax.linearize(lambda weights: effective_weights(weights, design), weights)
    pull = jax.linear_transpose(push, weights)

    def again(_, carry):
        v, _ = carry
        (to_weights,) = pull(curvature(v))
        image = push(to_weights)
        norm = jnp.linalg.norm(image)
        return image / norm, norm

    start = jnp.cos(jnp.arange(1.0, len(beta) + 1)).astype(beta.dtype)
    return jax.lax.fori_loop(0, iterations, again, (start / jnp.linalg.norm(start), jnp.zeros((), beta.dtype)))[1]
