"""Rows that are not all in memory: slots in front of a store on SSD, look-ahead, budgets, commits."""

from hotrow.storage.budget import (
    CACHE_SLOT_BYTES,
    INDEX_ROW_BYTES,
    ROW_ID_BYTES,
    Buffers,
    capacity_for,
    slots_within,
)
from hotrow.storage.choosing import CacheChoice, Trial, Window, choose_cache
from hotrow.storage.commits import MANIFEST_FILE, CommitManifest, RowsDirectory, committed_orders, order_file
from hotrow.storage.dividing import choose_plan, least_dram
from hotrow.storage.gaps import GAP_BYTES, default_gap_bytes, disk_of, gap_bytes_of
from hotrow.storage.interfaces import Cache, Reservation, Shortage, Store, TieredTable
from hotrow.storage.native_store import NativeCache, open_for_reading, open_native_store
from hotrow.storage.places import Places
from hotrow.storage.readonly import ARRIVAL_SLOT_BYTES, ReadOnlyRows, staging_for
from hotrow.storage.replay import replay_batches
from hotrow.storage.tiered import Lease, TieredRows

__all__ = [
    "ARRIVAL_SLOT_BYTES",
    "CACHE_SLOT_BYTES",
    "GAP_BYTES",
    "INDEX_ROW_BYTES",
    "MANIFEST_FILE",
    "ROW_ID_BYTES",
    "Buffers",
    "Cache",
    "CacheChoice",
    "CommitManifest",
    "Lease",
    "NativeCache",
    "Places",
    "ReadOnlyRows",
    "Reservation",
    "RowsDirectory",
    "Shortage",
    "Store",
    "TieredRows",
    "TieredTable",
    "Trial",
    "Window",
    "capacity_for",
    "choose_cache",
    "choose_plan",
    "default_gap_bytes",
    "disk_of",
    "gap_bytes_of",
    "committed_orders",
    "least_dram",
    "open_for_reading",
    "open_native_store",
    "order_file",
    "replay_batches",
    "slots_within",
    "staging_for",
]
