# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Bulk and outliers
#
# The singular values of a hidden weight matrix begin as a bulk, the law of a random matrix. Training adds a matrix of
# low rank to it; once that is strong enough, a singular value leaves the bulk. The theory of deep linear networks, in
# which width, inputs and samples grow together, gives the bulk, the outlier and the step at which it escapes.
#
# Run it as a script, or open it as a notebook with jupytext. `FULL=1` takes larger networks.

# %%
import os

import limitax as lx
import matplotlib.pyplot as plt
import numpy as np

full = os.environ.get("FULL") == "1"

# %% [markdown]
# ## One matrix, before and after

# %%
limit = lx.limits.DeepLinear(depth=2, width_ratio=1.0, richness=4.0, init_scale=0.5)
task = lx.tasks.isotropic(sample_ratio=2.0, noise=0.3)
protocol = lx.GradientDescent(learning_rate=0.04, steps=24)
theory = limit.solve(task, protocol)
spectrum = lx.spectrum(limit, theory, layer=1)
print(f"the outlier escapes at step {spectrum.escape_step} and ends at {spectrum.outliers[-1, 0]:.3f}")

size = 800 if full else 300
net = limit.finite(task, size=size)
run = lx.nets.train(net, task, protocol, singular_values=True)
measured = np.asarray(run.extras["singular_values_1"])
print(f"the largest singular value of one network of size {size} ends at {measured[-1, 0]:.3f}")

# %% [markdown]
# ## Which parameterisation keeps its features
#
# In the maximal-update parameterisation the outlier hardly depends on the width; in the neural-tangent
# parameterisation it is lost in the bulk as the width grows.

# %%
widths = (1.0, 2.0, 4.0, 8.0)
above = {}
for parameterization in ("mup", "ntk"):
    for width in widths:
        wide = lx.limits.DeepLinear(2, width, richness=4.0, init_scale=0.5, parameterization=parameterization)
        found = lx.spectrum(wide, wide.solve(task, protocol), layer=1)
        above[parameterization, width] = found.largest - found.bulk_edge
        print(f"{parameterization}, width {width:g} x inputs: {above[parameterization, width][-1]:.3f} above the bulk")

# %% [markdown]
# ## The picture

# %%
fig = plt.figure(figsize=(11, 3.2), layout="constrained")
histogram, growth, outliers = fig.subplots(1, 3)
x = np.linspace(1e-3, 1.05 * spectrum.outliers[-1, 0], 400)
bins = np.linspace(0, x[-1], 40)
histogram.hist(measured[-1], bins=bins, density=True, color="0.8", label=f"network of size {size}")
histogram.plot(x, spectrum.density(x, step=-1), "k-", label="theory")
histogram.axvline(spectrum.outliers[-1, 0], color="k", ls=":", label="outlier")
histogram.set(xlabel="singular value after training", ylabel="density")
growth.plot(spectrum.largest, "k-", label="theory")
growth.plot(np.arange(25)[::2], measured[::2, 0], "o", color="0.5", ms=4, label="network")
growth.fill_between(np.arange(25), 0, spectrum.bulk_edge, color="0.9", label="bulk")
growth.set(xlabel="step", ylabel="largest singular value", ylim=(0, None))
for (parameterization, style), label in zip({"mup": "-", "ntk": "--"}.items(), ("maximal update", "NTK"), strict=True):
    for width, shade in zip(widths, ("0.0", "0.3", "0.5", "0.7"), strict=True):
        outliers.plot(above[parameterization, width], style, color=shade, label=f"{label}, width {width:g}")
outliers.axhline(0, color="k", lw=0.8)
outliers.set(xlabel="step", ylabel="outlier above the bulk", ylim=(-0.02, 0.9))
for ax, columns in ((histogram, 1), (growth, 1), (outliers, 2)):
    ax.legend(frameon=False, fontsize=7, ncols=columns)
fig.savefig("bulk_and_outliers.png", dpi=150)
plt.show()
