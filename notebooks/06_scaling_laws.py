# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Scaling laws and compute
#
# Losses of large models fall as power laws of time, of data and of size. A linear model on random features does the
# same, and everything about it can be solved: spectrum $\lambda_k = k^{-b}$, target $\lambda_k w_k^2 = k^{-a}$, $N$
# features, $P$ samples, $t$ steps. Where two of the three are unlimited the loss falls as
#
# $$t^{-(a-1)/b}, \qquad N^{-(a-1)}, \qquad P^{-(a-1)} \qquad (a < b + 1),$$
#
# and at a given compute $C = N t$ the best size balances the first two: $L \sim C^{-(a-1)/(b+1)}$. If features learn,
# the network follows a steeper law.
#
# `FULL=1` takes longer horizons and more networks.

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
# ## Theory and networks
#
# One learning curve at finite $N$ and $P$ beside networks. Fluctuations are those of one draw; in the mean the error is
# of order $1/N + 1/P$.

# %%
capacity, decay = 1.5, 1.75
limit = lx.limits.RandomFeatures(features=40)
small = lx.tasks.power_law(modes=120, capacity=capacity, decay=decay, samples=60)
descent = lx.GradientDescent(0.5, steps=100)
theory = limit.solve(small, descent)
nets = limit.ensemble(small, size=1, seeds=256 if full else 64, key=key)
run = np.asarray(lx.nets.train(nets, small, descent, key=key).test_loss)
error = np.linalg.norm(run.mean(0) - theory.test_loss) / np.linalg.norm(theory.test_loss)
print(f"N = 40, P = 60: mean of {len(run)} networks is {error:.1%} from the theory")
assert error < 0.1

# %% [markdown]
# ## The compute-optimal frontier
#
# Learning curves of many sizes, from the same recursion on the spectrum that $N$ features leave. At every budget
# $C = N t$ one of them is lowest; the envelope is the frontier.

# %%
task = lx.tasks.power_law(None, capacity=capacity, decay=decay)
sizes = 2.0 ** np.arange(2, 12 if full else 11)
online = lx.OnlineSGD(0.3, batch_size=1e12, steps=100_000 if full else 10_000)
frontier = lx.compute_frontier(lx.limits.RandomFeatures(), task, online, sizes=sizes)
expected = (decay - 1) / (capacity + 1)
print(f"loss ~ C^-{frontier.loss_exponent:.3f} (theory {expected:.3f})")
print(f"best size ~ C^{frontier.features_exponent:.3f} (theory {1 / (capacity + 1):.3f})")
assert abs(frontier.loss_exponent - expected) < 0.03

# %% [markdown]
# ## Features that learn
#
# Train the projection as well, in the rich regime. In the hard phase, $r = (a-1)/b < 1$, time then enters as
# $t^{-2r/(1+r)}$ instead of $t^{-r}$: the kernel grows in the directions that are being learned.

# %%
times = np.geomspace(1e-2, 1e8, 160)
source = (decay - 1) / capacity
flow = {}
for richness in (0.0, 3.0):
    flow[richness] = lx.limits.LearnedFeatures(richness).solve(task, lx.GradientFlow(times=times)).test_loss
    slope = np.polyfit(np.log(times[-30:]), np.log(flow[richness][-30:]), 1)[0]
    theory_slope = -source if richness == 0 else -2 * source / (1 + source)
    print(f"richness {richness:g}: loss ~ t^{slope:.3f} (theory {theory_slope:.3f})")
    assert abs(slope - theory_slope) < 0.01

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.6), layout="constrained")
steps = np.arange(1, len(theory.test_loss))
axes[0].plot(steps, theory.test_loss[1:], "k-", lw=1.3, label="theory")
mean, spread = run.mean(0), run.std(0)
axes[0].fill_between(steps, (mean - spread)[1:], (mean + spread)[1:], color="0.85", lw=0, label="spread of networks")
some = np.unique(np.geomspace(1, len(steps), 14).astype(int))
axes[0].plot(some, mean[some], "o", color="k", mfc="w", ms=4, label=f"mean of {len(run)}")
axes[0].set(xscale="log", yscale="log", xlabel="step", ylabel="test loss (mean square)", title="N = 40, P = 60")
axes[0].legend(fontsize=7)
shown = np.unique(np.geomspace(1, len(frontier.times), 200).astype(int)) - 1
colours = plt.cm.viridis(np.linspace(0.85, 0, len(sizes)))
for size, curve, colour in zip(frontier.sizes, frontier.curves, colours, strict=True):
    axes[1].plot(size * frontier.times[shown], curve[shown], color=colour, lw=0.9)
axes[1].plot(frontier.compute, frontier.loss, "k--", lw=1.8, label=f"slope -{frontier.loss_exponent:.2f}")
axes[1].set(xscale="log", yscale="log", xlabel="compute (features x steps)", ylabel="test loss (mean square)")
axes[1].set_title(f"{int(sizes[0])} to {int(sizes[-1])} features")
axes[1].legend(fontsize=7)
for richness, style in ((0.0, "--"), (3.0, "-")):
    axes[2].plot(times, flow[richness], style, color="k", lw=1.3, label="lazy" if richness == 0 else "richness 3")
axes[2].set(xscale="log", yscale="log", xlabel="time", ylabel="test loss (mean square)", title="features that learn")
axes[2].legend(fontsize=7)
figure.savefig("scaling_laws.png")
plt.show()
