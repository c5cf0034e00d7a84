# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Lazy to rich
#
# A wide network can learn in two ways. Either its features stand still and only their sum is fitted: a kernel method.
# Or the features turn towards the task. One number of the output layer decides, the richness $\gamma_0$ in
#
# $$f(x) = \frac{1}{\gamma_0 N}\, w\cdot\phi(h^L(x)), \qquad \text{raw rate} = \eta\,\gamma_0^2 N ,$$
#
# because every preactivation then moves by an amount of order $\gamma_0$, at any width $N$.
#
# Run it as a script, or open it as a notebook with jupytext. `FULL=1` takes more particles and wider networks.

# %%
import os

import jax
import limitax as lx
import matplotlib.pyplot as plt
import numpy as np

full = os.environ.get("FULL") == "1"
key = jax.random.key(0)
plt.rcParams.update({"figure.dpi": 150, "font.size": 8, "legend.frameon": False})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## One network whose features can be worked out by hand
#
# Two linear layers, one sample with $|x|^2 = D$ and target 1. A neuron has the preactivation $h$ and the readout $w$.
# Descent at a small rate gives $\dot h \propto w$ and $\dot w \propto h$, so that the pair turns by a hyperbolic angle
# $s$, and $\langle wh\rangle = \sinh 2s$, $\langle h^2\rangle = \cosh 2s$. Training ends where
# $\langle wh\rangle = \gamma_0$. The features have then grown to
#
# $$\Phi = \langle h^2\rangle = \sqrt{1+\gamma_0^2}.$$
#
# They move as $\gamma_0^2/2$ near the lazy end, and as $\gamma_0$ far from it. The solver knows nothing of this.

# %%
richnesses = np.geomspace(0.125, 16, 8)
one = lx.tasks.from_arrays(np.ones((1, 1)), np.ones(1))
moved = []
for richness in richnesses:
    slow = lx.GradientDescent(0.05 / np.sqrt(1 + richness**2), steps=600)
    theory = lx.limits.MLP(1, "identity", richness).solve(one, slow, keep="diagonal")
    moved.append(theory.kernels["Phi", 1][-1, 0, 0] - 1)
by_hand = np.sqrt(1 + richnesses**2) - 1
worst = np.max(np.abs(moved / by_hand - 1))
print(f"movement of the features: theory and formula differ by at most {worst:.1%} over {len(richnesses)} richnesses")
assert worst < 0.03

# %% [markdown]
# ## A nonlinear network on more samples
#
# Two hidden layers of tanh units, sixteen points on a sphere, labels ±1. The same initial network, the same learning
# rate; only the richness differs.

# %%
task = lx.tasks.sphere(key, samples=16, dim=10, test_samples=64, target="sign")
order = np.argsort(task.y, kind="stable")
protocol = lx.GradientDescent(learning_rate=0.25, steps=40)
samples = 100_000 if full else 8_000
theories = {}
for richness in (0.0, 1.0, 2.0, 4.0):
    limit = lx.limits.MLP(2, "tanh", richness)
    theories[richness] = limit.solve(task, protocol, key=key, samples=samples, keep="diagonal")
    print(
        f"richness {richness:g}: test loss {theories[richness].test_loss[-1]:.3f}, training loss "
        f"{theories[richness].train_loss[-1]:.4f}, alignment {theories[richness].extras['alignment_2'][-1]:.2f}"
    )

# %% [markdown]
# ## Finite networks
#
# At each richness, pairs of networks of one width. Features turn towards the labels as the theory says.

# %%
width, seeds = (512, 16) if full else (256, 8)
networks = {}
for richness, theory in theories.items():
    if richness == 0:
        continue  # a finite network has no lazy end: its features move a little
    limit = lx.limits.MLP(2, "tanh", richness)
    ensemble = limit.ensemble(task, size=width, seeds=seeds, key=key)
    networks[richness] = lx.nets.train(ensemble, task, protocol, alignment=True)
    measured = np.mean(networks[richness].extras["alignment_2"], axis=0)
    error = np.linalg.norm(measured - theory.extras["alignment_2"]) / np.linalg.norm(measured)
    print(f"richness {richness:g}: alignment of {seeds} pairs of width {width} is {error:.1%} from the theory")

# %% [markdown]
# ## The picture
#
# First the movement of features, by hand and by the solver. Then the test loss: networks that learn features fall
# faster than the lazy one, and those that are too rich for sixteen labels overfit. After training, the last kernel of
# the rich network is the outer product of the labels (samples are ordered by label); the lazy kernel has not moved.

# %%
figure, axes = plt.subplots(1, 4, figsize=(8.2, 2.4), layout="constrained", width_ratios=(1.1, 1.2, 1, 1))
line = np.geomspace(richnesses[0], richnesses[-1], 100)
axes[0].plot(line, np.sqrt(1 + line**2) - 1, "k-", lw=1, label=r"$\sqrt{1+\gamma_0^2}-1$")
axes[0].plot(richnesses, moved, "o", color="k", mfc="w", ms=4, label="theory, solved")
axes[0].set(xscale="log", yscale="log", xlabel=r"richness $\gamma_0$", ylabel="movement of features")
axes[0].legend(fontsize=7)
time = np.arange(protocol.steps + 1)
colours = plt.cm.viridis(np.linspace(0.85, 0, len(theories)))
for (richness, theory), colour, marker in zip(theories.items(), colours, " osD", strict=True):
    axes[1].plot(time, theory.test_loss, color=colour, lw=1.3, label=f"richness {richness:g}" if richness else "lazy")
    if richness in networks:
        mean = np.mean(networks[richness].test_loss, axis=0)
        axes[1].plot(time[::5], mean[::5], marker, color=colour, ms=3.5)
axes[1].set(yscale="log", xlabel="step", ylabel="test loss (half mean square)")
axes[1].set_title(f"markers: {seeds} pairs, width {width}", fontsize=8)
axes[1].legend(fontsize=6)
for ax, richness in zip(axes[2:], (0.0, 4.0), strict=True):
    kernel = np.asarray(theories[richness].kernels["Phi", 2])[-1][np.ix_(order, order)]
    ax.imshow(kernel / np.abs(kernel).max(), cmap="gray", vmin=-1, vmax=1)
    ax.set(xticks=[], yticks=[], xlabel="sample")
    ax.set_title(f"last kernel, {'lazy' if richness == 0 else f'richness {richness:g}'}", fontsize=8)
figure.savefig("lazy_to_rich.png")
plt.show()
