from ..solvers import LazyKernels
from ._base import AbstractLimit, of
from ._deep_linear import DeepLinear
from ._diagonal_linear import DiagonalLinear
from ._extensive_outputs import ExtensiveOutputs
from ._fluctuation_record import Fluctuations
from ._fluctuations import fluctuations
from ._learned_features import LearnedFeatures
from ._linear_model import LinearModel
from ._linear_rnn import LinearRNN
from ._memory import Cost
from ._mlp import MLP
from ._quadratic_network import QuadraticNetwork
from ._random_features import RandomFeatures
from ._sharpness import Sharpness, sharpness
from ._small_initialization import SmallInitialization
from ._spectrum import Spectrum, spectrum

__all__ = [
    "MLP",
    "AbstractLimit",
    "Cost",
    "DeepLinear",
    "DiagonalLinear",
    "ExtensiveOutputs",
    "Fluctuations",
    "LazyKernels",
    "LearnedFeatures",
    "LinearModel",
    "LinearRNN",
    "QuadraticNetwork",
    "RandomFeatures",
    "Sharpness",
    "SmallInitialization",
    "Spectrum",
    "fluctuations",
    "of",
    "sharpness",
    "spectrum",
]
