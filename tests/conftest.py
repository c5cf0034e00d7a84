"""Every test runs with the shapes in the signatures of `solvers` checked at each call.

Elsewhere a wrong value is answered by a sentence of our own, which must come first.
"""

import sys

import jaxtyping

jaxtyping.install_import_hook("limitax.solvers", "beartype.beartype")
# In a clone that is called limitax, pytest has imported the package already, unchecked, as the parent of this file.
for name in list(sys.modules):
    if name.startswith("limitax") and not name.startswith("limitax.tests"):
        del sys.modules[name]
