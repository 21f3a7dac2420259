"""AllenSDK on numpy 2: the one place that mends what its last release asks for and numpy has moved.

AllenSDK 2.16.2 imports `numpy.VisibleDeprecationWarning`, which numpy 2 keeps in `numpy.exceptions` (AllenSDK#2744, AllenSDK#2754:
mended on its main branch, unreleased). Importing this module gives the name back to numpy as soon as somebody imports `allensdk`, and
does nothing otherwise. The installation imports it whenever Python starts (`brightfield_allensdk.pth`), so that notebooks need not know
of it; hence nothing but what Python has loaded by then is imported here.
"""

import sys


class _Mend:
    """A finder that finds no module: it is asked for `allensdk` before it is looked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002  (Python passes them)
        if fullname == "allensdk":
            import numpy as np

            np.VisibleDeprecationWarning = np.exceptions.VisibleDeprecationWarning  # type: ignore[attr-defined] # noqa: NPY201


if not any(type(finder).__name__ == _Mend.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Mend())
