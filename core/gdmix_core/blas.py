"""One BLAS thread everywhere: `solve`, `gemv` and X'WX change their last bits with the thread count.

Models are bit-identical on every machine of one numerics class only if the linear algebra libraries run on
one thread. Role mains call `pin_blas_threads` first thing, before numpy is imported; it is safe, and still
effective for the OpenBLAS that numpy and SciPy carry, when they are loaded already.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_THREAD_VARIABLES: Final = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
)
# The wheels of numpy and SciPy rename OpenBLAS's symbols, with a suffix when integers are 64-bit.
_SETTERS: Final = (
    "openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "scipy_openblas_set_num_threads64_",
)


def pin_blas_threads() -> None:
    """Pin BLAS to one thread: by environment for libraries yet to load, by a call for those loaded."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
    for path in loaded_blas_libraries():
        library = ctypes.CDLL(path)
        for name in _SETTERS:
            setter = getattr(library, name, None)
            if setter is not None:
                setter(ctypes.c_int(1))


def loaded_blas_libraries() -> list[str]:
    """Return the OpenBLAS libraries mapped into this process, sorted; empty where /proc is missing."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "openblas" in line.lower()}
    return sorted(path for path in paths if Path(path).is_file())
