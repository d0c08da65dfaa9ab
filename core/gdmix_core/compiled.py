"""The one way to compile a kernel: a typed wrapper of `numba.njit`, its cache on disk, and its warming up.

    @compiled(fastmath=True)
    def row_sums(indptr: Int64Array, values: Float64Array, out: Float64Array) -> None: ...

    register_warm_up("row sums", lambda: row_sums(np.array([0, 1]), np.ones(1), np.empty(1)))

Importing this module is cheap; numba (0.35 s) is imported by the first module that defines a kernel. Kernels
release the GIL, divide like IEEE 754 (`error_model="numpy"`) and may reassociate sums where they ask for it,
but never assume away NaN or infinity.

Cache: `$GDMIX_CACHE_DIR`, else the user's cache directory (`$XDG_CACHE_HOME/gdmix` or `~/.cache/gdmix`, mode
0700), else a private temporary directory with one warning. site-packages may be read-only. numba notices a
change of the file that defines a kernel, not of the files whose kernels and constants it uses: those go into
the directory's name.

`$GDMIX_CPU_TARGET` (say `x86-64-v3`) makes every machine of a mixed cluster run the same instructions.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

from gdmix_core.blas import pin_blas_threads
from gdmix_core.errors import InternalError
from gdmix_core.fingerprint import CPU_TARGET_VARIABLE, numerics_digest

__all__ = [
    "WarmUpReport",
    "cache_directory",
    "compiled",
    "kernel_input",
    "kernel_modules",
    "pin_blas_threads",
    "register_warm_up",
    "warm_up",
]

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

P = ParamSpec("P")
R = TypeVar("R")
Scalar = TypeVar("Scalar", bound="np.generic")

CACHE_VARIABLE: Final = "GDMIX_CACHE_DIR"
FAST_MATH: Final = frozenset({"contract", "reassoc", "nsz", "arcp"})
"""Everything a kernel may ask for: sums may be reordered at compile time, a NaN stays visible."""

_warm_ups: dict[str, Callable[[], object]] = {}


# ----------------------------------------------------------------------------- compiling


@overload
def compiled(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def compiled(
    *, fastmath: bool | frozenset[str] = False, inline: bool = False, cache: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def compiled(
    function: Callable[P, R] | None = None,
    /,
    *,
    fastmath: bool | frozenset[str] = False,
    inline: bool = False,
    cache: bool = True,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function of arrays and numbers to machine code at its first call, releasing the GIL.

    Args:
        function: the function, when used as a plain decorator.
        fastmath: allow `FAST_MATH` (reordering of sums, fused multiply-add) inside, or a subset of it.
        inline: paste the body into every calling kernel (LLVM inlines small kernels anyway).
        cache: keep the machine code on disk; off for kernels made in a closure with values that change.
    """
    flags = frozenset[str]() if fastmath is False else FAST_MATH if fastmath is True else fastmath
    if not flags <= FAST_MATH:
        raise InternalError(
            f"a kernel may not be compiled with {sorted(flags - FAST_MATH)}: a NaN must stay visible"
        )

    def decorate(kernel: Callable[P, R]) -> Callable[P, R]:
        numba = _numba()
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        if flags:
            options["fastmath"] = set(flags)
        if inline:
            options["inline"] = "always"
        if not cache:
            return numba.njit(kernel, **options)  # type: ignore[no-any-return]
        with _numba_cache_in(cache_directory() / f"kernels-{_dependency_digest(kernel)}"):
            return numba.njit(kernel, cache=True, **options)  # type: ignore[no-any-return]

    return decorate if function is None else decorate(function)


def kernel_input(array: npt.ArrayLike, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
    """Return a read-only, contiguous view (a copy where needed) of an array that a kernel only reads.

    A memory-mapped array is read-only, and numba compiles read-only and writable arguments apart: with every
    input read-only, each kernel is compiled once.
    """
    import numpy as np

    # Twenty arrays of every scoring request come through here: what needs no conversion is told quickly.
    if isinstance(array, np.ndarray) and array.dtype.type is dtype and array.dtype.isnative:
        flags = array.flags
        if flags.c_contiguous and flags.aligned:
            if not flags.writeable and type(array) is np.ndarray:
                return array
            view: npt.NDArray[Scalar] = array.view(np.ndarray)
            view.setflags(write=False)
            return view
    view = np.require(array, dtype=dtype, requirements=["C", "A"]).view(np.ndarray)
    view.setflags(write=False)
    return view


@functools.cache
def _numba() -> Any:
    """Import numba, with the target that `$GDMIX_CPU_TARGET` asks for."""
    target = os.environ.get(CPU_TARGET_VARIABLE, "")
    if target:
        # Without an empty feature list numba adds every feature of this very processor to the named target.
        os.environ["NUMBA_CPU_NAME"] = target
        os.environ["NUMBA_CPU_FEATURES"] = ""
    import numba

    if target:
        vars(numba.config).update(CPU_NAME=target, CPU_FEATURES="")
    return numba


@contextmanager
def _numba_cache_in(directory: Path) -> Iterator[None]:
    """Let numba cache the kernels defined inside in `directory`, and other packages' where it did."""
    config = _numba().config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(directory)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def _dependency_digest(kernel: Callable[..., object]) -> str:
    """Digest what a kernel's machine code takes from elsewhere: modules' sources, constants' values."""
    digest = hashlib.sha256()
    own = kernel.__module__
    for module in sorted(_project_dependencies(own, frozenset({own}))):
        digest.update(module.encode() + _source_digest(module))
    namespace: dict[str, object] = getattr(kernel, "__globals__", {})
    for name in sorted(namespace):
        value = namespace[name]
        if isinstance(value, bool | int | float | str | tuple) and not name.startswith("__"):
            digest.update(f"{name}={value!r};".encode())
    return digest.hexdigest()[:16]


def _project_dependencies(module: str, seen: frozenset[str]) -> frozenset[str]:
    """Return the project's modules from which `module` imported something, transitively, without itself."""
    namespace = vars(sys.modules[module]) if module in sys.modules else {}
    origins = {getattr(value, "__module__", None) for value in list(namespace.values())}
    found: frozenset[str] = frozenset()
    for origin in sorted(o for o in origins if isinstance(o, str) and o.startswith("gdmix_")):
        if origin not in seen and origin != __name__:
            found |= {origin}
            found |= _project_dependencies(origin, seen | found)
    return found


@functools.cache
def _source_digest(module: str) -> bytes:
    """Digest the source of a loaded module; its name alone where there is no source to read."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest() if path else b""
    except OSError:
        return b""


# ----------------------------------------------------------------------------- the cache directory


@functools.cache
def cache_directory() -> Path:
    """Return the directory for compiled kernels, made on first use; the module's text tells which."""
    named = os.environ.get(CACHE_VARIABLE)
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    candidates = [Path(named)] if named else []
    candidates.append(Path(user) / "gdmix")
    reasons: list[str] = []
    for candidate in candidates:
        try:
            directory = candidate.expanduser().absolute()
            _claim(directory)
        except (OSError, RuntimeError) as error:  # expanduser raises RuntimeError without a home
            reasons.append(str(error))
            continue
        if not reasons:
            return directory
        warnings.warn(
            f"{reasons[0]}; compiled kernels are kept in {directory} instead", RuntimeWarning, stacklevel=3
        )
        return directory
    temporary = Path(tempfile.mkdtemp(prefix="gdmix-cache-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    warnings.warn(
        f"no directory for compiled kernels is writable ({'; '.join(reasons)}): every process compiles them "
        f"anew; set {CACHE_VARIABLE} to a writable directory",
        RuntimeWarning,
        stacklevel=3,
    )
    return temporary


def _claim(directory: Path) -> None:
    """Make `directory` (0700) and check that nobody else can have written what we will execute."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid not in {os.geteuid(), 0}:
        raise PermissionError(f"the cache directory {directory} belongs to another user")
    if stat.S_IMODE(status.st_mode) & stat.S_IWOTH:
        raise PermissionError(f"the cache directory {directory} is writable by everybody")
    tempfile.TemporaryFile(dir=directory).close()


# ----------------------------------------------------------------------------- warming up


@dataclass(frozen=True, slots=True)
class WarmUpReport:
    """What `warm_up` did: the groups of kernels that this process compiled, the seconds it took."""

    groups: int
    seconds: float


def register_warm_up(name: str, call: Callable[[], object]) -> None:
    """Register a tiny representative call of a module's kernels, which `warm_up` runs once per machine.

    `call` MUST use the argument types of real work: each combination of types is compiled by itself.
    """
    _warm_ups[name] = call


def kernel_modules(sources: list[tuple[str, bytes]] | None = None) -> list[str]:
    """Return the names of the core's modules that register a warm-up, found by their source, sorted."""
    return [
        name
        for name, source in (_core_sources() if sources is None else sources)
        if _REGISTERS.search(source)
    ]


_REGISTERS: Final = re.compile(rb"^register_warm_up\(", re.MULTILINE)


def _core_sources() -> list[tuple[str, bytes]]:
    """Read the sources of this package's modules, as (module name, source), sorted by name."""
    root = Path(__file__).parent
    paths = sorted(root.rglob("*.py"))
    return [
        (".".join((root.name, *path.relative_to(root).with_suffix("").parts)), path.read_bytes())
        for path in paths
    ]


def warm_up(
    progress: Callable[[str, int, int], None] | None = None, modules: Collection[str] | None = None
) -> WarmUpReport:
    """Have every registered kernel compiled and cached, each group of them by one process of the machine.

    Processes that start together share the groups between them: each takes one that nobody is at, and at the end
    waits for those of the others. A call after that, in any process, for the same sources and numerics
    fingerprint finds a marker and returns within milliseconds, without importing numba.

    Args:
        progress: called with (name, groups done on this machine, groups in all) before each group that this
            process compiles, and at the end with "" where it compiled any.
        modules: the kernel modules to warm up; all of `kernel_modules()` unless given.
    """
    start = time.monotonic()
    sources = _core_sources()
    names = kernel_modules(sources) if modules is None else sorted(modules)
    markers = cache_directory() / f"warm-{_warm_digest(sources, names)}"
    complete = markers / "complete"
    compiled_here = 0
    if not complete.exists():
        markers.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            import_module(name)
        groups = sorted(group for group, call in _warm_ups.items() if call.__module__ in names)
        for wait in (False, True):
            for group in groups:
                done = markers / group
                with _exclusive(markers / f"{group}.lock", wait) as held:
                    if held and not done.exists():
                        if progress is not None:
                            progress(group, sum((markers / other).exists() for other in groups), len(groups))
                        _run_warm_up(group)
                        done.touch(mode=0o600)
                        compiled_here += 1
        if progress is not None and compiled_here:
            progress("", len(groups), len(groups))
        complete.touch(mode=0o600)
    return WarmUpReport(compiled_here, time.monotonic() - start)


def _run_warm_up(name: str) -> None:
    try:
        _warm_ups[name]()
    except Exception as error:
        raise InternalError(f"the compiled kernels of {name!r} fail on this machine: {error}") from error


def _warm_digest(sources: list[tuple[str, bytes]], modules: list[str]) -> str:
    """Digest the sources of all modules that define or may feed kernels, and what machine code depends on."""
    digest = hashlib.sha256(numerics_digest().encode())
    digest.update(f"{sys.implementation.cache_tag} {Path(__file__).parent} {modules}".encode())
    for name, source in sources:
        digest.update(name.encode() + hashlib.sha256(source).digest())
    return digest.hexdigest()[:24]


@contextmanager
def _exclusive(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock among the processes of this machine, or tell that another holds it, unless asked to wait.

    Where locks do not work, everybody holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except OSError as error:
            warnings.warn(
                f"cannot lock {path} ({error}): processes may compile twice", RuntimeWarning, stacklevel=4
            )
        yield held
    finally:
        os.close(descriptor)
