# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Differentiating theory
#
# A theory of training is a function: hyperparameters in, learning curve out. Written in JAX it has derivatives, and
# these answer questions for which one would otherwise run sweeps: what would a little more richness do? Which
# richness and initial scale are best? How does the best schedule change when the noise grows?
#
# `FULL=1` takes more particles and longer training.

# %%
import os

import jax
import jax.numpy as jnp
import limitax as lx
import matplotlib.pyplot as plt
import numpy as np

full = os.environ.get("FULL") == "1"
key = jax.random.key(0)
plt.rcParams.update({"figure.dpi": 150, "font.size": 8, "legend.frameon": False})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## A derivative, and the difference that it predicts
#
# The test loss of a deep linear network at the end of training, differentiated with respect to richness, width, and the
# scale of the initial weights. The theory is exact, so central differences must agree to many digits.

# %%
task = lx.tasks.isotropic(sample_ratio=2.0, noise=0.3)
protocol = lx.GradientDescent(learning_rate=0.05, steps=80 if full else 30)


def loss(settings):
    richness, width, scale = settings
    limit = lx.limits.DeepLinear(2, width_ratio=width, richness=richness, init_scale=scale)
    return lx.final_loss(limit, task, protocol)


with jax.enable_x64(True):
    at = jnp.array([1.5, 1.0, 0.7])
    slope = jax.jit(jax.grad(loss))(at)
    value = jax.jit(loss)
    step = 1e-4
    difference = [(value(at.at[i].add(step)) - value(at.at[i].add(-step))) / (2 * step) for i in range(3)]
for name, exact, approximate in zip(("richness", "width over inputs", "initial scale"), slope, difference, strict=True):
    print(f"d loss / d {name}: {exact:+.6f} by differentiation, {approximate:+.6f} by differences")
np.testing.assert_allclose(slope, difference, rtol=1e-5)

# %% [markdown]
# ## The best richness and initial scale
#
# `lx.optimise` follows such derivatives. Here are both at once for a tanh network on sixteen points of a sphere, with a
# linear target: some tens of gradients of the theory, from a start that is far too lazy. The landscape is computed by
# `lx.sweep` for comparison only.

# %%
sphere = lx.tasks.sphere(key, samples=16, dim=8, test_samples=64)
short = lx.GradientDescent(learning_rate=0.3, steps=24)
start = lx.limits.MLP(1, "tanh", richness=0.5)
options = {"samples": 8_000 if full else 1_500, "replicas": 1}
best = lx.optimise(start, sphere, short, over=("richness", "init_scale"), key=key, **options)
found = float(best.limit.richness), float(best.limit.init_scale)
print(f"from {best.history[0]:.4f} to {best.value:.4f} in {best.evaluations} gradients: {best.status}")
print(f"richness {found[0]:.2f}, initial scale {found[1]:.2f}")
count = 15 if full else 9
grid = {"richness": np.geomspace(0.2, 7, count), "init_scale": np.geomspace(0.3, 2, count)}
landscape = lx.sweep(start, sphere, short, grid, key=key, **options).test_loss[..., -1]
finite = np.where(np.isfinite(landscape), landscape, np.inf)
print(f"lowest of {count**2} points of a grid: {finite.min():.4f}")
assert best.value < 1.01 * finite.min()

# %% [markdown]
# ## How the optimum moves
#
# At an optimum the first derivative with respect to the controls vanishes, so the optimal loss changes with a
# parameter as if the schedule stood still (the envelope theorem); the schedule itself moves by a solution of a linear
# system with the Hessian. `lx.sensitivity` gives both.

# %%
steps = 300
online, power = lx.limits.RandomFeatures(), lx.OnlineSGD(0.05, steps=steps)
noisy = lx.tasks.power_law(10**12, capacity=1.5, decay=2.5, noise=1.0)
schedule = lx.optimise(online, noisy, power, over="learning_rate")
moves = lx.sensitivity(schedule, "noise")
noisier = lx.tasks.power_law(10**12, capacity=1.5, decay=2.5, noise=1.1)
again = lx.optimise(online, noisier, power, over="learning_rate")
predicted = schedule.value + 0.1 * float(moves.value)
print(f"10 % more noise: the loss goes from {schedule.value:.5f} to {again.value:.5f}; by the envelope {predicted:.5f}")
assert abs(again.value - predicted) < 0.1 * abs(again.value - schedule.value)

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.6), layout="constrained")
levels = np.geomspace(finite.min() * 1.01, finite[np.isfinite(finite)].max(), 20)
axes[0].contour(grid["init_scale"], grid["richness"], finite, levels, colors="0.6", linewidths=0.7)
axes[0].plot(1.0, 0.5, "o", color="k", mfc="w", ms=5, label="start")
axes[0].plot(found[1], found[0], "*", color="k", ms=9, label=f"after {best.evaluations} gradients")
axes[0].set(
    xscale="log",
    yscale="log",
    xlabel="scale of the initial weights",
    ylabel="richness",
    title="test loss on the sphere",
)
axes[0].set_xticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
axes[0].set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
axes[0].minorticks_off()
axes[0].legend(fontsize=7, loc="lower left")
history = np.asarray(best.history)
axes[1].plot(np.arange(len(history)), history, "o-", color="k", ms=3, lw=1)
axes[1].axhline(finite.min(), color="0.5", ls="--", lw=1, label=f"best of {count**2} points of a grid")
axes[1].set(xlabel="iteration", ylabel="test loss (half mean square)", title="descent on the theory")
axes[1].legend(fontsize=7)
time = np.arange(steps)
before, after = (np.asarray(s.protocol.learning_rate) for s in (schedule, again))
axes[2].plot(time, before, "-", color="k", lw=1.4, label="noise 1")
axes[2].plot(time, after, "--", color="0.35", lw=1.4, label="noise 1.1")
axes[2].set(xlabel="step", ylabel="optimal learning rate", title="more noise, smaller rates")
axes[2].legend(fontsize=7)
figure.savefig("differentiating_theory.png")
plt.show()
