r"""Kernels of infinitely wide ReLU networks at initialisation, in closed form."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def relu_tangent_kernel(
    x: Float[ndarray, "samples dim"], z: Float[ndarray, "others dim"], depth: int
) -> Float[ndarray, "samples others"]:
    r"""The tangent kernel of a perceptron with `depth` hidden layers of $\max(h, 0)$, standard normal weights and no
    biases, at infinite width.

    With $\Phi^0 = xz^T/D$ and $\theta$ the angle that belongs to $\Phi^l$,

    $$\Phi^{l+1} = \frac{|\Phi^l_x|^{1/2}|\Phi^l_z|^{1/2}}{2\pi}\big(\sin\theta + (\pi-\theta)\cos\theta\big), \quad
      K^{l+1} = \Phi^{l+1} + K^l\,\frac{\pi-\theta}{2\pi}, \quad K^0 = \Phi^0.$$

    ??? cite "Source"
        Kernel Methods for Deep Learning, NIPS 2009; Neural Tangent Kernel: Convergence and Generalization in Neural
        Networks, arXiv 1806.07572.
    """
    dim = x.shape[1]
    length_x, length_z = np.sum(x**2, 1) / dim, np.sum(z**2, 1) / dim
    signal = x @ z.T / dim
    tangent = signal
    for _ in range(depth):
        scale = np.sqrt(length_x[:, None] * length_z)
        cosine = np.clip(np.divide(signal, scale, out=np.zeros_like(signal), where=scale > 0), -1, 1)
        angle = np.arccos(cosine)
        signal = scale * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)
        tangent = signal + tangent * (np.pi - angle) / (2 * np.pi)
        length_x, length_z = length_x / 2, length_z / 2
    return tangent
