# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Learning rules
#
# Backpropagation sends the error back through the transposed forward weights. Other rules do not: feedback alignment
# uses frozen random matrices, direct feedback alignment one frozen vector for each layer, error-modulated Hebbian
# learning the features themselves, and gated linear networks frozen gates. In the limit of infinite width a rule
# changes one thing, the pseudo-gradient field $\tilde g$ that the hidden weights are moved by,
#
# $$W^\ell(t+1) - W^\ell(t) \propto \frac1P\sum_\mu \Delta_\mu\, \tilde g^{\ell+1}_\mu\, \phi(h^\ell_\mu)^T ,$$
#
# and the field that the output feels, $g$, stays. Theory and networks take the rule as an argument.
#
# `FULL=1` takes more particles and wider networks.

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
# ## Five rules on one task
#
# Two hidden layers of tanh units, four points on a sphere with labels ±1, in the rich regime. Each rule is solved at
# infinite width and trained in pairs of finite networks.

# %%
rules = {
    "backpropagation": lx.rules.Backpropagation(),
    "feedback alignment": lx.rules.FeedbackAlignment(0.0),
    "direct feedback alignment": lx.rules.DirectFeedbackAlignment(),
    "Hebb": lx.rules.Hebb(),
    "gated linear": lx.rules.GatedLinear(),
}
task = lx.tasks.sphere(key, samples=4, dim=6, target="sign")
protocol = lx.GradientDescent(learning_rate=0.15, steps=24)
samples, width, seeds = (100_000, 1024, 32) if full else (8_000, 256, 12)

theories, networks = {}, {}
for name, rule in rules.items():
    limit = lx.limits.MLP(2, "tanh", richness=2.0, rule=rule)
    theories[name] = limit.solve(task, protocol, key=key, samples=samples, keep="diagonal")
    pairs = limit.ensemble(task, size=width, seeds=seeds, key=key)
    networks[name] = lx.nets.train(pairs, task, protocol, key=key, alignment=True)
    run, exact = np.asarray(networks[name].predictions), np.asarray(theories[name].predictions)
    error = np.linalg.norm(run.mean(0) - exact) / np.linalg.norm(exact)
    print(f"{name}: mean of {seeds} pairs of width {width} is {error:.1%} from the theory")
    assert error < 0.1

# %% [markdown]
# ## Frozen matrices that resemble the weights
#
# With feedback matrices of correlation $\rho$ with the initial weights, learning goes from feedback alignment
# ($\rho = 0$) towards backpropagation. At $\rho = 1$ the two share the first two predictions, before the weights have
# moved, and part afterwards.

# %%
correlations = (0.0, 0.5, 1.0)
partly = {}
for correlation in correlations:
    limit = lx.limits.MLP(2, "tanh", richness=2.0, rule=lx.rules.FeedbackAlignment(correlation))
    partly[correlation] = limit.solve(task, protocol, key=key, samples=samples, keep="diagonal")
same = np.abs(np.asarray(partly[1.0].predictions - theories["backpropagation"].predictions)).max(axis=1)
print(f"correlation 1 against backpropagation: {same[1]:.1e} after one step, {same[-1]:.2f} after {len(same) - 1}")

# %% [markdown]
# ## The picture
#
# Backpropagation turns the features most, the two alignments follow, and gated linear networks fit the labels through
# gates that never move. Error-modulated Hebbian learning strengthens what is active while the error lasts, and turns
# the features away from the labels.

# %%
colours = plt.cm.viridis(np.linspace(0, 0.85, len(rules)))
markers = "osD^v"
time = np.arange(protocol.steps + 1)
figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.6), layout="constrained")
for (name, theory), colour, marker in zip(theories.items(), colours, markers, strict=True):
    run = networks[name]
    for ax, curve, values in (
        (axes[0], theory.train_loss, run.train_loss),
        (axes[1], theory.extras["alignment_2"], run.extras["alignment_2"]),
    ):
        values = np.asarray(values)
        ax.plot(time, curve, color=colour, lw=1.2)
        spread = values.std(0) / np.sqrt(len(values))
        ax.errorbar(time[::3], values.mean(0)[::3], spread[::3], fmt=marker, color=colour, ms=3.5, lw=0.7, label=name)
axes[0].set(yscale="log", xlabel="step", ylabel="training loss (half mean square)", title="lines: infinite width")
axes[1].set(xlabel="step", ylabel="alignment of features and labels", title=f"markers: {seeds} pairs, width {width}")
axes[0].legend(fontsize=6)
for correlation, style in zip(correlations, (":", "-.", "--"), strict=True):
    curve = partly[correlation].train_loss
    axes[2].plot(time, curve, style, color="k", lw=1.2, label=f"feedback, correlation {correlation:g}")
axes[2].plot(time, theories["backpropagation"].train_loss, color=colours[0], lw=1.6, label="backpropagation")
axes[2].set(yscale="log", xlabel="step", ylabel="training loss (half mean square)", title="towards backpropagation")
axes[2].legend(fontsize=6)
figure.savefig("learning_rules.png")
plt.show()
