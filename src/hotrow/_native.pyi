"""The native core. Arguments are addresses and counts: check types, shapes and devices before, keep memory alive.

An error of a lookup is (kind, feature, bag, position): kind 1 is an id outside its table, 2 offsets that do not add up.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

def cpu_levels() -> list[str]: ...
def active_level() -> str: ...
def force_level(name: str) -> bool: ...
def allocate_arena(bytes: int) -> NDArray[np.uint8]: ...
def quantize_rows(rows: int, num_rows: int, dim: int, output: int, num_threads: int) -> int: ...
def dequantize_rows(rows: int, num_rows: int, dim: int, output: int, num_threads: int) -> None: ...

class LookupGroup:
    def __init__(self) -> None: ...
    def add_table(self, rows: int, num_rows: int, row_bytes: int, dim: int, row_type: int) -> None: ...
    def add_feature(self, table: int, mean: bool) -> None: ...
    def set_prefetch(self, table: int, distance: int, level: int) -> None: ...
    def pooled_lookup(
        self,
        values: int,
        values_are_64_bit: bool,
        num_values: int,
        offsets: int,
        offsets_are_64_bit: bool,
        weights: int,
        batch_size: int,
        output: int,
        output_stride: int,
        stream_min_bytes: int,
        num_threads: int,
    ) -> tuple[int, int, int, int] | None: ...
    def gather(
        self, values: int, values_are_64_bit: bool, splits: list[int], outputs: list[int], num_threads: int
    ) -> tuple[int, int, int, int] | None: ...

class UpdateGroup:
    def __init__(self) -> None: ...
    def add_table(
        self,
        rows: int,
        num_rows: int,
        dim: int,
        row_type: int,
        state0: int,
        state1: int,
        row_ids: int,
        random_key: int,
    ) -> None: ...
    def add_feature(self, table: int, mean: bool) -> None: ...
    def fused_update(
        self,
        values: int,
        values_are_64_bit: bool,
        num_values: int,
        offsets: int,
        offsets_are_64_bit: bool,
        weights: int,
        batch_size: int,
        grad: int,
        grad_stride: int,
        rule: int,
        constants: list[float],
        seed: int,
        step: int,
        num_threads: int,
    ) -> tuple[int, int, int, int] | None: ...
    def fused_update_unpooled(
        self,
        values: int,
        values_are_64_bit: bool,
        splits: list[int],
        grads: list[int],
        grad_strides: list[int],
        rule: int,
        constants: list[float],
        seed: int,
        step: int,
        num_threads: int,
    ) -> tuple[int, int, int, int] | None: ...

def weights_grad(
    group: LookupGroup,
    values: int,
    values_are_64_bit: bool,
    num_values: int,
    offsets: int,
    offsets_are_64_bit: bool,
    batch_size: int,
    grad: int,
    grad_stride: int,
    output: int,
    num_threads: int,
) -> tuple[int, int, int, int] | None: ...
def initialize_rows(
    rows: int,
    row_type: int,
    num_rows: int,
    dim: int,
    first_row: int,
    seed: int,
    random_key: int,
    low: float,
    high: float,
    num_threads: int,
) -> None: ...

class RecordGroup:
    """Arenas as records. Each call returns the first entry whose slot is outside its arena (nothing done), or -1."""

    def __init__(self) -> None: ...
    def add_table(
        self,
        rows: int,
        num_slots: int,
        dim: int,
        row_type: int,
        state: list[tuple[int, int]],
        row_ids: int,
        random_key: int,
        low: float,
        high: float,
    ) -> None: ...
    def read(self, begin: int, slots: int, records: int, num_threads: int) -> int: ...
    def write(
        self,
        begin: int,
        slots: int,
        row_ids: int,
        records: int,
        found: int,
        seed: int,
        num_threads: int,
    ) -> int: ...
    def initialize(self, begin: int, slots: int, row_ids: int, seed: int, num_threads: int) -> int: ...

class OrderMap:
    """Rows that move: uint32 ``from_[i]`` becomes ``to[i]``, addresses of count numbers. ValueError: no such order."""

    def __init__(self, num_rows: int, from_: int, to: int, count: int) -> None: ...
    def translate_int32(self, values: int, count: int, out: int) -> None: ...
    def translate_int64(self, values: int, count: int, out: int) -> None: ...
    def translate_uint32(self, values: int, count: int, out: int) -> None: ...
    @property
    def memory_bytes(self) -> int: ...

class Moves:
    """Rows that moved; those of table t are [begin[t], begin[t + 1])."""

    @property
    def begin(self) -> list[int]: ...
    @property
    def places(self) -> NDArray[np.uint32]: ...
    @property
    def slots(self) -> NDArray[np.uint32]: ...

class Reservation:
    @property
    def number(self) -> int: ...
    @property
    def fills(self) -> Moves: ...
    @property
    def write_backs(self) -> Moves: ...
    @property
    def num_lookups(self) -> int: ...
    @property
    def num_distinct(self) -> int: ...
    @property
    def num_hits(self) -> int: ...

class Shortage:
    @property
    def table(self) -> int: ...
    @property
    def need_slots(self) -> int: ...
    @property
    def available_slots(self) -> int: ...

class RowCache:
    """tables: (num_rows, num_pinned, num_slots, policy) of each. ValueError: arguments that cannot be."""

    def __init__(self, tables: list[tuple[int, int, int, int]]) -> None: ...
    def reserve(
        self, ids: int, ids_are_64_bit: bool, num_ids: int, features: list[int], splits: list[int], slots: int
    ) -> Reservation | Shortage: ...  # IndexError: an id outside its table
    def announce(
        self, ids: int, ids_are_64_bit: bool, num_ids: int, features: list[int], splits: list[int]
    ) -> int: ...
    def withdraw(self, announcement: int) -> None: ...
    def release(self, reservation: int, dirty: bool) -> None: ...
    def abandon(self, reservation: int) -> list[int]: ...
    def take_dirty(self) -> Moves: ...
    def restore_dirty(self, moves: Moves) -> None: ...
    @property
    def num_open(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...

class FormatFault(ValueError):
    """A file of the row store is not what it should be; the message names it."""

class FaultPlan:
    def __init__(self) -> None: ...
    def add(
        self,
        operation: str,
        path: str,
        first: int,
        times: int,
        action: int,
        error_number: int,
        num_bytes: int,
        byte: int,
        bit: int,
        seconds: float,
    ) -> None: ...
    def clear(self) -> None: ...
    def count(self, operation: str, path: str) -> tuple[int, int]: ...  # (calls, bytes)
    def record_writes(self) -> None: ...
    def power_cut(self, seed: int) -> None: ...

class FileLock: ...

class File:
    """Offsets and sizes are multiples of ``alignment()``. Raises OSError with errno and filename, and FormatFault."""

    def read(self, offset: int, size: int) -> bytes: ...
    def write(self, offset: int, content: bytes) -> None: ...
    def write_from(self, offset: int, address: int, size: int) -> None: ...  # of files that are not direct
    def sync(self) -> None: ...
    def reserve(self, size: int) -> None: ...
    def time_random_reads(self, page_bytes: int, num_reads: int, seed: int) -> float: ...
    def size(self) -> int: ...
    def path(self) -> str: ...
    def alignment(self) -> int: ...

class FileSystem:
    """backend: auto, io_uring or threads. Raises OSError with errno and filename."""

    def __init__(
        self, backend: str = "auto", queue_depth: int = 64, faults: FaultPlan | None = None
    ) -> None: ...
    def open(self, path: str, direct: bool = True) -> File: ...
    def create(self, path: str, direct: bool = True) -> File: ...
    def remove(self, path: str) -> None: ...
    def remove_directory(self, path: str) -> None: ...
    def rename(self, source: str, target: str) -> None: ...
    def link(self, source: str, target: str) -> None: ...
    def make_directory(self, path: str) -> None: ...
    def sync_directory(self, path: str) -> None: ...
    def list(self, path: str) -> list[str]: ...
    def exists(self, path: str) -> bool: ...
    def lock(self, path: str) -> FileLock: ...

def describe_io(backend: str) -> str: ...
def why_not_direct(directory: str) -> str: ...  # empty: direct I/O works there

class RowStore:
    """Records on disk behind a write buffer. tables: (name, num_rows, record_bytes, order_id, record) of each.

    Addresses: begin is int64 [tables + 1], where each table's places begin in ``places`` (uint32, ascending within a
    table); records are packed table after table. Errors: OSError, FormatFault, ValueError.
    """

    @staticmethod
    def create(
        directory: str,
        tables: list[tuple[str, int, int, str, str]],
        files: FileSystem,
        buffer_bytes: int,
        max_garbage: float = 0.5,
        gap_bytes: int = 0,
        staging_bytes: int = 8388608,
        writer_bytes: int = 4194304,
    ) -> RowStore: ...
    @staticmethod
    def open(
        directory: str,
        commit: str,
        tables: list[tuple[str, int, int, str, str]],
        files: FileSystem,
        buffer_bytes: int,
        max_garbage: float = 0.5,
        gap_bytes: int = 0,
        staging_bytes: int = 8388608,
        writer_bytes: int = 4194304,
        read_only: bool = False,
    ) -> RowStore: ...
    def read(self, begin: int, places: int, records: int, found: int) -> None: ...
    def write_back(self, begin: int, places: int, records: int) -> None: ...
    def commit(self, directory: str) -> int: ...
    def settle(self) -> None:
        """Wait until the buffer is empty and no compaction is wanted."""
    def scan(self, table: int, piece: Callable[[int, int, int], None]) -> None:
        """Every record in ascending order of place, in pieces: piece(address of places, address of records, rows)."""
    def stats(self) -> dict[str, int]: ...
    @property
    def memory_bytes(self) -> int: ...
    def close(self) -> None: ...

class TableCounter:
    """What a pass has counted of one table (native/include/hotrow/profiling.h)."""

    @property
    def num_rows(self) -> int: ...
    @property
    def num_lookups(self) -> int: ...
    @property
    def num_bags(self) -> int: ...
    @property
    def num_distinct(self) -> int: ...
    @property
    def num_head_sampled(self) -> int: ...
    @property
    def row_threshold(self) -> int: ...
    @property
    def time_level(self) -> int: ...
    @property
    def samples_per_span(self) -> int: ...
    @property
    def stamp_bits(self) -> list[int]: ...
    @property
    def bag_lengths(self) -> list[int]: ...
    @property
    def long_bags(self) -> dict[int, int]: ...
    @property
    def is_dense(self) -> bool: ...
    @property
    def num_head_waiting(self) -> int: ...
    @property
    def samples_per_window(self) -> int: ...
    @property
    def samples_per_row_window(self) -> int: ...
    def place_windows(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
    def row_windows(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
    def follows(self, sample: int) -> bool: ...
    def take_counts(self) -> NDArray[np.uint32]: ...
    def take_events(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]: ...
    def take_head_sample(self) -> NDArray[np.uint32]: ...

class AccessCounters:
    """tables: (num_rows or 0, is_dense, max_events, batch_size, max_windows, max_row_windows) each."""

    def __init__(self, tables: list[tuple[int, bool, int, int, int, int]], dense_bytes: int) -> None: ...
    def add(
        self,
        ids: int,
        ids_are_64_bit: bool,
        num_ids: int,
        offsets: int,
        offsets_are_64_bit: bool,
        num_samples: int,
        num_features: int,
        readers: list[tuple[int, int]],
        num_threads: int,
    ) -> tuple[int, int, int, int, int] | None:
        """(kind, feature, sample, position, value) of the first error, and nothing counted: kind 1 is an id outside
        its table, 2 offsets that do not add up."""

    @property
    def num_samples(self) -> int: ...
    def table(self, index: int) -> TableCounter: ...

def row_hashes(rows: int, count: int, seed: int) -> NDArray[np.uint32]: ...
def renumber(rows: int, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]: ...
def first_touches(rows: int, groups: int, count: int, num_rows: int) -> NDArray[np.uint32]: ...
def stack_distances(
    rows: int, count: int, begin: int, num_groups: int, num_rows: int
) -> NDArray[np.uint32]: ...
def sum_distinct(rows: int, samples: int, count: int, num_rows: int, num_samples: int) -> list[int]: ...
def simulate_caches(
    rows: int,
    count: int,
    begin: int,
    num_batches: int,
    num_rows: int,
    caches: list[tuple[int, int]],
    look_ahead: int,
    count_from: int,
    num_threads: int,
) -> list[int]:
    """Rows read by each (policy, num_slots), -1 where a batch does not fit."""
