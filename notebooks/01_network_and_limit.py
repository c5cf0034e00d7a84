# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A network and its limit
#
# A tanh network is trained on eight samples. Finite networks of growing width fall onto the infinite one, and the
# infinite one learns features: its kernel turns towards the target, which the lazy limit's kernel cannot do.
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

# %% [markdown]
# ## The problem
#
# Inputs on a sphere, a linear target, full-batch gradient descent. The richness says how far features move.

# %%
task = lx.tasks.sphere(key, samples=8, dim=5, test_samples=32)
protocol = lx.GradientDescent(learning_rate=0.3, steps=30)
rich = lx.limits.MLP(depth=2, activation="tanh", richness=2.0)
lazy = lx.limits.MLP(depth=2, activation="tanh", richness=0.0)

# %% [markdown]
# ## Theory beside networks
#
# `agreement` is in standard errors, at most 3; `rate` is the slope of single runs in width, expected -1/2.

# %%
samples = 200_000 if full else 20_000
sizes = (64, 128, 256, 512) if full else (32, 64, 128)
report = lx.compare(rich, task, protocol, sizes=sizes, seeds=48 if full else 16, key=key, samples=samples)
print({name: round(value, 2) for name, value in report.agreement.items()})
print({name: round(value, 2) for name, value in report.rate.items()})

# %% [markdown]
# ## Features
#
# The alignment of the last layer's kernel with the target, $y^\top\Phi y / (|\Phi|\,|y|^2)$, along training.


# %%
def alignment(trajectory):
    kernel = np.einsum("ttmn->tmn", np.asarray(trajectory.kernels["Phi", 2]))
    overlap = np.einsum("m,tmn,n->t", task.y, kernel, task.y)
    return overlap / (np.linalg.norm(kernel, axis=(1, 2)) * np.sum(task.y**2))


static = lazy.solve(task, protocol, key=key, samples=samples)
fig = plt.figure(figsize=(8, 3.2), layout="constrained")
left, right = fig.subplots(1, 2)
for trajectory, style, label in ((report.theory, "-", "richness 2"), (static, "--", "lazy")):
    left.semilogy(trajectory.test_loss, "k" + style, label=label)
    right.plot(alignment(trajectory), "k" + style, label=label)
left.set(xlabel="step", ylabel="test loss")
right.set(xlabel="step", ylabel="alignment of the last kernel with the target")
left.legend()
fig.savefig("network_and_limit.png", dpi=150)
plt.show()
