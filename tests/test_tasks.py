"""Tasks: what their documentation promises of the numbers they draw."""

import jax
import jax.numpy as jnp
import limitax as lx
import numpy as np
import pytest

tasks = lx.tasks


def test_sphere_has_the_stated_norms_and_shapes():
    task = tasks.sphere(jax.random.key(3), samples=7, dim=6, test_samples=5)
    assert task.x.shape == (7, 6)
    assert task.y.shape == (7,)
    assert task.x_test.shape == (5, 6)
    assert task.y_test.shape == (5,)
    np.testing.assert_allclose(np.sum(task.x**2, axis=1), 6, rtol=1e-12)
    np.testing.assert_allclose(np.sum(task.x_test**2, axis=1), 6, rtol=1e-12)
    alone = tasks.sphere(jax.random.key(3), samples=7, dim=6)
    assert not alone.has_test
    assert alone.y_test is None


def test_sphere_draws_every_direction_alike():
    x = tasks.sphere(jax.random.key(0), samples=20_000, dim=3).x
    # the mean of x x^T is the identity; each entry has a standard deviation of at most 1.3 / sqrt(20000)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(3), atol=5 * 1.3 / np.sqrt(len(x)))
    np.testing.assert_allclose(x.mean(0), 0, atol=5 / np.sqrt(len(x)))


def test_linear_target_is_one_unit_direction():
    task = tasks.sphere(jax.random.key(1), samples=40, dim=6, test_samples=10)
    teacher, *_ = np.linalg.lstsq(task.x, task.y)
    np.testing.assert_allclose(np.linalg.norm(teacher), 1, rtol=1e-10)
    np.testing.assert_allclose(task.x_test @ teacher, task.y_test, rtol=1e-10)


def test_sign_target_is_the_sign_of_the_linear_one():
    linear, sign = (tasks.sphere(None, samples=50, dim=4, target=t) for t in ("linear", "sign"))
    np.testing.assert_array_equal(linear.x, sign.x)
    np.testing.assert_array_equal(sign.y, np.sign(linear.y))


# Orthogonal polynomials of u, one coordinate of the unit sphere in D dimensions, from the moments of u.
CLOSED = {
    1: lambda u, D: u,
    2: lambda u, D: u**2 - 1 / D,
    3: lambda u, D: u**3 - 3 * u / (D + 2),
    4: lambda u, D: u**4 - 6 * u**2 / (D + 4) + 3 / ((D + 2) * (D + 4)),
}


@pytest.mark.parametrize("degree", CLOSED)
@pytest.mark.parametrize("dim", [2, 5])
def test_gegenbauer_targets_are_the_orthogonal_polynomials(degree, dim):
    samples = 20_000
    u = tasks.sphere(None, samples=samples, dim=dim).y / np.sqrt(dim)
    y = tasks.sphere(None, samples=samples, dim=dim, target="gegenbauer", degree=degree).y
    shape = CLOSED[degree](u, dim)
    np.testing.assert_allclose(y, shape * (y @ shape) / (shape @ shape), rtol=0, atol=1e-9)
    # five standard errors of a Monte-Carlo mean
    for power in range(degree):
        product = y * u**power
        assert abs(product.mean()) < 5 * product.std() / np.sqrt(samples)
    assert abs((y**2).mean() - 1) < 5 * (y**2).std() / np.sqrt(samples)


@pytest.mark.slow
def test_one_key_is_one_data_set_whatever_the_global_precision():
    settings = {"samples": 4, "dim": 3, "test_samples": 2, "target": "gegenbauer", "degree": 3}
    with jax.enable_x64(True):
        double = tasks.sphere(jax.random.key(5), **settings)
        digits = tasks.digits(jax.random.key(5), samples=5, test_samples=3)
        teacher = tasks.isotropic(2.0).draw(6, jax.random.key(1)).teacher
    with jax.enable_x64(False):
        single = tasks.sphere(jax.random.key(5), **settings)
        digits_single = tasks.digits(jax.random.key(5), samples=5, test_samples=3)
        teacher_single = tasks.isotropic(2.0).draw(6, jax.random.key(1)).teacher
    for a, b in ((double, single), (digits, digits_single)):
        for name in ("x", "y", "x_test", "y_test"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == np.float64
    np.testing.assert_array_equal(teacher, teacher_single)
    assert not np.array_equal(double.x, tasks.sphere(jax.random.key(6), **settings).x)


def test_no_key_is_key_zero_and_old_keys_are_taken():
    none, zero, old = (tasks.sphere(k, samples=3, dim=2).x for k in (None, jax.random.key(0), jax.random.PRNGKey(0)))
    np.testing.assert_array_equal(none, zero)
    np.testing.assert_array_equal(none, old)


def test_sphere_may_be_drawn_inside_a_transformation():
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.jit(jax.vmap(lambda k: tasks.sphere(k, samples=3, dim=2).x))(keys)
    for key, x in zip(keys, many, strict=True):
        np.testing.assert_allclose(tasks.sphere(key, samples=3, dim=2).x, x, rtol=1e-6)


def test_a_data_set_gives_itself():
    task = tasks.sphere(None, samples=3, dim=2)
    assert task.draw(100, jax.random.key(1)) is task


def test_digits_are_standardised_on_the_training_split_only():
    task = tasks.digits(jax.random.key(0), samples=60, test_samples=200)
    mean, std = task.x.mean(0), task.x.std(0)
    moving = std > 0
    assert 30 < moving.sum() < 64
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(std[moving], 1, rtol=1e-12)
    assert not np.any(task.x_test[:, ~moving])
    assert np.max(np.abs(task.x_test.mean(0))) > 0.01


def test_digits_use_every_image_once():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    both = images[np.isin(labels, (0, 1))]
    assert len(np.unique(both, axis=0)) == len(both)
    task = tasks.digits(None, samples=len(both) - 100, test_samples=100)
    # as many different rows as there are images: no image is in both halves, or twice in one
    assert len(np.unique(np.concatenate([task.x, task.x_test]), axis=0)) == len(both)
    y = np.concatenate([task.y, task.y_test])
    assert np.sum(y == 1) == np.sum(labels == 0)
    assert np.sum(y == -1) == np.sum(labels == 1)


def test_two_digits_are_signs_and_the_first_is_plus():
    task = tasks.digits(None, samples=100, test_samples=100, classes=(3, 8))
    swapped = tasks.digits(None, samples=100, test_samples=100, classes=(8, 3))
    np.testing.assert_array_equal(task.x, swapped.x)
    np.testing.assert_array_equal(task.y, -swapped.y)
    # labels belong to their images: nearest class means sort nearly all test images
    means = [task.x[task.y == s].mean(0) for s in (1, -1)]
    far = [np.linalg.norm(task.x_test - m, axis=1) for m in means]
    assert np.mean(np.where(far[0] < far[1], 1, -1) == task.y_test) > 0.85


@pytest.mark.parametrize("classes", [None, (2, 5, 7)])
def test_more_digits_are_one_hot(classes):
    task = tasks.digits(None, samples=200, test_samples=50, classes=classes)
    count = 10 if classes is None else 3
    assert task.y.shape == (200, count)
    assert task.y_test.shape == (50, count)
    np.testing.assert_array_equal(task.y.sum(1), 1)
    assert set(np.unique(task.y)) == {0.0, 1.0}
    means = np.stack([task.x[task.y[:, c] == 1].mean(0) for c in range(count)])
    nearest = np.argmin(np.linalg.norm(task.x_test[:, None] - means, axis=2), axis=1)
    assert np.mean(nearest == task.y_test.argmax(1)) > 0.7


def test_from_arrays_keeps_the_numbers():
    task = tasks.from_arrays([[1, 2], [3, 4]], [1, -1], x_test=[[0, 1]])
    np.testing.assert_array_equal(task.x, [[1.0, 2.0], [3.0, 4.0]])
    assert task.x.dtype == task.y.dtype == np.float64
    assert task.has_test
    assert task.y_test is None
    assert task.dim == 2


@pytest.mark.parametrize(
    "draw", [lambda: tasks.sphere(samples=2, dim=3).x, lambda: tasks.isotropic().population(3).teacher]
)
def test_the_default_key_inside_a_program(draw):
    """The same numbers, without a word about 64 bits."""
    np.testing.assert_allclose(jax.jit(draw)(), draw(), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_replication_leaves_signal_and_spectrum(size):
    modes, capacity, decay = 6, 1.3, 2.1
    k = np.arange(1, modes + 1)
    problem = tasks.power_law(modes, capacity, decay, noise=0.5, samples=10).draw(size, jax.random.key(0))
    np.testing.assert_allclose(problem.eigenvalues, np.repeat(k**-capacity, size), rtol=1e-13)
    shares = (problem.eigenvalues * problem.teacher**2).reshape(modes, size)
    np.testing.assert_allclose(shares.sum(1), k**-decay, rtol=1e-13)
    np.testing.assert_allclose(shares, shares[:, :1] * np.ones(size), rtol=1e-13)
    assert problem.x.shape == (10 * size, modes * size)
    assert problem.y.shape == (10 * size,)


def test_batches_have_the_covariance_and_the_noise_of_the_task():
    eigenvalues, teacher, noise, count = np.array([2.0, 1.0, 0.25]), np.array([1.0, -2.0, 3.0]), 0.7, 40_000
    problem = tasks.gaussian(eigenvalues, teacher, noise).draw(1)
    assert problem.x is None
    x, y = (np.asarray(v, np.float64) for v in problem.batch(jax.random.key(1), count))
    # entries of the sample covariance have a standard error of at most sqrt(2 * 2 * 2 / count)
    np.testing.assert_allclose(x.T @ x / count, np.diag(eigenvalues), atol=5 * np.sqrt(8 / count))
    rest = y - x @ teacher
    assert abs(rest.std() / noise - 1) < 5 / np.sqrt(2 * count)
    assert np.max(np.abs(x.T @ rest / count)) < 5 * noise * np.sqrt(2 / count)


def test_reused_data_follow_the_teacher():
    problem = tasks.gaussian([1.0, 0.5], [1.0, 2.0], noise=0.0, samples=12).draw(2, jax.random.key(0))
    assert problem.x.shape == (24, 4)
    np.testing.assert_allclose(np.asarray(problem.x) @ problem.teacher, problem.y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ratio", "size", "samples"), [(2.0, 3, 18), (0.3, 10, 9), (0.1, 1, 1), (np.inf, 3, None)])
def test_sample_ratio_counts_input_dimensions(ratio, size, samples):
    problem = tasks.gaussian([1.0, 0.5, 0.2], [1.0, 2.0, 3.0], sample_ratio=ratio).draw(size)
    assert (None if problem.x is None else len(problem.x)) == samples
    white = tasks.isotropic(ratio).draw(3 * size)
    assert (None if white.x is None else len(white.x)) == samples


def test_isotropic_teachers_have_unit_norm_on_average():
    task, size = tasks.isotropic(2.0, noise=0.3), 50
    norms = [np.sum(task.draw(size, jax.random.key(s)).teacher ** 2) for s in range(40)]
    assert abs(np.mean(norms) - 1) < 5 * np.sqrt(2 / (size * 40))
    problem = task.draw(size, jax.random.key(0))
    np.testing.assert_array_equal(problem.eigenvalues, 1)
    rest = np.asarray(problem.y) - np.asarray(problem.x) @ problem.teacher
    assert abs(rest.std() / 0.3 - 1) < 5 / np.sqrt(2 * len(rest))


def test_continuous_arguments_of_distributions_are_leaves():
    leaves = jax.tree.leaves(tasks.power_law(10, 2, 3, noise=1, samples=4))
    assert sorted(float(v) for v in leaves) == [1.0, 2.0, 3.0, 4.0]
    assert all(v.dtype == np.float64 for v in leaves)
    gradient = jax.grad(lambda c: jnp.sum(tasks.power_law(3, c, 2.0).draw(1).eigenvalues))(1.5)
    k = np.arange(1, 4)
    np.testing.assert_allclose(gradient, -np.sum(np.log(k) * k**-1.5), rtol=1e-6)
