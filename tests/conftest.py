"""What holds for all tests: examples of hypothesis have no deadline of their own, for the first call compiles kernels."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gdmix", deadline=None)
settings.load_profile("gdmix")
