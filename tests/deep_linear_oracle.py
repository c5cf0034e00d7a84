"""The matrix equations of the deep linear limit as they stand on paper: whole matrices, iterated to a fixed point.

The maps are nilpotent, so that (depth + 1) · time sweeps reach the fixed point to rounding, if nothing overflows on the
way. State is a dictionary of whole matrices: `C_k`, `R_k`, `C_g`, `R_g` by layer, `C_v`, `R_v`, `C_delta`, `R_delta`.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Problem:
    """`gamma` is the richness of the dynamics, `c` and `d` what training makes of forces and of the start."""

    lam: np.ndarray
    power: np.ndarray
    noise: float
    gamma: float
    nu: float
    alpha: float
    q: float
    q_readout: float
    c: np.ndarray
    depth: int
    fresh: bool = False
    d: np.ndarray | float = 1.0
    residual: bool = False

    @property
    def decayed(self):
        """What decay makes of a product of two random weights."""
        d = np.broadcast_to(self.d, len(self.c))
        return np.outer(d, d)


def start(p: Problem):
    T, layers = len(p.c), range(p.depth + 2)
    state = {name: [np.zeros((T, T)) for _ in layers] for name in ("C_k", "R_k", "C_g", "R_g")}
    state["C_g"][p.depth + 1] = np.ones((T, T))
    return state | {name: np.zeros((T, T)) for name in ("C_v", "R_v", "C_delta")} | {"R_delta": np.eye(T)}


def sweep(state, p: Problem):
    """One application of the map: the data from the layers, then the layers from the bottom up."""
    state = {name: list(value) if isinstance(value, list) else value for name, value in state.items()}
    _data(state, p)
    (_stream if p.residual else _chain)(state, p)
    return state


def fixed_point(p: Problem, sweeps=None):
    state = start(p)
    for _ in range(sweeps or (p.depth + 1) * len(p.c) + 5):
        state = sweep(state, p)
    return state


def _data(state, p):
    T, M = len(p.c), len(p.lam)
    one, ones, scale = np.eye(T), np.ones((T, T)), p.gamma * p.nu
    psi = p.nu * p.q * p.decayed * state["C_g"][1]
    B0 = p.nu * (p.q * p.decayed * state["R_g"][1] + p.gamma * p.c * state["C_g"][1])
    C_v, R_v, C_u, R_u = (np.zeros((T, T)) for _ in range(4))
    for lam, power in zip(p.lam, p.power, strict=True):
        inverse = np.linalg.inv(one + lam * B0 @ state["R_delta"] / scale)
        V = [inverse @ np.ones((T, 1)), -inverse / scale, -np.sqrt(lam) * inverse @ B0 / scale]
        U = [lam * state["R_delta"] @ v for v in V]
        U[2] = U[2] + np.sqrt(lam) * one
        sources = [power * np.ones((1, 1)), psi, state["C_delta"] / p.alpha]
        C_v += lam * sum(v @ s @ v.T for v, s in zip(V, sources, strict=True)) / M
        C_u += sum(u @ s @ u.T for u, s in zip(U, sources, strict=True)) / M
        R_v += np.sqrt(lam) * V[2] / (p.alpha * M)
        R_u += U[1] / M
    state["C_v"], state["C_k"][0], state["R_k"][0] = C_v, C_u, R_u
    if p.fresh:
        state["C_delta"] = np.diag(np.diag(C_v) + p.noise**2)
    else:
        R = state["R_delta"] = np.linalg.inv(one - R_v)
        state["R_v"], state["C_delta"] = R_v, R @ (C_v + p.noise**2 * ones) @ R.T


def _chain(state, p):
    C_k, R_k, C_g, R_g = (state[name] for name in ("C_k", "R_k", "C_g", "R_g"))
    one, D = np.eye(len(p.c)), p.decayed
    for l in range(1, p.depth + 1):
        above = p.q_readout if l == p.depth else p.q
        A = p.q * D * R_k[l - 1] + p.gamma * p.c * C_k[l - 1]
        B = above * D * R_g[l + 1] + p.gamma * p.c * C_g[l + 1]
        I_k, I_g = np.linalg.inv(one - A @ B), np.linalg.inv(one - B @ A)
        zeta, psi = p.q * D * C_k[l - 1], above * D * C_g[l + 1]
        C_k[l], C_g[l] = I_k @ (zeta + A @ psi @ A.T) @ I_k.T, I_g @ (psi + B @ zeta @ B.T) @ I_g.T
        R_k[l], R_g[l] = I_k @ A, I_g @ B


def _stream(state, p):
    """All fields of a neuron, k^1..k^L and g^1..g^L, in one linear system with sources zeta^1..zeta^L, psi^1..psi^L."""
    C_k, R_k, C_g, R_g = (state[name] for name in ("C_k", "R_k", "C_g", "R_g"))
    T, L, D = len(p.c), p.depth, p.decayed
    a = 1 / np.sqrt(max(L - 1, 1))
    k, g = (lambda l: slice((l - 1) * T, l * T)), (lambda l: slice((L + l - 1) * T, (L + l) * T))
    system, sources, covariance = np.eye(2 * L * T), np.zeros((2 * L * T,) * 2), np.zeros((2 * L * T,) * 2)
    for l in range(1, L + 1):
        first, last = l == 1, l == L
        branch = 1.0 if first else a  # of the weights below k^l
        system[k(l), g(l)] -= branch * (p.q * D * R_k[l - 1] + branch * p.gamma * p.c * C_k[l - 1])
        sources[k(l), k(l)], covariance[k(l), k(l)] = branch * np.eye(T), p.q * D * C_k[l - 1]
        if not first:
            system[k(l), k(l - 1)] -= np.eye(T)
        branch, above = (1.0, p.q_readout) if last else (a, p.q)  # of the weights above g^l
        system[g(l), k(l)] -= branch * (above * D * R_g[l + 1] + branch * p.gamma * p.c * C_g[l + 1])
        sources[g(l), g(l)], covariance[g(l), g(l)] = branch * np.eye(T), above * D * C_g[l + 1]
        if not last:
            system[g(l), g(l + 1)] -= np.eye(T)
    maps = np.linalg.solve(system, sources)
    C = maps @ covariance @ maps.T
    for l in range(1, L + 1):
        C_k[l], C_g[l] = C[k(l), k(l)], C[g(l), g(l)]
        R_k[l], R_g[l] = maps[k(l), g(l)], maps[g(l), k(l)]
