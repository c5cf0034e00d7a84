from ._adjoint_scan import ADJOINTS, adjoint_scan
from ._alternating_flow import Jumps, alternating_flow, diagonal_coefficients, diagonal_flow
from ._balanced_flow import balanced_flow, integrate, logistic_growth, two_layer_flow
from ._causal_scan import CAUSAL_ADJOINTS, causal_scan, causal_sweep
from ._coordinate_sweeps import Sweeps, coordinate_sweeps
from ._curvature import Curvature, top_curvature
from ._deep_linear import DeepLinearHistory, DeepLinearInputs, deep_linear, symmetric
from ._deep_residual import ResidualHistory, deep_residual
from ._field_axis import AbstractFieldAxis, CoefficientAxis, SampleAxis
from ._impulse_response import UNRESOLVED, arnoldi, fit_impulse_response, laguerre_terms, two_largest_eigenvalues
from ._linear_optimiser import descend, linear_optimiser
from ._march import MarchInputs, MarchOutputs, march
from ._minimise import Minimum, minimise, projected
from ._mode_bins import ModeBins, exact_bins, power_law_bins
from ._precision import HIGHEST, as_float, context, double, in_precision, single, to_host
from ._reverse_scan import reverse_scan
from ._sample_covariance import marchenko_pastur_nodes, sample_covariance_density, sample_covariance_edge
from ._second_moment import Drive, second_moment, stability_bound
from ._spiked_matrix import (
    Outliers,
    SpikedMatrix,
    bulk_density,
    bulk_edge,
    orthonormal_basis,
    outliers,
    overlap_matrix,
    singular_value,
)

__all__ = [
    "ADJOINTS",
    "CAUSAL_ADJOINTS",
    "HIGHEST",
    "UNRESOLVED",
    "AbstractFieldAxis",
    "CoefficientAxis",
    "Curvature",
    "DeepLinearHistory",
    "DeepLinearInputs",
    "Drive",
    "Jumps",
    "MarchInputs",
    "MarchOutputs",
    "Minimum",
    "ModeBins",
    "Outliers",
    "ResidualHistory",
    "SampleAxis",
    "SpikedMatrix",
    "Sweeps",
    "adjoint_scan",
    "alternating_flow",
    "arnoldi",
    "as_float",
    "balanced_flow",
    "bulk_density",
    "bulk_edge",
    "causal_scan",
    "causal_sweep",
    "context",
    "coordinate_sweeps",
    "deep_linear",
    "deep_residual",
    "descend",
    "diagonal_coefficients",
    "diagonal_flow",
    "double",
    "exact_bins",
    "fit_impulse_response",
    "in_precision",
    "integrate",
    "laguerre_terms",
    "linear_optimiser",
    "logistic_growth",
    "march",
    "marchenko_pastur_nodes",
    "minimise",
    "orthonormal_basis",
    "outliers",
    "overlap_matrix",
    "power_law_bins",
    "projected",
    "reverse_scan",
    "sample_covariance_density",
    "sample_covariance_edge",
    "second_moment",
    "single",
    "singular_value",
    "stability_bound",
    "symmetric",
    "to_host",
    "top_curvature",
    "two_largest_eigenvalues",
    "two_layer_flow",
]
