from ._adjoint_scan import ADJOINTS, adjoint_scan
from ._coordinate_sweeps import Sweeps, coordinate_sweeps
from ._minimise import Minimum, minimise
from ._mode_bins import ModeBins, exact_bins, power_law_bins
from ._precision import HIGHEST, as_float, context, double, single, to_host
from ._second_moment import Drive, Moments, second_moment, stability_bound

__all__ = [
    "ADJOINTS",
    "HIGHEST",
    "Drive",
    "Minimum",
    "ModeBins",
    "Moments",
    "Sweeps",
    "adjoint_scan",
    "as_float",
    "context",
    "coordinate_sweeps",
    "double",
    "exact_bins",
    "minimise",
    "power_law_bins",
    "second_moment",
    "single",
    "stability_bound",
    "to_host",
]
