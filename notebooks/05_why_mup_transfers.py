# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Why the maximal-update parameterisation transfers
#
# Tune a small network, train a large one with the same learning rate: that works if the dynamics have a limit in which
# features learn. Deep linear networks show it without an approximation. With $D$ inputs and $N = \nu D$ hidden units,
#
# $$f(x) = \frac{w^T W^{L-1}\cdots W^0 x}{\sqrt D\, N^{(L-1)/2}\, \gamma\sqrt N}, \qquad
#   \gamma = \gamma_0\sqrt{\nu}\ \text{(maximal update)}, \qquad \gamma = \gamma_0\ \text{(neural tangent)},$$
#
# both with raw steps $\eta\gamma^2 D$. In the first the features of a network of any width move by the same amount. In
# the second they move less and less, and every width is a problem of its own.
#
# `FULL=1` takes larger networks and more seeds.

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
# ## Loss against learning rate at every width
#
# Twelve steps on the population, in the rich regime. Every point is an exact solution in the limit $D, N \to \infty$
# at fixed $\nu$.

# %%
task = lx.tasks.isotropic()
ratios = [1.0, 2.0, 4.0, 8.0]
rates = np.geomspace(0.01, 0.3, 49)
losses = {}
for name in ("mup", "ntk"):
    limit = lx.limits.DeepLinear(2, richness=4.0, init_scale=0.5, parameterization=name)
    protocol = lx.GradientDescent(0.05, steps=12)
    swept = lx.sweep(limit, task, protocol, {"width_ratio": ratios, "learning_rate": rates})
    losses[name] = swept.test_loss.isel(time=-1).where(swept.status == "converged").values
    best = [rates[np.nanargmin(curve)] for curve in losses[name]]
    print(
        f"{name}: best rate {', '.join(f'{rate:.3f}' for rate in best)} at N = {', '.join(f'{r:g} D' for r in ratios)}"
    )
    assert (max(best) / min(best) < 1.3) == (name == "mup")

# %% [markdown]
# ## Finite networks
#
# The same training of networks with $D$ inputs at the theory's best rate for the narrowest, carried over to the widest.

# %%
carried = rates[np.nanargmin(losses["mup"][0])]
dim, seeds = (400, 32) if full else (100, 32)
runs = {}
for name in ("mup", "ntk"):
    for ratio in (1.0, 8.0):
        limit = lx.limits.DeepLinear(2, ratio, richness=4.0, init_scale=0.5, parameterization=name)
        protocol = lx.GradientDescent(0.6 * carried, steps=12)
        theory = limit.solve(task, protocol)
        nets = limit.ensemble(task, size=dim, seeds=seeds, key=key)
        run = np.asarray(lx.nets.train(nets, task, protocol, key=key).test_loss)
        runs[name, ratio] = theory, run
        error = np.linalg.norm(run.mean(0) - theory.test_loss) / np.linalg.norm(theory.test_loss)
        print(f"{name}, N = {ratio:g} D: mean of {seeds} networks with D = {dim} is {error:.1%} from the theory")

# %% [markdown]
# ## What the weights see
#
# The outlier of the first hidden weight, its largest singular value, is the feature that was learned. In the
# maximal-update parameterisation it leaves the bulk by the same amount at every width; in the other it sinks into the
# bulk as the network grows. Here it is measured against the edge of the bulk.

# %%
wide = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
protocol = lx.GradientDescent(0.03, steps=12)
outside = {}
for name in ("mup", "ntk"):
    outside[name] = []
    for ratio in wide:
        limit = lx.limits.DeepLinear(2, ratio, richness=4.0, init_scale=0.5, parameterization=name)
        spectrum = lx.spectrum(limit, limit.solve(task, protocol), layer=1)
        largest = np.nanmax(np.append(np.asarray(spectrum.outliers)[-1], float(spectrum.bulk_edge[-1])))
        outside[name].append(largest / float(spectrum.bulk_edge[-1]))
    print(f"{name}: outlier over edge {', '.join(f'{value:.2f}' for value in outside[name])}")

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 4, figsize=(9.4, 2.5), layout="constrained")
colours, styles = plt.cm.viridis(np.linspace(0.85, 0, len(ratios))), (":", "--", "-.", "-")
for ax, (name, title) in zip(axes, (("mup", "maximal update"), ("ntk", "neural tangent")), strict=False):
    for ratio, curve, colour, style in zip(ratios, losses[name], colours, styles, strict=True):
        ax.plot(rates, curve, style, color=colour, lw=1.2, label=f"N = {ratio:g} D")
        ax.plot(rates[np.nanargmin(curve)], np.nanmin(curve), "o", color=colour, ms=4)
    ax.set(xscale="log", yscale="log", ylim=(1e-11, 1), xlabel="learning rate", ylabel="test loss after 12 steps")
    ax.set_title(title)
axes[0].legend(fontsize=6, loc="lower left")
time = np.arange(13)
for (name, ratio), (theory, run) in runs.items():
    dark = "k" if name == "mup" else "0.6"
    style, marker = ("-", "o") if ratio == 1 else ("--", "s")
    axes[2].plot(time, theory.test_loss, style, color=dark, lw=1, label=f"{name}, N = {ratio:g} D")
    axes[2].plot(time, run.mean(0), marker, color=dark, ms=3, mfc="w")
axes[2].set(yscale="log", xlabel="step", ylabel="test loss (half mean square)", title=f"markers: networks, D = {dim}")
axes[2].legend(fontsize=6)
for name, style, dark in (("mup", "o-", "k"), ("ntk", "s--", "0.5")):
    axes[3].plot(wide, outside[name], style, color=dark, ms=4, lw=1, label=name)
axes[3].axhline(1, color="0.7", lw=0.8)
axes[3].set(xscale="log", xlabel="N / D", ylabel="largest singular value / bulk edge", title="features")
axes[3].legend(fontsize=7)
figure.savefig("why_mup_transfers.png")
plt.show()
