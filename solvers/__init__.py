from ._adjoint_scan import ADJOINTS, adjoint_scan
from ._alignment import centred_alignment, kernel_alignment
from ._alternating_flow import Jumps, alternating_flow, diagonal_coefficients, diagonal_flow
from ._averaged_moment import AveragedMoment, averaged_moment
from ._balanced_flow import balanced_flow, integrate, logistic_growth, two_layer_flow
from ._block_sweeps import BlockSweeps, Freedom, block_sweeps
from ._causal_scan import CAUSAL_ADJOINTS, causal_scan
from ._causal_sweep import causal_sweep
from ._checkpoints import Checkpoints, as_jax, from_leaves, one_run_in, resumable, to_leaves
from ._contour import (
    ComplexModes,
    Contour,
    OnePointLoss,
    TwoPointLoss,
    complex_modes,
    contour_nodes,
    log_graded_contour,
    one_point_loss,
    one_point_losses,
    two_point_loss,
    two_point_losses,
    two_point_tables,
)
from ._coordinate_sweeps import Sweeps, coordinate_sweeps
from ._curvature import Curvature, top_curvature
from ._deep_linear import DeepLinearHistory, DeepLinearInputs, deep_linear, symmetric
from ._deep_residual import ResidualHistory, deep_residual
from ._deterministic_equivalent import (
    StationaryLoss,
    degrees_of_freedom,
    ridgeless_scale,
    sample_factor,
    self_consistent_scale,
    spectral_edge,
    stationary_loss,
    two_point_risk,
    unlearned_power,
)
from ._devices import device_count, devices, gather, shard, spread_map
from ._feature_dynamics import FeatureDynamics, FeatureResponses, feature_dynamics, feature_responses
from ._field_axis import AbstractFieldAxis, CoefficientAxis, SampleAxis
from ._gaussian_averages import PairAverages, has_closed_form, pair_averages
from ._hidden_layer import HiddenLayer, Units, gaussian_grid, initial_units, mean_predictions
from ._impulse_response import UNRESOLVED, arnoldi, fit_impulse_response, laguerre_terms, two_largest_eigenvalues
from ._lazy_kernels import LazyKernels, lazy_kernels
from ._learned_features import FeatureLearning, learned_features
from ._linear_action import LinearFluctuations, LinearNetwork, from_lower, linear_fluctuations, linear_parameter_count
from ._linear_optimiser import descend, linear_optimiser
from ._march import MarchInputs, MarchOutputs, march
from ._march_step import MarchOptions
from ._minimise import Minimum, minimise, minimise_in_pieces, projected
from ._mode_bins import ModeBins, exact_bins, power_law_bins
from ._past import Past
from ._power_sums import power_sum
from ._precision import HIGHEST, as_float, context, double, in_precision, single, to_host, without_derivative
from ._processes import first_line, in_child, join_processes
from ._progress import counting, show_progress, track, working
from ._quadratic_moments import (
    DescentDrive,
    UnitMoments,
    quadratic_kernel,
    quadratic_moments,
    quadratic_output,
)
from ._reverse_scan import reverse_scan
from ._sample_covariance import marchenko_pastur_nodes, sample_covariance_density, sample_covariance_edge
from ._sample_moments import SampleDrive, Samples, sample_moments
from ._second_moment import Drive, NormalisedMoment, normalised_second_moment, second_moment, stability_bound
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
from ._width_expansion import WidthExpansion, width_expansion

__all__ = [
    "ADJOINTS",
    "CAUSAL_ADJOINTS",
    "HIGHEST",
    "UNRESOLVED",
    "AbstractFieldAxis",
    "AveragedMoment",
    "BlockSweeps",
    "Checkpoints",
    "CoefficientAxis",
    "ComplexModes",
    "Contour",
    "Curvature",
    "DeepLinearHistory",
    "DeepLinearInputs",
    "DescentDrive",
    "Drive",
    "FeatureDynamics",
    "FeatureLearning",
    "FeatureResponses",
    "Freedom",
    "HiddenLayer",
    "Jumps",
    "LazyKernels",
    "LinearFluctuations",
    "LinearNetwork",
    "MarchInputs",
    "MarchOptions",
    "MarchOutputs",
    "Minimum",
    "ModeBins",
    "NormalisedMoment",
    "OnePointLoss",
    "Outliers",
    "PairAverages",
    "Past",
    "ResidualHistory",
    "SampleAxis",
    "SampleDrive",
    "Samples",
    "SpikedMatrix",
    "StationaryLoss",
    "Sweeps",
    "TwoPointLoss",
    "UnitMoments",
    "Units",
    "WidthExpansion",
    "adjoint_scan",
    "alternating_flow",
    "arnoldi",
    "as_float",
    "as_jax",
    "averaged_moment",
    "balanced_flow",
    "block_sweeps",
    "bulk_density",
    "bulk_edge",
    "causal_scan",
    "causal_sweep",
    "centred_alignment",
    "complex_modes",
    "context",
    "contour_nodes",
    "coordinate_sweeps",
    "counting",
    "deep_linear",
    "deep_residual",
    "degrees_of_freedom",
    "descend",
    "device_count",
    "devices",
    "diagonal_coefficients",
    "diagonal_flow",
    "double",
    "exact_bins",
    "feature_dynamics",
    "feature_responses",
    "first_line",
    "fit_impulse_response",
    "from_leaves",
    "from_lower",
    "gather",
    "gaussian_grid",
    "has_closed_form",
    "in_child",
    "in_precision",
    "initial_units",
    "integrate",
    "join_processes",
    "kernel_alignment",
    "laguerre_terms",
    "lazy_kernels",
    "learned_features",
    "linear_fluctuations",
    "linear_optimiser",
    "linear_parameter_count",
    "log_graded_contour",
    "logistic_growth",
    "march",
    "marchenko_pastur_nodes",
    "mean_predictions",
    "minimise",
    "minimise_in_pieces",
    "normalised_second_moment",
    "one_point_loss",
    "one_point_losses",
    "one_run_in",
    "orthonormal_basis",
    "outliers",
    "overlap_matrix",
    "pair_averages",
    "power_law_bins",
    "power_sum",
    "projected",
    "quadratic_kernel",
    "quadratic_moments",
    "quadratic_output",
    "resumable",
    "reverse_scan",
    "ridgeless_scale",
    "sample_covariance_density",
    "sample_covariance_edge",
    "sample_factor",
    "sample_moments",
    "second_moment",
    "self_consistent_scale",
    "shard",
    "show_progress",
    "single",
    "singular_value",
    "spectral_edge",
    "spread_map",
    "stability_bound",
    "stationary_loss",
    "symmetric",
    "to_host",
    "to_leaves",
    "top_curvature",
    "track",
    "two_largest_eigenvalues",
    "two_layer_flow",
    "two_point_loss",
    "two_point_losses",
    "two_point_risk",
    "two_point_tables",
    "unlearned_power",
    "width_expansion",
    "without_derivative",
    "working",
]
