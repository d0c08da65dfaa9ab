"""A SIMD value inside compiled kernels: `LANES` float64 numbers that go through the same arithmetic side by side.

The random-effect kernels put one entity into each lane, so that no entity needs padding to a register's width and one
machine-code version serves every dimension. A value of type `Lanes` lives in a register:

    x = load(memory, offset)                # memory[offset : offset + LANES]
    total = fma(x, broadcast(2.0), total)   # one rounding, on every processor
    store(memory, offset, total)

Every operation is elementwise and carries no fast-math flag, therefore a lane's result depends on nothing but that
lane's operands: neither on its neighbours, nor on `LANES`, nor on what the optimiser makes of it. Loads and stores are
not bounds-checked. A mask is a `Lanes` of zeros (no) and ones (yes).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic as _numba_intrinsic
from numba.extending import lower_builtin, register_model, type_callable

from gdmix_core.compiled import compiled

LANES: Final = 4
"""Entities side by side: one AVX2 register of float64. It changes speed only, never a result."""

_DOUBLE: Final = ir.DoubleType()
_VECTOR: Final = ir.VectorType(_DOUBLE, LANES)
_INTEGERS: Final = ir.VectorType(ir.IntType(64), LANES)

_ROUNDER: Final = (
    6755399441055744.0  # 1.5·2^52: adding it leaves the nearest integer in the low bits of the sum
)


class LanesType(types.Type):
    """The numba type of a value of `LANES` float64 numbers."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


lanes_type: Final = LanesType()


@register_model(LanesType)  # type: ignore[untyped-decorator]
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


# ------------------------------------------------------------------------------------ operators + - * / between Lanes


def _define_operator(symbol: Callable[..., object], instruction: str) -> None:
    @type_callable(symbol)  # type: ignore[untyped-decorator]
    def typing(context: Any) -> Any:  # noqa: ARG001
        def accept(left: Any, right: Any) -> Any:
            return lanes_type if isinstance(left, LanesType) and isinstance(right, LanesType) else None

        return accept

    @lower_builtin(symbol, LanesType, LanesType)  # type: ignore[untyped-decorator]
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return getattr(builder, instruction)(*arguments)


_define_operator(operator.add, "fadd")
_define_operator(operator.sub, "fsub")
_define_operator(operator.mul, "fmul")
_define_operator(operator.truediv, "fdiv")


# ------------------------------------------------------------------------------------ building blocks of the intrinsics


def _splat(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    """Repeat a scalar in every lane."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, empty, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _constant(value: float) -> ir.Constant:
    return ir.Constant(_VECTOR, [float(value)] * LANES)


def _vector_function(builder: Any, name: str, arguments: list[Any]) -> Any:
    """Call the LLVM intrinsic `name` on vectors."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f64")
    return builder.call(function, arguments)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    """Return the address of array[offset] as a pointer to a vector."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


def _elementwise(name: str, count: int) -> Callable[..., Any]:
    """Return the code of an intrinsic that is one LLVM vector function of `count` arguments."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return _vector_function(builder, name, list(arguments[:count]))

    return code


# ------------------------------------------------------------------------------------ memory


def intrinsic(code: Callable[..., Any]) -> Callable[..., Any]:
    """Make an intrinsic that kernels call without its first parameter, the typing context."""
    made: Callable[..., Any] = _numba_intrinsic(code)
    return made


@intrinsic
def load(typing_context: Any, array: Any, offset: Any) -> Any:  # noqa: ARG001
    """Read array[offset : offset + LANES] of a contiguous float64 array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        return builder.load(pointer, align=8)

    return lanes_type(array, types.intp), code


@intrinsic
def store(typing_context: Any, array: Any, offset: Any, value: Any) -> Any:  # noqa: ARG001
    """Write a value to array[offset : offset + LANES] of a contiguous float64 array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1])
        builder.store(arguments[2], pointer, align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes_type), code


@intrinsic
def broadcast(typing_context: Any, value: Any) -> Any:  # noqa: ARG001
    """Put one float64 number into every lane."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return _splat(builder, arguments[0], _VECTOR)

    return lanes_type(types.float64), code


# ------------------------------------------------------------------------------------ arithmetic


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return a·b + c, rounded once."""
    return lanes_type(a, b, c), _elementwise("fma", 3)


@intrinsic
def fused_less(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
    """Return c − a·b, rounded once."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        a, b, c = arguments
        return _vector_function(builder, "fma", [builder.fneg(a), b, c])

    return lanes_type(a, b, c), code


@intrinsic
def square_root(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
    """Return √a."""
    return lanes_type(a), _elementwise("sqrt", 1)


@intrinsic
def absolute(typing_context: Any, a: Any) -> Any:  # noqa: ARG001
    """Return |a|."""
    return lanes_type(a), _elementwise("fabs", 1)


@intrinsic
def times_power_of_two(typing_context: Any, a: Any, shifted: Any) -> Any:  # noqa: ARG001
    """Return a·2^k, where `shifted` is k + 1.5·2^52, for |k| ≤ 1022."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        bits = builder.bitcast(arguments[1], _INTEGERS)
        exponent = builder.add(bits, ir.Constant(_INTEGERS, [1023] * LANES))
        scale = builder.shl(exponent, ir.Constant(_INTEGERS, [52] * LANES))
        return builder.fmul(arguments[0], builder.bitcast(scale, _VECTOR))

    return lanes_type(a, shifted), code


# ------------------------------------------------------------------------------------ comparison


def _comparison(predicate: str) -> Callable[..., Any]:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        a, b, yes, no = arguments
        return builder.select(builder.fcmp_ordered(predicate, a, b), yes, no)

    return code


@intrinsic
def where_less(typing_context: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:  # noqa: ARG001
    """Return `yes` in the lanes where a < b, and `no` elsewhere (NaN counts as "not less")."""
    return lanes_type(a, b, yes, no), _comparison("<")


@intrinsic
def any_lane(typing_context: Any, mask: Any) -> Any:  # noqa: ARG001
    """Return whether any lane of a mask is yes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        set_lanes = builder.fcmp_unordered("!=", arguments[0], _constant(0.0))
        bits = builder.bitcast(set_lanes, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask), code


@compiled
def maximum(a: Any, b: Any) -> Any:
    """Return the larger of a and b; b where a is NaN."""
    return where_less(b, a, a, b)


@compiled
def choose(mask: Any, yes: Any, no: Any) -> Any:
    """Return `yes` in the lanes where the mask is set, and `no` elsewhere."""
    return where_less(broadcast(0.0), mask, yes, no)


@compiled
def exponential(x: Any) -> Any:
    """Return e^x for x in [-708, 709] to about one unit in the last place (x outside MUST be clipped before).

    Cody–Waite reduction by ln 2 in two parts, Taylor series of e^r on |r| ≤ ½ ln 2 to degree 12.
    """
    rounder = broadcast(_ROUNDER)
    shifted = fma(x, broadcast(1.4426950408889634), rounder)
    k = shifted - rounder
    r = fused_less(k, broadcast(6.93145751953125e-1), x)
    r = fused_less(k, broadcast(1.42860682030941723212e-6), r)
    one = broadcast(1.0)
    q = fma(r, broadcast(1.0 / 479001600.0), broadcast(1.0 / 39916800.0))
    q = fma(q, r, broadcast(1.0 / 3628800.0))
    q = fma(q, r, broadcast(1.0 / 362880.0))
    q = fma(q, r, broadcast(1.0 / 40320.0))
    q = fma(q, r, broadcast(1.0 / 5040.0))
    q = fma(q, r, broadcast(1.0 / 720.0))
    q = fma(q, r, broadcast(1.0 / 120.0))
    q = fma(q, r, broadcast(1.0 / 24.0))
    q = fma(q, r, broadcast(1.0 / 6.0))
    q = fma(q, r, broadcast(0.5))
    q = fma(q, r, one)
    q = fma(q, r, one)
    return times_power_of_two(q, shifted)
