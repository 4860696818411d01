"""Random numbers of rows as functions of (purpose, seed, table, step, row id, column), in numpy.

The oracle of ``native/include/hotrow/random.h``, bit for bit: a chain of splitmix64 finalisers (Steele, Lea,
Flood, OOPSLA 2014) makes a row's key; a multiply-xorshift hash of key and column makes a column's 32 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INITIAL_VALUES = 1
STOCHASTIC_ROUNDING = 2

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]


def _chain(key: U64, value: U64) -> U64:
    z = (key ^ value) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: U64 = z ^ (z >> np.uint64(31))
    return mixed


def _u64(value: int) -> U64:
    return np.array([value & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)


def random_bits(
    purpose: int, seed: int, random_key: int, step: int, row_ids: NDArray[np.int64], num_columns: int
) -> U32:
    """32 random bits per element: ``[len(row_ids), num_columns]``."""
    key = _chain(_chain(_u64(purpose), _u64(seed)), _u64(random_key))
    keys = _chain(_chain(key, _u64(step)), row_ids.astype(np.uint64))[:, None]
    low, high = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    x = low + np.arange(num_columns, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = x ^ high
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x735A2D97)
    bits: U32 = x ^ (x >> np.uint32(15))
    return bits


def round_stochastically(values: F32, bits: U32) -> NDArray[np.uint16]:
    """fp32 → bf16 as raw 16 bits, up with the probability of the part cut off; NaN stays NaN."""
    raw = values.view(np.uint32)
    rounded = (raw + (bits >> np.uint32(16))) >> np.uint32(16)
    quiet = (raw >> np.uint32(16)) | np.uint32(0x40)
    is_nan = (raw & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    halves: NDArray[np.uint16] = np.where(is_nan, quiet, rounded).astype(np.uint16)
    return halves


def uniform(bits: U32, low: float, high: float) -> F32:
    """Uniform in [low, high]: the top 24 bits as a fraction, one fused multiply-add."""
    fraction = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return fma32(fraction, np.float32(np.float32(high) - np.float32(low)), np.float32(low))


def fma32(a: F32 | np.float32, b: F32 | np.float32, c: F32 | np.float32) -> F32:
    """``a * b + c`` rounded once to fp32, as the hardware's fused multiply-add.

    The product of two fp32 is exact in fp64; the sum is rounded to odd in fp64 (Boldo, Melquiond, IEEE TC 2008),
    so that the second rounding, to fp32, is the only one that counts.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        product = np.asarray(a, dtype=np.float64) * np.asarray(b, dtype=np.float64)
        addend = np.broadcast_to(np.asarray(c, dtype=np.float64), np.broadcast(product, np.asarray(c)).shape)
        total = np.asarray(product + addend)
        virtual = total - product
        error = (product - (total - virtual)) + (addend - virtual)
        even = (total.view(np.int64) & 1) == 0
        inexact = np.isfinite(total) & np.isfinite(error) & (error != 0)
        nudged = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
        return np.where(inexact & even, nudged, total).astype(np.float32)
