from ._precision import HIGHEST, as_float, context, double, single, to_host

__all__ = ["HIGHEST", "as_float", "context", "double", "single", "to_host"]
