# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A thousand limits at once
#
# A theory that takes milliseconds invites questions that take thousands of solutions. `lx.sweep` solves grids of them:
# points that differ in numbers go through one compiled program, many at a time, on all devices of `lx.devices`, and
# what is done is saved, so that a sweep that was killed goes on where it stopped.
#
# Here four devices are imitated on the processor. On a machine with accelerators, leave that line out.

# %%
import os
import tempfile
import time
from pathlib import Path

import jax
import limitax as lx
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_num_cpu_devices", 4)
full = os.environ.get("FULL") == "1"
plt.rcParams.update({"figure.dpi": 150, "font.size": 8, "legend.frameon": False})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## When is a wide network worth it?
#
# Deep linear networks in the proportional limit: width $N = \nu D$, samples $P = \alpha D$, label noise. Every point of
# richness × width × learning rate is an exact learning curve. The question: which rate is best at each width, and
# does it transfer?

# %%
limit = lx.limits.DeepLinear(depth=1, richness=2.0, init_scale=0.7)
task = lx.tasks.isotropic(sample_ratio=2.0, noise=0.3)
protocol = lx.GradientDescent(learning_rate=0.05, steps=48 if full else 24)
grid = {
    "richness": np.geomspace(0.5, 4, 8 if full else 5),
    "width_ratio": np.geomspace(0.5, 16, 12 if full else 6),
    "learning_rate": np.geomspace(0.01, 1.0, 48 if full else 34),
}
points = int(np.prod([len(values) for values in grid.values()]))

with tempfile.TemporaryDirectory() as folder, lx.devices(axis="sweep"):
    start = time.perf_counter()
    curves = lx.sweep(limit, task, protocol, grid, out=folder)
    first = time.perf_counter() - start
    start = time.perf_counter()
    again = lx.sweep(limit, task, protocol, grid, out=folder)
    second = time.perf_counter() - start
    saved = sorted(path.name for path in Path(folder).iterdir())
print(f"{points} limits on {len(jax.devices())} devices in {first:.1f} s, compilation included")
print(f"the same call again: {second:.1f} s, all read from {', '.join(saved)}")
np.testing.assert_array_equal(curves.test_loss, again.test_loss)

# %% [markdown]
# ## One dataset
#
# The result is an `xarray.Dataset` with the grid as its dimensions. Points past the edge of stability diverge and say
# so, without stopping the others.

# %%
print(dict(curves.sizes))
share = float((curves.status == "diverged").mean())
print(f"{share:.0%} of the points diverge")
final = curves.test_loss.isel(time=-1).where(curves.status == "converged")
best_rate = final.fillna(np.inf).idxmin("learning_rate")
drift = np.log(best_rate.sel(width_ratio=slice(2, None))).max("width_ratio")
drift = drift - np.log(best_rate.sel(width_ratio=slice(2, None))).min("width_ratio")
print("factor by which the best rate moves between widths 2 D and 16 D, by richness:")
print(", ".join(f"{float(r):.2g}: {float(np.exp(d)):.2f}" for r, d in zip(curves.richness, drift, strict=True)))

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.6), layout="constrained")
middle = len(grid["richness"]) // 2
colours = plt.cm.viridis(np.linspace(0, 0.85, len(grid["width_ratio"])))
styles = ("-", "--", "-.", ":") * 3
for index, (width, colour) in enumerate(zip(grid["width_ratio"], colours, strict=True)):
    curve = final.isel(richness=middle, width_ratio=index)
    axes[0].plot(curve.learning_rate, curve, styles[index], color=colour, lw=1.2, label=f"N = {width:.2g} D")
axes[0].set(xscale="log", yscale="log", xlabel="learning rate", ylabel="test loss (half mean square)")
axes[0].set_title(f"richness {grid['richness'][middle]:.2g}")
axes[0].legend(fontsize=6)
shown = axes[1].pcolormesh(
    grid["width_ratio"], grid["richness"], np.log10(final.min("learning_rate")), cmap="gray", shading="nearest"
)
axes[1].set(xscale="log", yscale="log", xlabel="width over input dimension", ylabel="richness")
axes[1].set_title("log$_{10}$ test loss, best rate")
figure.colorbar(shown, ax=axes[1])
for index, richness in enumerate(grid["richness"]):
    axes[2].plot(
        grid["width_ratio"], best_rate.isel(richness=index), "osD^vP*X"[index] + "-", ms=3.5, lw=1,
        color=plt.cm.viridis(0.85 * index / (len(grid["richness"]) - 1)), label=f"richness {richness:.2g}",
    )  # fmt: skip
axes[2].set(xscale="log", yscale="log", xlabel="width over input dimension", ylabel="best learning rate")
axes[2].set_title("best rates settle as width grows")
axes[2].set(ylim=(0.03, 0.6))
axes[2].legend(fontsize=6, ncols=2, loc="lower left")
figure.savefig("many_limits.png")
plt.show()
