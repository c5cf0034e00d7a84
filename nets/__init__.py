"""Finite networks: Equinox modules with trained `weights` and a frozen `design`, and the loop that trains them."""

from . import rules
from ._base import AbstractNet, Ensemble, trainable
from ._deep_linear import DeepLinear
from ._diagonal_linear import DiagonalLinear
from ._extensive_outputs import ExtensiveOutputs
from ._flax import flax_optimiser, from_flax, to_flax
from ._learned_features import LearnedFeatures
from ._linear_model import LinearModel
from ._linear_rnn import LinearRNN
from ._mlp import MLP
from ._mlp_fields import PREACTIVATION_EDGES
from ._quadratic_network import QuadraticNetwork
from ._random_features import RandomFeatures
from ._small_initialization import SmallInitialization
from ._train import train

__all__ = [
    "MLP",
    "PREACTIVATION_EDGES",
    "AbstractNet",
    "DeepLinear",
    "DiagonalLinear",
    "Ensemble",
    "ExtensiveOutputs",
    "LearnedFeatures",
    "LinearModel",
    "LinearRNN",
    "QuadraticNetwork",
    "RandomFeatures",
    "SmallInitialization",
    "flax_optimiser",
    "from_flax",
    "rules",
    "to_flax",
    "train",
    "trainable",
]
