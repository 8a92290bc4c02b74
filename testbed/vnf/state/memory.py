"""Memory as compiled code needs it: words inside byte arrays, ordered against the kernel.

Words are in the machine's byte order, as the kernel's structures are. Nothing here checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core.cgutils import ir  # llvmlite's
from numba.extending import intrinsic

from testbed.compiled import compiled
from testbed.vnf.state.arrays import Bytes

_memmove: Any = types.ExternalFunction("memmove", types.intp(types.intp, types.intp, types.intp))
_Generator = Callable[[Any, Any, Any, Any], Any]
_INT64 = ir.IntType(64)


def _pointer(context: Any, builder: Any, signature: Any, values: Any, bits: int) -> Any:
    """Where the word of `bits` lies that begins at byte `values[1]` of the array `values[0]`."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    base = builder.ptrtoint(array.data, _INT64)
    return builder.inttoptr(builder.add(base, values[1]), ir.IntType(bits).as_pointer())


def _loader(bits: int, ordering: str) -> _Generator:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _pointer(context, builder, signature, values, bits)
        kind = ir.IntType(bits)
        if ordering:
            word = builder.load_atomic(place, ordering, bits // 8, typ=kind)
        else:
            word = builder.load(place, typ=kind)
            word.align = 1
        return builder.zext(word, _INT64)

    return generate


def _storer(bits: int, ordering: str) -> _Generator:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _pointer(context, builder, signature, values, bits)
        word = builder.trunc(values[2], ir.IntType(bits))
        if ordering:
            builder.store_atomic(word, place, ordering, bits // 8)
        else:
            builder.store(word, place, align=1)
        return context.get_dummy_value()

    return generate


@intrinsic
def load_u16(typing: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """(byte array, offset) -> the 16 bit word there, 0 to 65535."""
    return types.int64(array, types.int64), _loader(16, "")


@intrinsic
def load_u32(typing: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """(byte array, offset) -> the 32 bit word there, not negative."""
    return types.int64(array, types.int64), _loader(32, "")


@intrinsic
def store_u32(typing: Any, array: Any, at: Any, value: Any) -> tuple[Any, _Generator]:
    """(byte array, offset, value): write a 32 bit word."""
    return types.void(array, types.int64, types.int64), _storer(32, "")


@intrinsic
def load_acquire(typing: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """(byte array, offset) -> the aligned 32 bit word; nothing after is read before it is."""
    return types.int64(array, types.int64), _loader(32, "acquire")


@intrinsic
def store_release(typing: Any, array: Any, at: Any, value: Any) -> tuple[Any, _Generator]:
    """(byte array, offset, value): write an aligned 32 bit word after all that was written."""
    return types.void(array, types.int64, types.int64), _storer(32, "release")


@intrinsic
def address(typing: Any, array: Any) -> tuple[Any, _Generator]:
    """(array) -> the address of its first byte, for a system call while the array is alive."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.ptrtoint(made.data, _INT64)

    return types.int64(array), generate


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> tuple[Any, _Generator]:
    """(array, place): begin to fetch the element there into the cache; nothing waits for it."""
    item_bytes = array.dtype.bitwidth // 8

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, values[0])
        base = builder.ptrtoint(made.data, _INT64)
        offset = builder.mul(values[1], _INT64(item_bytes))
        place = builder.inttoptr(builder.add(base, offset), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        # To be read, kept in all caches, data.
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@compiled
def copy_bytes(target: Bytes, target_at: int, source: Bytes, source_at: int, length: int) -> None:
    """Copy `length` bytes from one array to another, or within one."""
    _memmove(address(target) + target_at, address(source) + source_at, length)
