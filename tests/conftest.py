"""Every test runs with the shapes and types of the package's signatures checked at each call.

A wrong value in `problems`, or in the settings of `gallery`, is answered by a sentence of our own, which must come
first: these two stay unchecked.
"""

import jaxtyping

CHECKED = ["limitax.solvers", "limitax.nets", "limitax.limits", "limitax.studies"]

jaxtyping.install_import_hook(CHECKED, "beartype.beartype")
