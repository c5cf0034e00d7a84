"""The one number that most questions about training end in, as a differentiable function."""

from ..problems import objectives


def final_loss(limit, task, protocol, **options):
    """Loss after the last update according to the theory: test loss if the task has a test side, else training loss.

    Differentiable with respect to every continuous number of `limit`, `task` and `protocol`; `options` (such as
    `key`, `samples`) go to `limit.solve`. Outside of transformations divergence raises; inside the loss is whatever
    it became.

    !!! example

        ```python
        loss = lambda rate: lx.final_loss(limit, task, lx.OnlineSGD(learning_rate=rate, batch_size=1, steps=1000))
        jax.grad(loss)(0.05)
        ```
    """
    return objectives.final_loss(limit.solve(task, protocol, **options))
