from ._adjoint_scan import ADJOINTS, adjoint_scan
from ._causal_scan import CAUSAL_ADJOINTS, causal_scan, causal_sweep
from ._coordinate_sweeps import Sweeps, coordinate_sweeps
from ._field_axis import AbstractFieldAxis, CoefficientAxis, SampleAxis
from ._linear_optimiser import descend, linear_optimiser
from ._march import MarchInputs, MarchOutputs, march
from ._minimise import Minimum, minimise, projected
from ._mode_bins import ModeBins, exact_bins, power_law_bins
from ._precision import HIGHEST, as_float, context, double, single, to_host
from ._second_moment import Drive, Moments, second_moment, stability_bound

__all__ = [
    "ADJOINTS",
    "CAUSAL_ADJOINTS",
    "HIGHEST",
    "AbstractFieldAxis",
    "CoefficientAxis",
    "Drive",
    "MarchInputs",
    "MarchOutputs",
    "Minimum",
    "ModeBins",
    "Moments",
    "SampleAxis",
    "Sweeps",
    "adjoint_scan",
    "as_float",
    "causal_scan",
    "causal_sweep",
    "context",
    "coordinate_sweeps",
    "descend",
    "double",
    "exact_bins",
    "linear_optimiser",
    "march",
    "minimise",
    "power_law_bins",
    "projected",
    "second_moment",
    "single",
    "stability_bound",
    "to_host",
]
