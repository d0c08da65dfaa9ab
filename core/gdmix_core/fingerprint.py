"""What the last bits of a model depend on besides data and config: the numerics fingerprint.

Workers send it when they register; a job whose workers disagree is not reproducible. It is made without
importing numpy, SciPy or numba: versions come from the installed packages' metadata, the processor's class
from the system.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import Final

CPU_TARGET_VARIABLE: Final = "GDMIX_CPU_TARGET"
_PACKAGES: Final = ("gdmix", "numpy", "scipy", "numba", "llvmlite")

# Micro-architecture levels of the x86-64 psABI, highest first; names as /proc/cpuinfo spells them.
_X86_LEVELS: Final = (
    ("x86-64-v4", frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})),
    ("x86-64-v3", frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"})),
    ("x86-64-v2", frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})),
)


@functools.cache
def _fingerprint() -> tuple[tuple[str, str], ...]:
    entries = {name: _version(name) for name in _PACKAGES}
    libc, libc_version = platform.libc_ver()
    entries["libc"] = f"{libc} {libc_version}".strip() or "unknown"
    entries["machine"] = platform.machine()
    entries["cpu_target"] = os.environ.get(CPU_TARGET_VARIABLE) or _host_cpu()
    # OpenBLAS and libm choose their code by the processor, whatever our own kernels are pinned to.
    entries["blas_core"] = os.environ.get("OPENBLAS_CORETYPE") or _host_cpu()
    entries["libm_dispatch"] = _cpu_level()
    return tuple(sorted(entries.items()))


def numerics_fingerprint() -> dict[str, str]:
    """Return the fingerprint: package versions, libc, processor class or pinned target, BLAS core."""
    return dict(_fingerprint())


@functools.cache
def numerics_digest() -> str:
    """Return the fingerprint's digest (16 hexadecimal digits): equal digests promise equal bytes."""
    text = "\n".join(f"{name}={value}" for name, value in _fingerprint())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def _cpu_info() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo; empty on systems without it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = text.split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _cpu_level() -> str:
    flags = frozenset(_cpu_info().get("flags", "").split())
    return next((name for name, needed in _X86_LEVELS if needed <= flags), platform.machine() or "unknown")


def _host_cpu() -> str:
    """Name the processor's class: vendor, family, model (by which OpenBLAS chooses) and feature level."""
    info = _cpu_info()
    parts = [info.get(key, "") for key in ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")]
    return "-".join([part for part in parts if part] + [_cpu_level()])
