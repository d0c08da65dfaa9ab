from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gdmix_core import compiled as compiled_module
from gdmix_core.blas import loaded_blas_libraries, pin_blas_threads
from gdmix_core.compiled import compiled, kernel_input, kernel_modules
from gdmix_core.errors import InternalError
from gdmix_core.fingerprint import numerics_digest, numerics_fingerprint

FIXED_EFFECT_KERNELS = "gdmix_core.solvers.fixed_effect.kernels"


def child_environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, **changes}


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=child_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def test_a_kernel_computes_releases_the_gil_and_keeps_nan_visible() -> None:
    @compiled(fastmath=True, cache=False)
    def total(values: np.ndarray) -> float:
        result = 0.0
        for i in range(values.size):
            result += values[i]
        return result

    assert total(np.arange(5.0)) == 10.0
    assert np.isnan(total(np.array([1.0, np.nan])))
    results: list[float] = []
    threads = [threading.Thread(target=lambda: results.append(total(np.ones(1000)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1000.0] * 3


def test_plain_decorator_divides_like_ieee() -> None:
    @compiled
    def inverse(x: float) -> float:
        return 1.0 / x

    assert inverse(0.0) == np.inf


def test_flags_that_hide_a_nan_are_refused() -> None:
    with pytest.raises(InternalError, match="nnan"):
        compiled(fastmath=frozenset({"contract", "nnan"}))


def test_kernel_input_makes_one_kind_of_array(tmp_path: Path) -> None:
    np.arange(6, dtype=np.int32).tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", dtype=np.int32, mode="r")
    for array in (
        mapped,
        np.arange(6, dtype=np.int32),
        np.arange(6, dtype=np.int64)[::1],
        [0, 1, 2, 3, 4, 5],
    ):
        view = kernel_input(array, np.int32)
        assert view.dtype == np.int32
        assert not view.flags.writeable
        assert view.flags.c_contiguous
        assert view.tolist() == [0, 1, 2, 3, 4, 5]
    writable = np.arange(6, dtype=np.int32)
    kernel_input(writable, np.int32)
    assert writable.flags.writeable


def test_a_changed_dependency_changes_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from gdmix_core.solvers.fixed_effect import kernels

    kernel = kernels.accumulate.py_func
    before = compiled_module._dependency_digest(kernel)
    assert "gdmix_core.solvers.loss_kernels" in compiled_module._project_dependencies(
        kernels.__name__, frozenset({kernels.__name__})
    )
    assert before == compiled_module._dependency_digest(kernel)
    monkeypatch.setattr(kernels, "_BLOCK", 65)
    assert before != compiled_module._dependency_digest(kernel)


def test_processes_share_the_groups_of_kernels_and_a_later_one_compiles_nothing(tmp_path: Path) -> None:
    modules = [FIXED_EFFECT_KERNELS, "gdmix_core.metrics.metric_kernels"]
    code = f"""
import json, sys
from gdmix_core.compiled import warm_up
calls = []
report = warm_up(lambda *call: calls.append(call), modules={modules!r})
print(json.dumps([report.groups, calls, "numba" in sys.modules]))
"""
    environment = {"GDMIX_CACHE_DIR": str(tmp_path / "cache")}
    together = [start(code, **environment) for _ in range(3)]
    reports = [json.loads(finish(process)[0]) for process in together]
    assert sum(report[0] for report in reports) == 2, "each group is compiled once"
    names = [call[0] for report in reports for call in report[1] if call[0]]
    assert sorted(names) == ["fixed-effect derivatives", "metrics"]
    assert all(report[1][-1] == ["", 2, 2] for report in reports if report[0])
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    later, _ = finish(start(code, **environment))
    assert json.loads(later) == [0, [], False]


def test_the_group_of_a_process_that_died_is_compiled_by_another(tmp_path: Path) -> None:
    code = f"""
import os, signal
from gdmix_core import compiled
def die(name, done, total): os.kill(os.getpid(), signal.SIGKILL)
print(compiled.warm_up({{progress}}, modules=[{FIXED_EFFECT_KERNELS!r}]).groups)
"""
    environment = {"GDMIX_CACHE_DIR": str(tmp_path / "cache")}
    dying = start(code.format(progress="die"), **environment)
    assert dying.wait(timeout=60) == -signal.SIGKILL
    for stream in (dying.stdout, dying.stderr):
        if stream is not None:
            stream.close()
    out, _ = finish(start(code.format(progress="None"), **environment))
    assert out.split() == ["1"]


def test_without_a_writable_directory_kernels_work_with_one_warning() -> None:
    code = """
from gdmix_core.compiled import cache_directory
from gdmix_core.solvers.loss_kernels import exp, log1p_unit
print(exp(0.0), log1p_unit(0.0), cache_directory())
"""
    nowhere = dict.fromkeys(["GDMIX_CACHE_DIR", "XDG_CACHE_HOME", "HOME"], "/proc/nowhere")
    out, err = finish(start(code, **nowhere))
    assert out.split()[:2] == ["1.0", "0.0"]
    assert err.count("no directory for compiled kernels is writable") == 1
    assert not Path(out.split()[2]).exists(), "the temporary directory is removed at exit"


def test_the_cpu_target_pins_kernels_and_fingerprint() -> None:
    code = """
import numba
from gdmix_core.compiled import compiled
from gdmix_core.fingerprint import numerics_fingerprint
@compiled(cache=False)
def twice(x: float) -> float: return 2 * x
twice(2.0)
print(numba.config.CPU_NAME, repr(numba.config.CPU_FEATURES), numerics_fingerprint()["cpu_target"])
"""
    out, _ = finish(start(code, GDMIX_CPU_TARGET="x86-64-v2"))
    assert out.split() == ["x86-64-v2", "''", "x86-64-v2"]


def test_every_kernel_module_that_registers_is_found() -> None:
    assert FIXED_EFFECT_KERNELS in kernel_modules()
    assert "gdmix_core.compiled" not in kernel_modules()


def test_fingerprint_names_all_that_last_bits_depend_on_without_heavy_imports() -> None:
    entries = numerics_fingerprint()
    assert {"gdmix", "numpy", "scipy", "numba", "llvmlite", "libc", "blas_core", "cpu_target"} <= set(entries)
    assert all(entries.values())
    assert numerics_digest() == numerics_digest()
    code = """
import sys
from gdmix_core.fingerprint import numerics_digest
print(numerics_digest(), sorted({"numpy", "numba", "scipy"} & set(sys.modules)))
"""
    out, _ = finish(start(code))
    assert out.split(maxsplit=1) == [numerics_digest(), "[]\n"]


def test_blas_is_pinned_even_when_loaded() -> None:
    import ctypes

    import scipy.linalg  # noqa: F401

    pin_blas_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    getters = (
        "scipy_openblas_get_num_threads64_",
        "scipy_openblas_get_num_threads",
        "openblas_get_num_threads",
    )
    counts = [
        getattr(ctypes.CDLL(path), name)()
        for path in loaded_blas_libraries()
        for name in getters
        if hasattr(ctypes.CDLL(path), name)
    ]
    assert set(counts) <= {1}
