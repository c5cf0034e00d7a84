# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # The best schedule, from theory to a training run
#
# A deep linear network that learns features is trained on fresh batches. Its limit is differentiated with respect to
# the learning rate of every step; the schedule that comes out is then given to finite networks, beside the usual
# schedules with their best peaks.
#
# Run it as a script, or open it as a notebook with jupytext. `FULL=1` takes larger networks and more of them.

# %%
import os

import limitax as lx
import matplotlib.pyplot as plt
import numpy as np

full = os.environ.get("FULL") == "1"

# %% [markdown]
# ## Forty rates, one gradient
#
# Networks as wide as their input, and as many fresh samples at every step. The search begins at linear decay.

# %%
limit = lx.limits.DeepLinear(depth=1, width_ratio=1.0, richness=4.0, init_scale=0.5)
task = lx.tasks.isotropic(noise=0.3)
start = lx.OnlineSGD(lx.schedules.linear(0.05, 40), batch_ratio=1.0)
best = lx.optimise(limit, task, start, over="learning_rate", method="lbfgs", tolerance=1e-6, benchmarks=True)
print(f"{best.evaluations} evaluations, stationarity {best.stationarity:.1e}, loss {best.value:.6f}")
for name, value in best.certificates["benchmarks"].items():
    print(f"{name}, with its best peak: {value:.6f}, {value / best.value - 1:.0%} above")

# %% [markdown]
# ## What it looks like, and why
#
# A kick, a short plateau, then a decay as one over time. The kick pulls an outlier out of the bulk of the first weights
# in a single step, and what follows averages the noise of the batches. The kick stays below the edge of stability.

# %%
linear = best.benchmarks["linear"]
spectra = {}
for name, protocol in {"optimal": best.protocol, "linear": linear}.items():
    spectra[name] = lx.spectrum(limit, limit.solve(task, protocol), layer=0)
    edge = lx.sharpness(limit, task, protocol).stability
    print(f"{name}: outlier escapes at step {spectra[name].escape_step}, largest rate over the edge {np.max(edge):.2f}")

# %% [markdown]
# ## Finite networks
#
# Every network is trained by both schedules from the same weights on the same samples; the difference is taken pair by
# pair. Were the optimum a trick of the theory, this is where it would show.

# %%
size, seeds = (400, 16) if full else (100, 16)
proof = lx.verify(best, against={"linear": linear}, size=size, seeds=seeds)
theory = best.value / proof.expected["linear"] - 1
difference, error = proof.relative_difference["linear"], proof.relative_error["linear"]
print(f"against linear decay: {theory:.1%} in theory, {difference:.1%} ± {error:.1%} in {seeds} pairs of networks")
print(f"diverged: {proof.diverged}")

# %% [markdown]
# ## For any training script
#
# The schedule as a file of plain numbers, and the picture.

# %%
lx.schedules.save(best.protocol, "best_schedule.json")
fig = plt.figure(figsize=(11, 3.2), layout="constrained")
rates, weights, losses = fig.subplots(1, 3)
for (name, protocol), style in zip({"optimal": best.protocol, "linear": linear}.items(), ("k-", "k--"), strict=True):
    rates.semilogy(protocol.learning_rate, style, label=name)
    weights.plot(spectra[name].largest, style, label=name)
    losses.semilogy(limit.solve(task, protocol).test_loss, style, label=f"{name}, theory")
weights.fill_between(np.arange(41), 0, spectra["optimal"].bulk_edge, color="0.9", label="bulk")
for name, marker in (("best", "o"), ("linear", "s")):
    mean = np.mean(proof.runs[name].test_loss, axis=0)
    label = {"best": "optimal"}.get(name, name)
    losses.semilogy(np.arange(41)[::4], mean[::4], marker, color="0.5", ms=4, label=f"{label}, networks of size {size}")
rates.set(xlabel="step", ylabel="learning rate")
weights.set(xlabel="step", ylabel="largest singular value", ylim=(0, None))
losses.set(xlabel="step", ylabel="test loss")
for ax in (rates, weights, losses):
    ax.legend(frameon=False, fontsize=8)
fig.savefig("best_schedule.png", dpi=150)
plt.show()
