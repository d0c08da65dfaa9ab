"""What holds for all tests: hypothesis sets no deadline for an example, since a first call compiles kernels."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gdmix", deadline=None)
settings.load_profile("gdmix")
