"""A history as a step sees it: products with it, whose derivatives are collected instead of formed one by one."""

from typing import Any

import jax
import jax.numpy as jnp

from ._precision import HIGHEST


class Past:
    """One leaf of a history as a step sees it, `[rows, ...]`.

    `sum` and `dot` are products with vectors, whose derivatives are outer products: a reverse pass that walks the
    finished history collects their factors, many of which become one matrix product. They are not for inside of `scan`
    or `vmap`. `rows` is the array itself, for any use, at the cost of a derivative of its size at every step.
    """

    def __init__(self, rows, index: int = 0, tape: "Tape | None" = None):
        self._rows, self._index, self._tape = rows, index, tape

    @property
    def rows(self):
        """`[rows, ...]`"""
        return self._rows if self._tape is None else self._tape.whole(self._index, self._rows)

    def sum(self, weights):
        """The sum of the rows with `weights` `[..., rows]`."""
        out = contract(weights, self._rows, 1)
        return out if self._tape is None else self._tape.record(self._index, "sum", weights, out)

    def dot(self, y):
        """The products of all rows with `y`, over all axes of a row, which come first in `y`."""
        out = contract(self._rows, y, self._rows.ndim - 1)
        return out if self._tape is None else self._tape.record(self._index, "dot", y, out)


def before(weights, rows):
    """The sum of rows, an array or a `Past`, with weights `[..., rows]`."""
    return rows.sum(weights) if isinstance(rows, Past) else contract(weights, rows, 1)


def onto(rows, y):
    """The products of all rows, an array or a `Past`, with `y`, over all of a row's axes."""
    return rows.dot(y) if isinstance(rows, Past) else contract(rows, y, rows.ndim - 1)


class Tape:
    """What a step multiplies the leaves of the history by, in the order of tracing.

    `taps` are zeros that are added to the products, so that their cotangents are those of the products.
    """

    def __init__(self, whole_rows: dict[int, Any], taps):
        self._whole_rows, self._taps = whole_rows, taps
        self.wholes: set[int] = set()
        self.uses: list[tuple[int, str]] = []
        self.others, self.outs = [], []

    def whole(self, index: int, rows):
        self.wholes.add(index)
        return self._whole_rows.get(index, rows)

    def record(self, index: int, kind: str, other, out):
        if self._taps is not None:
            out = out + self._taps[len(self.uses)]
        self.uses.append((index, kind))
        self.others.append(other)
        self.outs.append(out)
        return out


def traced(taped, *arguments) -> tuple[Tape, list]:
    """The uses that `taped(*arguments, tape)` makes of a history, nothing being computed, and their taps."""
    used = Tape({}, None)

    def outs(*arguments):
        taped(*arguments, used)
        return used.outs

    taps = [jnp.zeros(out.shape, out.dtype) for out in jax.eval_shape(outs, *arguments)]
    used.others = [jnp.zeros(other.shape, other.dtype) for other in used.others]
    return used, taps


def factors(uses, others, outs_bar, sizes) -> dict[int, tuple[Any, Any]]:
    """By leaf, `weights` `[products, rows]` and `rows` `[products, row]`: its cotangent is the sum of outer
    products."""
    found: dict[int, list] = {}
    for (index, kind), other, out_bar in zip(uses, others, outs_bar, strict=True):
        if kind == "sum":
            pair = other.reshape(-1, other.shape[-1]), out_bar.reshape(-1, sizes[index])
        else:
            pair = out_bar.reshape(len(out_bar), -1).T, other.reshape(sizes[index], -1).T
        found.setdefault(index, []).append(pair)
    return {index: tuple(map(jnp.concatenate, zip(*pairs, strict=True))) for index, pairs in found.items()}


def contract(a, b, axes: int):
    """The last axes of `a` with the first of `b`."""
    # Not `jnp.tensordot`: it names a type of its result, which its transpose cannot have outside of `double`.
    sides = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    return jax.lax.dot_general(a, b, (sides, ((), ())), precision=HIGHEST)
