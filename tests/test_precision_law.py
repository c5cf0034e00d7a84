"""The scaling law for precision: optima against direct minimisation, its limits, derivatives, messages, its system."""

import json

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limitax import gallery

from .helpers import raises
from .test_cli import call

LAW = lx.PrecisionLaw()
SCALES = ("weight_bits_scale", "activation_bits_scale", "cache_bits_scale")
inf = np.inf


def loss_by_hand(N, D, bits=(inf, inf, inf), post=None, law=LAW):
    effective = N * np.prod([1 - np.exp(-p / getattr(law, s)) for p, s in zip(bits, SCALES, strict=True)], axis=0)
    loss = law.parameter_scale * effective**-law.parameter_exponent + law.irreducible_loss
    loss = loss + law.token_scale * D**-law.token_exponent
    if post is None:
        return loss
    gaps = [1 - np.exp(-rate * (p - post)) for p, rate in zip(bits, (0.9, 1.1, 1.3), strict=True)]
    size = D**law.post_token_exponent / N**law.post_parameter_exponent
    return loss + law.post_scale * size * np.exp(-post / law.post_bits_scale) * np.prod(gaps, axis=0)


def test_formula():
    law = lx.PrecisionLaw(weight_gap_rate=0.9, activation_gap_rate=1.1, cache_gap_rate=1.3)
    for bits in ((4.0, 5.0, 8.0), (16.0, inf, 16.0)):
        np.testing.assert_allclose(law.loss(1e8, 3e9, *bits), loss_by_hand(1e8, 3e9, bits), rtol=1e-14)
        np.testing.assert_allclose(law.loss(1e8, 3e9, *bits, 3.0), loss_by_hand(1e8, 3e9, bits, 3.0, law), rtol=1e-14)
    grid = law.loss(np.array([[1e7], [1e8]]), [1e9, 2e9, 3e9], weight_bits=4)
    assert grid.shape == (2, 3)
    assert grid.dtype == np.float64
    np.testing.assert_allclose(grid[1, 2], law.loss(1e8, 3e9, 4), rtol=1e-15)


def test_many_bits_are_the_plain_law():
    plain = loss_by_hand(1e8, 3e9)
    for bits in (200.0, inf):
        np.testing.assert_allclose(LAW.loss(1e8, 3e9, bits, bits, bits), plain, rtol=1e-14)
        np.testing.assert_allclose(LAW.loss(1e8, 3e9, post_training_bits=bits), plain, rtol=1e-14)
        np.testing.assert_allclose(LAW.effective_parameters(1e8, bits, bits, bits), 1e8, rtol=1e-14)


def test_nothing_is_left_to_round():
    trained = LAW.loss(1e8, 3e9, 4, 4, 4)
    for post in (4, 5, inf):
        assert LAW.loss(1e8, 3e9, 4, 4, 4, post_training_bits=post) == trained
        assert LAW.critical_tokens(1e8, post, 4, 4, 4) == inf


def valley(function, x, decades, points=41, rounds=12):
    """The minimum over a grid in log x that is narrowed around the best point again and again."""
    for _ in range(rounds):
        grid = x * 10 ** np.linspace(-decades, decades, points)
        x, decades = grid[np.argmin(function(grid))], decades / 6
    return x


@pytest.mark.parametrize("compute", [1e17, 1e20, 1e24])
def test_optimum_over_sizes_and_bits(compute):
    """All of N and P, with D = C / (N P), on nested grids of the law itself."""
    found = LAW.compute_optimal(compute)

    def best(bits):
        sizes = found.parameters * 10 ** np.linspace(-2, 2, 8001)
        return np.min(loss_by_hand(sizes, compute / (sizes * bits), (bits, bits, bits)))

    bits = valley(lambda grid: np.array([best(p) for p in grid]), 6.0, 0.5, points=13, rounds=7)
    np.testing.assert_allclose(bits, LAW.best_precision(), rtol=3e-3)
    np.testing.assert_allclose(found.loss, best(float(found.bits)), rtol=1e-7)
    np.testing.assert_allclose(found.parameters * found.tokens * found.bits, compute, rtol=1e-12)
    np.testing.assert_allclose(found.bits, LAW.best_precision(), rtol=1e-15)
    fixed = LAW.compute_optimal(compute, bits=[3.0, 8.0])
    assert np.all(fixed.loss > found.loss)
    np.testing.assert_allclose(fixed.loss, [best(3.0), best(8.0)], rtol=1e-7)


@given(st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_equal_scales(scale):
    best = lx.PrecisionLaw(**dict.fromkeys(SCALES, scale)).best_precision()
    np.testing.assert_allclose(best / scale, 1.9038136944, rtol=1e-9)


@given(st.tuples(*[st.floats(-3, 3)] * 3))
@settings(max_examples=30, deadline=None)
def test_best_precision_solves_its_equation(exponents):
    scales = 10 ** np.array(exponents)
    best = lx.PrecisionLaw(**dict(zip(SCALES, scales, strict=True))).best_precision()
    x = best / scales
    np.testing.assert_allclose(np.sum(x * np.exp(-x) / -np.expm1(-x)), 1, rtol=1e-12)


@pytest.mark.parametrize("bits", [(inf, inf, inf), (8.0, 6.0, inf)])
@pytest.mark.parametrize("post", [2.0, 4.0])
def test_critical_tokens(bits, post):
    law = lx.PrecisionLaw(token_exponent=0.4, weight_gap_rate=0.9, activation_gap_rate=1.1, cache_gap_rate=1.3)
    lowest = valley(lambda D: loss_by_hand(1e9, D, bits, post, law), 1e11, 4)
    np.testing.assert_allclose(law.critical_tokens(1e9, post, *bits), lowest, rtol=1e-6)


positive = st.floats(0.5, 12)


@given(st.floats(6, 11), st.floats(7, 13), st.tuples(positive, positive, positive), positive, st.floats(0.01, 4))
@settings(max_examples=10, deadline=None)
def test_monotone(N, D, bits, post, more):
    N, D = 10**N, 10**D
    base = LAW.loss(N, D, *bits)
    assert LAW.loss(N * (1 + more), D, *bits) < base
    assert LAW.loss(N, D * (1 + more), *bits) < base
    for part in range(3):
        assert LAW.loss(N, D, *(p + more * (i == part) for i, p in enumerate(bits))) <= base
    rounded = LAW.loss(N, D, *bits, post_training_bits=post)
    assert LAW.loss(N, D, *bits, post_training_bits=post + more) <= rounded
    assert rounded >= base


def everything(law, point):
    total = jnp.log(law.loss(**point)) + law.best_precision() / 3 + jnp.log(law.critical_tokens(1e9, 3.0, 8.0)) / 20
    found = law.compute_optimal(1e20)
    return total + found.loss + jnp.log(found.parameters) / 30


POINT = {"parameters": 1e9, "tokens": 1e11, "weight_bits": 5.0, "activation_bits": 6.0, "post_training_bits": 3.0}


@pytest.mark.slow
def test_gradients():
    with jax.enable_x64(True):
        law, point = jax.tree.map(jnp.asarray, (LAW, POINT))
        value, slopes = jax.jit(everything), jax.jit(jax.grad(everything, argnums=(0, 1)))(law, point)
        leaves, structure = jax.tree.flatten((law, point))
        for i, slope in enumerate(jax.tree.leaves(slopes)):
            h = 1e-4 * float(leaves[i])

            def at(k, i=i, h=h):
                return float(value(*jax.tree.unflatten(structure, [*leaves[:i], leaves[i] + k * h, *leaves[i + 1 :]])))

            difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
            np.testing.assert_allclose(slope * h, difference * h, rtol=1e-7, atol=1e-14)


def test_derivatives_without_bounds_on_bits():
    slopes = jax.jit(jax.grad(lambda law: law.loss(1e9, 1e11, post_training_bits=4.0)))(LAW)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))
    assert slopes.weight_bits_scale == slopes.cache_gap_rate == 0
    assert jax.jit(jax.grad(lambda bits: LAW.loss(1e9, 1e11, weight_bits=bits)))(inf) == 0


def test_derivatives_need_no_global_flag():
    assert not jax.config.jax_enable_x64

    def best(scale):
        return lx.PrecisionLaw(scale).best_precision()

    value, slope = jax.jit(jax.value_and_grad(best))(2.5)
    np.testing.assert_allclose(value, best(2.5), rtol=1e-6)
    np.testing.assert_allclose(slope, (best(2.5001) - best(2.4999)) / 2e-4, rtol=1e-5)
    many = jax.vmap(best)(jnp.asarray([1.0, 2.5]))
    np.testing.assert_allclose(many, [best(1.0), best(2.5)], rtol=1e-6)


def test_messages():
    with raises(ValueError, "weight_bits_scale must be finite and above 0; it is -1."):
        lx.PrecisionLaw(weight_bits_scale=-1)
    with raises(ValueError, "irreducible_loss must be finite and at least 0; it is -1."):
        lx.PrecisionLaw(irreducible_loss=-1)
    with raises(ValueError, "parameters must be finite and above 0; it is 0."):
        LAW.loss(0, 1e9)
    with raises(ValueError, "tokens must be finite and above 0 at every entry; entry 1 is -1."):
        LAW.loss(1e9, [1e9, -1])
    with raises(ValueError, "cache_bits must be a number and above 0; it is 0."):
        LAW.loss(1e9, 1e9, cache_bits=0)
    with raises(ValueError, "post_training_bits must be a number and above 0; it is nan."):
        LAW.critical_tokens(1e9, np.nan)
    with raises(TypeError, "weight_bits must be an array of numbers; NoneType None was given."):
        LAW.effective_parameters(1e9, None)
    with raises(ValueError, "compute must be finite and above 0; it is inf."):
        LAW.compute_optimal(inf)


def test_system(capsys, tmp_path):
    import xarray

    code, shown, _ = call(capsys, "run", "precision-law", "--set", "cache_bits_scale=2.0", "--out", tmp_path)
    assert code == 0
    assert "best number of bits: 4.3" in shown
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "result.nc", "summary.json"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["cache_bits_scale"] == 2.0
    assert [summary[name] for name in ("sizes", "seeds", "errors", "rate", "agreement")] == [None] * 5
    assert summary["status"] == "converged"
    measured = summary["measured"]
    np.testing.assert_allclose(
        measured["bits of least loss at each budget"], measured["best number of bits"], rtol=1e-3
    )
    np.testing.assert_allclose(measured["tokens of least loss"], measured["critical tokens"], rtol=1e-2)
    with xarray.open_dataset(tmp_path / "result.nc") as data:
        assert data["loss_at_budget"].dims == ("budget", "bits")
    assert gallery.system("precision-law").status() == "theory only"


REFUSED = {
    "schedule": (
        ["optimise", "precision-law"],
        "precision-law is a closed form and has no schedule to optimise or to sweep.",
    ),
    "seeds": (["run", "precision-law", "--seeds", "3"], "seeds must be left out: precision-law is a closed form"),
    "sizes": (["run", "precision-law", "--sizes", "3"], "sizes must be left out: precision-law is a closed form"),
    "name": (["run", "precision-law", "--set", "bits=3"], 'name "bits" is unknown; settings of precision-law: param'),
    "value": (["run", "precision-law", "--set", "post_scale=0"], "post_scale must be finite and above 0; it is 0."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_closed_form_does_not_have(capsys, tmp_path, name):
    arguments, sentence = REFUSED[name]
    code, out, error = call(capsys, *arguments, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
