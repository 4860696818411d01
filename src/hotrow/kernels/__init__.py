"""One public function per operation on embedding rows. ``reference`` is the oracle, ``cpu`` the native twin.

Shapes (F features, B samples, N lookups, T tables, D_f the width of feature f's table):

* ``rows``: one tensor per table (an arena): fp32 or bf16 ``[num_slots, dim]``, or int8 as uint8
  ``[num_slots, dim + 8]`` whose last 8 bytes are the row's fp32 scale and fp32 bias (value = scale * q + bias).
* ``features``: one ``FeatureSpec`` per feature, in output order: which table it reads and how it pools.
* ``values``: int32 or int64 ``[N]`` slots, feature-major. ``offsets``: ``[F * B + 1]``, same dtype as values or int64.
* ``weights``: fp32 ``[N]`` or None. Pooled output: fp32 ``[B, sum of D_f]``.

* records: rows with their state, packed, on their way between an arena and another tier (``kernels/records.py``).

Results are bit-for-bit equal for any number of threads and any CPU level.
"""

from hotrow.kernels.arena import empty_arena, huge_pages_status, keep_freed_memory
from hotrow.kernels.cpu import dequantize_rows, gather, pooled_lookup, quantize_rows
from hotrow.kernels.library import LookupTarget, find_target, pooled_lookup_op, register_target
from hotrow.kernels.native import active_level, cpu_levels, force_level, get_num_threads, load_native
from hotrow.kernels.prefetch import Prefetch, choose_prefetch
from hotrow.kernels.records import (
    Moves,
    initialize_slots,
    moved_bytes,
    read_moves,
    read_records,
    record_bytes,
    write_moves,
    write_records,
)
from hotrow.kernels.spec import FeatureSpec, TableGroup, TableSpec
from hotrow.kernels.update import fused_update, fused_update_unpooled, initialize_rows, weights_grad

__all__ = [
    "FeatureSpec",
    "LookupTarget",
    "Moves",
    "Prefetch",
    "TableGroup",
    "TableSpec",
    "active_level",
    "choose_prefetch",
    "cpu_levels",
    "dequantize_rows",
    "empty_arena",
    "find_target",
    "force_level",
    "fused_update",
    "fused_update_unpooled",
    "gather",
    "get_num_threads",
    "huge_pages_status",
    "initialize_rows",
    "initialize_slots",
    "keep_freed_memory",
    "load_native",
    "moved_bytes",
    "pooled_lookup",
    "pooled_lookup_op",
    "quantize_rows",
    "read_moves",
    "read_records",
    "record_bytes",
    "register_target",
    "weights_grad",
    "write_moves",
    "write_records",
]
