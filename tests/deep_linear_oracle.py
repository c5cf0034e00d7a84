"""The matrix equations of the deep linear limit as they stand on paper: whole matrices, iterated to a fixed point."""

import numpy as np


def fixed_point(lam, power, noise, gamma, nu, alpha, q, q_readout, c, depth, fresh=False, sweeps=None):
    """`gamma` is the richness of the dynamics, `c` `[time, time]` the optimiser; returns a dictionary of matrices.

    The map is nilpotent, so `time` sweeps reach the fixed point to rounding, if nothing overflows on the way.
    """
    T, M = len(c), len(lam)
    one, ones = np.eye(T), np.ones((T, T))
    C_k, R_k = [np.zeros((T, T)) for _ in range(depth + 1)], [np.zeros((T, T)) for _ in range(depth + 1)]
    C_g = [np.zeros((T, T)) for _ in range(depth + 2)]
    R_g = [np.zeros((T, T)) for _ in range(depth + 2)]
    C_g[depth + 1] = ones
    C_v, C_delta = np.zeros((T, T)), np.zeros((T, T))
    R_delta, R_v = one.copy(), np.zeros((T, T))
    qs = [q] * depth + [q_readout]  # of the weights above layer l
    for _ in range(sweeps or 2 * T + 5):
        B0 = nu * (q * R_g[1] + gamma * c * C_g[1])
        C_v, R_v, C_u, R_u = (np.zeros((T, T)) for _ in range(4))
        for k in range(M):
            inverse = np.linalg.inv(one + lam[k] * B0 @ R_delta / (gamma * nu))
            V = [inverse @ np.ones((T, 1)), -inverse / (gamma * nu), -np.sqrt(lam[k]) * inverse @ B0 / (gamma * nu)]
            U = [lam[k] * R_delta @ v for v in V]
            U[2] = U[2] + np.sqrt(lam[k]) * one
            sources = [power[k] * np.ones((1, 1)), nu * q * C_g[1], C_delta / alpha]
            C_v += lam[k] * sum(v @ s @ v.T for v, s in zip(V, sources, strict=True)) / M
            C_u += sum(u @ s @ u.T for u, s in zip(U, sources, strict=True)) / M
            R_v += np.sqrt(lam[k]) * V[2] / (alpha * M)
            R_u += U[1] / M
        if fresh:
            R_delta, C_delta = one, np.diag(np.diag(C_v) + noise**2)
        else:
            R_delta = np.linalg.inv(one - R_v)
            C_delta = R_delta @ (C_v + noise**2 * ones) @ R_delta.T
        C_k[0], R_k[0] = C_u, R_u
        for l in range(1, depth + 1):
            A = q * R_k[l - 1] + gamma * c * C_k[l - 1]
            B = qs[l] * R_g[l + 1] + gamma * c * C_g[l + 1]
            I_k, I_g = np.linalg.inv(one - A @ B), np.linalg.inv(one - B @ A)
            zeta, psi = q * C_k[l - 1], qs[l] * C_g[l + 1]
            C_k[l], C_g[l] = I_k @ (zeta + A @ psi @ A.T) @ I_k.T, I_g @ (psi + B @ zeta @ B.T) @ I_g.T
            R_k[l], R_g[l] = I_k @ A, I_g @ B
    return {"C_k": C_k, "C_g": C_g, "R_k": R_k, "R_g": R_g, "C_v": C_v, "C_delta": C_delta, "R_delta": R_delta}
