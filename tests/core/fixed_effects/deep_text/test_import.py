"""What importing the plug-in costs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("tensorflow", "keras", "pyarrow.dataset", "numba", "polars")


def test_importing_it_imports_no_heavy_library() -> None:
    code = (
        "import sys; from gdmix_core.fixed_effects.deep_text import DeepText, DeepTextOptions; "
        "DeepText().columns(DeepTextOptions(text=['title'])); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
