"""Several processes that are one job, by JAX's own runtime."""

import jax


def join_processes(timeout: int = 100) -> int:
    """Joins the other processes of this job, before anything else is computed; returns the number of this one.

    Who they are is read from the environment in which SLURM, Open MPI, Kubernetes or a TPU slice starts them
    (`jax.distributed.initialize`). From then on `devices` spans the devices of all.

    **Arguments:**

    - `timeout`: seconds to wait for the others at the start, and after which one that is silent counts as dead.

    **Raises:** `ValueError` where there is no such environment, or something was computed before; `TimeoutError` if
    the others do not come.
    """
    try:
        jax.distributed.initialize(
            initialization_timeout=timeout, heartbeat_timeout_seconds=timeout, shutdown_timeout_seconds=timeout
        )
    except ValueError as error:
        raise ValueError(
            "several processes need an environment that says who they are: that of srun (SLURM), mpirun (Open MPI), "
            f"Kubernetes or a TPU slice; none was detected ({str(error).rstrip('.')})."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"the other processes did not come within {timeout} s: {first_line(error)}") from error
    except RuntimeError as error:
        raise ValueError(f"this process cannot join the others of its job: {error}") from error
    return jax.process_index()


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]
