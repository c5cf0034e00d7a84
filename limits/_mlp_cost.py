"""What a march takes in memory and operations."""

from ..solvers import AbstractFieldAxis, MarchOptions, SampleAxis, device_count
from ._memory import Cost


def march_cost(
    task,
    steps: int,
    depth: int,
    room: int,
    axis: AbstractFieldAxis,
    options: MarchOptions,
    replicas: int,
    keep: str | None,
    precision: str,
) -> Cost:
    """Of all replicas, with `room` directions in a basis; see `Cost`.

    Of replicas on devices of their own each holds its own, one after the other; of particles on all devices, each
    holds a share.
    """
    P, T, hidden, slots = len(task.x), steps + 1, depth - 1, room + len(task.x)
    word, outputs = 8 if precision == "double" else 4, task.y.shape[1] if task.y.ndim == 2 else 1
    spread = device_count("samples") if isinstance(axis, SampleAxis) else 1
    alone = replicas % spread == 0
    held, size = (replicas // spread, axis.size) if alone else (replicas, -(-axis.size // spread))
    pairs = T * T * P * P if keep == "all" else T * P * P
    tests = len(task.x_test) if task.has_test else 0
    at_once = min(tests, options.test_batch or tests)
    columns = outputs if options.lazy else 1
    several = options.gradients and outputs > 1
    each = several and not options.lazy  # fields of every output are sent back beside those that train
    tangent = T * (P * outputs) ** 2 * (2.0 + each * (depth + 2) * held) if several else 0.0  # with its error
    buffers = (10 if options.feedback == "frozen" else 8) * hidden * slots
    fields = buffers + (8 + 2 * columns) * (P + at_once) * depth + 2 * T * P * options.fields
    fields += each * 8 * P * outputs
    needs = {
        "kernels": (2.0 * depth * (held + 1) * pairs + tangent) * word if keep else 0.0,
        "fields": float(fields * size * word),
        "trained weights": float(columns * hidden * T * slots**2 * word * (held + 2)) if options.weights else 0.0,
    }
    remedies = {
        "kernels": 'use fewer steps or data samples, or keep="diagonal"',
        "fields": "use fewer samples (particles), or more replicas",
        "trained weights": "use a smaller rank, or keep=None",
    }
    # Products of fields: a hidden weight meets 14 with the basis in training, and 4 of test points; 16 among samples.
    products = hidden * slots * (14 * P + 4 * tests) + depth * 16 * P**2
    products += each * P * outputs * (hidden * (4 * slots + 4 * P * (outputs + 1)) + P * outputs)
    recorded = 2 * (T * P) ** 2 * (axis.size + hidden * slots) if keep == "all" else 0
    flops = 2.0 * replicas * (T * products * axis.size + recorded)
    return Cost(needs, flops, remedies, f"steps={steps}, {P} data samples")
