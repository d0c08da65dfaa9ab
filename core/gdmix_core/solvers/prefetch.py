"""Ask the processor for rows that a kernel will need soon: rows in another order than memory's cost a wait each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _numba_intrinsic

AHEAD: Final = 16
"""Rows to look ahead: on an EPYC, 8 to 64 were equally good (benchmarks.md, "Learned shrinkage")."""
_BYTE: Final = ir.IntType(8).as_pointer()
_INT: Final = ir.IntType(32)
_llvm: Any = cgutils  # which has no types


def _intrinsic(code: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = _numba_intrinsic(code)
    return made


@_intrinsic
def prefetch_row(typing_context: Any, array: Any, row: Any) -> Any:  # noqa: ARG001
    """Bring array[row] of a two-dimensional array near; rows of up to two cache lines come whole. No bounds check."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(matrix.strides, 0)
        first = builder.gep(builder.bitcast(matrix.data, _BYTE), [builder.mul(arguments[1], stride)])
        last = builder.gep(first, [builder.sub(stride, ir.Constant(stride.type, 1))])
        kind = ir.FunctionType(ir.VoidType(), [_BYTE, _INT, _INT, _INT])
        function = _llvm.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        for address in (first, last):
            builder.call(function, [address, _INT(0), _INT(3), _INT(1)])  # to read, to stay, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code
