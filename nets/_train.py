"""Training of finite networks: one record for every family, many seeds at once."""

import dataclasses
import inspect
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..problems import (
    CONVERGED,
    DIVERGED,
    Trajectory,
    check,
    default_key,
    describe,
    first_divergence,
    key_name,
    versions,
)
from ..problems import _checks as checks
from ..solvers import from_leaves, gather, resumable
from ._base import AbstractNet, Ensemble
from ._saved_record import WHOLE, save_record, saved_record


def train(
    net: AbstractNet | Ensemble,
    task,
    protocol,
    *,
    key=None,
    steps: int | None = None,
    return_net: bool = False,
    throw: bool = True,
    out: str | os.PathLike | None = None,
    **record,
) -> Any:
    """Trains a network, or all networks of an ensemble at once, and records the same trajectory as the theory.

    **Arguments:**

    - `net`: a network or an `Ensemble`; every array of an ensemble's record has a leading axis `seed`, and a pair of
      networks counts as one seed with the pair's mean prediction (losses are those of the mean prediction).
    - `task`: what is learned. From a distribution every seed draws its own data.
    - `protocol`: what the limit of the network takes; for a `nets.MLP` also any `optax.GradientTransformation`,
      applied to full-batch gradients of the raw weights for `steps` steps.
    - `key`: random key of what the protocol and the task sample.
    - `return_net`: whether to return `(trajectory, trained net)`.
    - `throw`: whether a diverged run raises.
    - `out`: a folder. What is done is saved in `out/checkpoints`, so that the same call goes on where a killed one
      stopped, and the record is written to `out/result.nc`. A `nets.MLP` saves as it trains, other families when they
      have been trained.
    - `record`: what else to record, by name. For an MLP `kernels=True` (Phi and G of every layer,
      `[time, time, sample, sample]`), `ntk`, `alignment`, `sharpness`, `densities`, `singular_values`: see
      `nets.MLP.learn`, and `learn` of the other families.

    **Raises:** `DivergedError` with the step and the number of runs that diverged; `TypeError` and `ValueError` for
    arguments that do not fit together, and for a folder that holds something else; `OSError` where `out` cannot be
    written.
    """
    checks.instance("net", net, (AbstractNet, Ensemble), "a network or an ensemble of networks")
    for name, value in (("return_net", return_net), ("throw", throw)):
        checks.flag(name, value)
    key = default_key(key)
    members = net.members if isinstance(net, Ensemble) else net
    known = [name for name in list(inspect.signature(members.learn).parameters)[5:] if name != _SAVED]
    for name in record:
        if name not in known:
            can = f"it can record: {', '.join(known)}" if known else "it records nothing further"
            raise TypeError(f"{name} is nothing that a nets.{type(members).__name__} records; {can}.")
    if out is not None and checks.is_traced((net, task, protocol, key)):
        raise TypeError("out saves numbers, and there are none inside of a transformation; train outside of it.")

    def configuration():
        about = {field.name: describe(getattr(members, field.name)) for field in dataclasses.fields(members)}
        about |= {"design": describe(members.design), "paired": net.paired if isinstance(net, Ensemble) else None}
        return {
            "net": {"type": type(members).__name__} | {n: value for n, value in about.items() if n != "frozen"},
            "task": describe(task),
            "protocol": describe(protocol),
            "steps": steps,
            "record": describe(record),
            "key": key_name(key),
            "precision": jnp.result_type(float).name,
            "versions": versions(),
        }

    with resumable(out, configuration) as saved:
        if saved is None:
            trajectory, final = _trained(net, members, task, protocol, key, steps, record)
        else:
            if WHOLE not in saved.steps():
                pieces = {_SAVED: saved} if _SAVED in inspect.signature(members.learn).parameters else {}
                save_record(saved, *_trained(net, members, task, protocol, key, steps, record | pieces))
            trajectory, leaves, _ = saved_record(saved)
            final = from_leaves(leaves, members.weights)
    if throw:
        check(trajectory)
    if not return_net:
        return trajectory
    where = (lambda n: n.members.weights) if isinstance(net, Ensemble) else (lambda n: n.weights)
    return trajectory, eqx.tree_at(where, net, final)


_SAVED = "saved"  # the argument of those `learn` that save as they go


def _trained(net, members, task, protocol, key, steps, options) -> tuple[Trajectory, Any]:
    # The axes of a single network's weights are those of an unpaired ensemble of one.
    added = () if isinstance(net, Ensemble) and net.paired else (1,) if isinstance(net, Ensemble) else (0, 1)
    weights = members.weights
    for axis in added:
        weights = jax.tree.map(lambda w, axis=axis: jnp.expand_dims(w, axis), weights)
    seeds = jax.tree.leaves(weights)[0].shape[0]

    final, fields = members.learn(weights, task, protocol, key=key, steps=steps, **options)
    fields = {name: value if name in _STATIC else gather(value) for name, value in fields.items()}
    for axis in reversed(added):
        final = jax.tree.map(lambda w, axis=axis: jnp.squeeze(w, axis), final)
    if not isinstance(net, Ensemble):
        fields = {name: _first(value) if name not in _STATIC else value for name, value in fields.items()}
    loss = fields["train_loss"] if fields.get("test_loss") is None else fields["test_loss"]
    diverged = fields.pop("diverged_step", None)
    diverged = first_divergence(loss) if diverged is None else diverged
    attributes = (*fields.pop("attributes", ()), ("seeds", seeds), ("key", key_name(key)))
    trajectory = Trajectory(
        **fields,
        status_code=jnp.where(diverged >= 0, DIVERGED, CONVERGED),
        diverged_step=diverged,
        model="network",
        attributes=attributes,
    )
    return trajectory, final


_STATIC = ("loss_convention", "attributes")


def _first(tree):
    return jax.tree.map(lambda a: a[0], tree)
