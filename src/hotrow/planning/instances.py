"""Instance families that the planner is judged on: tables, profiles and budgets, fixed before anything is tuned.

Every instance is made from its family's name and a number, by no clock and no machine. Profiles are analytic: rows of
an interval of places are alike, LRU follows Che's approximation (Che, Tung, Wang: Hierarchical Web Caching Systems,
IEEE JSAC 20(7), 2002), and tables of the family ``cliffs`` are also scanned in a circle, of which LRU catches nothing
until all of it fits: curves that are far from convex.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hotrow.core import EmbeddingBagConfig
from hotrow.measurements import Hardware, Measurement
from hotrow.optim import RowWiseAdagrad
from hotrow.plans import table_bytes
from hotrow.profiles import AccessProfile, Curve, MissCurve, TableProfile

Floats = NDArray[np.float64]

SSD_FACTOR = 4
"""Budget of SSD in bytes of all tables: never the limit."""
NUM_SAMPLES = 1 << 26
"""Of the profiles: as many as it takes for all rows of a table to come."""
_NUM_CUTS = 48


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One problem. dram_bytes, ssd_bytes: of each rank."""

    name: str
    family: str
    tables: tuple[EmbeddingBagConfig, ...]
    profile: AccessProfile
    world_size: int
    batch_size: int
    dram_bytes: int
    ssd_bytes: int
    is_enumerable: bool = False


@dataclass(frozen=True)
class Family:
    """How the tables of a family are drawn. Ranges are of uniform draws, rows of log-uniform ones."""

    name: str
    num_tables: tuple[int, int]
    num_rows: tuple[float, float]
    dims: tuple[int, ...]
    ids_per_bag: tuple[int, int]
    alpha: tuple[float, float]
    world_sizes: tuple[int, ...]
    shares: tuple[float, ...]
    num_instances: int
    batch_size: int = 256
    num_giants: int = 0
    scanned: float = 0.0
    is_enumerable: bool = False


FAMILIES = (
    Family("mixed", (16, 40), (1e4, 4e6), (16, 32, 64, 128), (1, 80), (0.4, 1.2), (1,), (0.5, 0.2, 0.1, 0.05), 12),
    Family("lumpy", (5, 12), (1e5, 2e7), (16, 64, 128), (1, 40), (0.4, 1.2), (1,), (0.5, 0.3, 0.15), 12, num_giants=2),
    Family("cliffs", (6, 20), (1e5, 4e6), (16, 64), (1, 20), (0.6, 1.1), (1,), (0.5, 0.25, 0.1), 12, scanned=0.4),
    Family("few", (2, 4), (1e5, 4e6), (16, 64), (1, 20), (0.4, 1.2), (1,), (0.6, 0.3, 0.1), 9, is_enumerable=True),
    Family("few-cliffs", (2, 3), (1e5, 2e6), (32,), (1, 10), (0.6, 1.1), (1,), (0.5, 0.2), 6, scanned=0.5,
           is_enumerable=True),
    Family("ranks", (20, 60), (1e4, 1e7), (16, 32, 64, 128), (1, 80), (0.4, 1.2), (2, 4, 8), (1.1, 0.5, 0.2), 12),
    Family("ranks-lumpy", (6, 14), (1e5, 2e7), (32, 64, 128), (1, 60), (0.4, 1.2), (2, 4, 8), (1.1, 0.4), 12,
           num_giants=2),
    Family("ranks-cliffs", (8, 24), (1e5, 4e6), (16, 64), (1, 20), (0.6, 1.1), (2, 4, 8), (0.6, 0.2), 9, scanned=0.4),
    Family("ranks-few", (2, 3), (1e5, 2e6), (32, 64), (1, 40), (0.4, 1.2), (2,), (1.1, 0.4), 6, is_enumerable=True),
)  # fmt: skip


def instances(family: Family) -> Iterator[Instance]:
    """All instances of a family, in order."""
    for number in range(family.num_instances):
        yield _instance(family, number)


def many_tables(num_tables: int, world_size: int, share: float = 0.2) -> Instance:
    """A large mixed model, for planning times: ``share`` of its bytes is there as DRAM, over all ranks."""
    family = Family(
        f"many-{num_tables}-{world_size}", (num_tables, num_tables), (1e3, 4e6), (16, 32, 64, 128), (1, 80),
        (0.4, 1.2), (world_size,), (share,), 1, batch_size=max(16, 2048 // max(8, world_size)),
    )  # fmt: skip
    return _instance(family, 0)


def _instance(family: Family, number: int) -> Instance:
    rng = np.random.default_rng([zlib.crc32(family.name.encode()), number])
    world_size = family.world_sizes[number % len(family.world_sizes)]
    share = family.shares[number % len(family.shares)]
    low, high = family.num_tables
    tables, profiles = [], {}
    for index in range(int(rng.integers(low, high + 1))):
        table, profile = _table(family, index, rng)
        tables.append(table)
        profiles[table.name] = profile
    total = sum(table_bytes(table, RowWiseAdagrad()) for table in tables)
    return Instance(
        name=f"{family.name}-{number}-ranks{world_size}-{share:g}",
        family=family.name,
        tables=tuple(tables),
        profile=AccessProfile(
            tables=profiles,
            num_samples=NUM_SAMPLES,
            batch_size=family.batch_size,
            look_ahead=2,
            source=f"instance {family.name}-{number}",
        ),
        world_size=world_size,
        batch_size=family.batch_size,
        dram_bytes=int(total * share / world_size),
        ssd_bytes=SSD_FACTOR * total,
        is_enumerable=family.is_enumerable,
    )


def _table(family: Family, index: int, rng: np.random.Generator) -> tuple[EmbeddingBagConfig, TableProfile]:
    low, high = np.log(family.num_rows)
    is_giant = index < family.num_giants
    num_rows = int(np.exp(high if is_giant else rng.uniform(low, high)))
    ids_per_bag = int(rng.integers(family.ids_per_bag[0], family.ids_per_bag[1] + 1))
    alpha = float(rng.uniform(*family.alpha))
    scanned = family.scanned * float(rng.uniform(0.5, 1.0))
    name = f"t{index:05d}"
    table = EmbeddingBagConfig(
        num_embeddings=num_rows,
        embedding_dim=int(rng.choice(family.dims)),
        name=name,
        feature_names=[f"f_{name}"],
    )
    length = int(num_rows * rng.uniform(0.05, 0.3))
    return table, zipf_profile(num_rows, ids_per_bag, alpha, family.batch_size, scanned, length)


def zipf_profile(
    num_rows: int, ids_per_bag: int, alpha: float, batch_size: int, scanned: float = 0.0, length: int = 0
) -> TableProfile:
    """A table read by Zipf's law in heat order; ``scanned`` of its lookups go round ``length`` cold rows."""
    cuts = np.unique(np.geomspace(1, num_rows, min(_NUM_CUTS, num_rows)).astype(np.int64)).astype(float)
    mass = np.diff(_zipf_share(np.concatenate(([0.0], cuts)), alpha))
    sizes = np.diff(np.concatenate(([0.0], cuts)))
    mass /= mass.sum()
    lookups = float(batch_size * ids_per_bag)
    heat = mass * (1 - scanned) + scanned * sizes / num_rows
    curve = _curve(cuts, np.cumsum(heat / heat.sum()))
    batches = [batch_size // 4, batch_size, batch_size * 4]
    uniques = [_distinct(sizes, heat / sizes, float(b * ids_per_bag)) for b in batches]
    prefixes = sorted({0, *(int(p) for p in num_rows * np.array([0.001, 0.01, 0.1, 0.3]) if p >= 1)})
    return TableProfile(
        num_rows=num_rows,
        num_lookups=NUM_SAMPLES * ids_per_bag,
        num_distinct_rows=num_rows,
        heat_curve=curve,
        place_curve=curve,
        place_curve_late=curve,
        miss_curves=tuple(
            curve
            for prefix in prefixes
            for curve in _miss_curves(prefix, cuts, sizes, mass * (1 - scanned), lookups, scanned, length)
        ),
        uniques_per_batch=tuple((float(b), u) for b, u in zip(batches, uniques)),
        pooling=((float(ids_per_bag), 1.0),),
        mean_pooling_factor=float(ids_per_bag),
        how="analytic",
    )


def _zipf_share(places: Floats, alpha: float) -> Floats:
    """Weight of the first places under Zipf's law, by the midpoint rule."""
    if abs(alpha - 1) < 1e-9:
        return np.log(places + 0.5)
    return ((places + 0.5) ** (1 - alpha)) / (1 - alpha)


def _curve(x: Floats, y: Floats) -> Curve:
    return tuple((float(a), float(min(b, 1.0))) for a, b in zip(x, y))


def _distinct(sizes: Floats, heat: Floats, lookups: float) -> float:
    return float((sizes * -np.expm1(-heat * lookups)).sum())


def _miss_curves(
    prefix: int, cuts: Floats, sizes: Floats, mass: Floats, lookups: float, scanned: float, length: int
) -> list[MissCurve]:
    """Che's approximation, batch by batch; what is scanned is read until the slots hold it all."""
    beyond = np.clip(np.minimum(sizes, cuts - prefix), 0, None)
    heat = mass / sizes
    horizon = np.concatenate(([0.0], np.geomspace(1, 1e12, 400)))
    held = (beyond[None] * -np.expm1(-heat[None] * horizon[:, None])).sum(1)
    read = (beyond * -np.expm1(-heat * lookups) * np.exp(-heat[None] * horizon[:, None])).sum(1) / lookups
    num_beyond = float(beyond.sum())
    slots = np.unique(np.geomspace(max(1.0, num_beyond / 4096), max(num_beyond, 1.0), 18).round())
    if scanned:
        slots = np.unique(np.concatenate((slots, [length * 0.999, length * 1.001]))).round()
    rows = np.interp(slots, held, read)
    lru = rows + scanned * (slots < length)
    frequent = rows * (1 - 0.15 * np.sin(np.pi * np.clip(slots / max(num_beyond, 1.0), 0, 1) ** 0.3))
    frequent += scanned * np.clip(1 - slots / max(length, 1), 0, 1)
    return [
        MissCurve(
            policy=policy,
            num_pinned_rows=prefix,
            points=_curve(slots, np.minimum.accumulate(np.clip(reads, 0, 1))),
        )
        for policy, reads in (("lru", lru), ("wtinylfu", frequent))
    ]


def reference_hardware() -> Hardware:
    """A made-up machine for instances, of round numbers near those of two cores and a local SSD; not measured."""
    found: list[Measurement] = []

    def add(what: str, unit: str, value: float, **arguments: float | str) -> None:
        found.append(
            Measurement(what=what, unit=unit, value=value, low=value, high=value, arguments=arguments)
        )

    arenas = [float(1 << bits) for bits in (20, 23, 26, 30, 34)]
    for row_bytes in (32.0, 64.0, 128.0, 256.0, 512.0, 1024.0):
        for misses, arena in enumerate(arenas):
            near = 2 + row_bytes / 40
            far = near * (1 + misses) + 2 * misses
            for number in (1, 32):
                add("forward", "ns", far + 4 / number, row_bytes=row_bytes, arena_bytes=arena, threads=2,
                    ids_per_bag=number, data_type="FP32")  # fmt: skip
            for number in (1, 8):
                add("update", "ns", 2 * far + 20 / number, row_bytes=row_bytes, arena_bytes=arena, threads=2,
                    lookups_per_row=number)  # fmt: skip
    for num_slots in (1e4, 1e6, 1e8):
        for number in (1, 8):
            ns = 3 + 4 * np.log10(num_slots / 1e3) + 10 / number
            add("translate", "ns", float(ns), num_slots=num_slots, lookups_per_row=number)
        add("miss", "ns", 100 * np.log10(num_slots), num_slots=num_slots)
    for record_bytes in (36.0, 132.0, 516.0, 1028.0):
        add("arrive", "ns", 400 + record_bytes, record_bytes=record_bytes)
        add("pack", "ns", 100 + record_bytes / 2, record_bytes=record_bytes)
        add("write out", "ns", 300 + 3 * record_bytes, record_bytes=record_bytes)
        add("write wall", "ns", 600 + 6 * record_bytes, record_bytes=record_bytes, buffer_share=1 / 64)
        add("read wall", "ns", 9e3 + record_bytes, record_bytes=record_bytes, bytes_per_row=4500.0, reads_per_row=0.7,
            rows=8192.0)  # fmt: skip
        add("read wall", "ns", 11e3 + record_bytes, record_bytes=record_bytes, bytes_per_row=4096.0, reads_per_row=1.0,
            rows=512.0)  # fmt: skip
        add("read cpu", "ns", 3e3, record_bytes=record_bytes)
    for num_bytes in (4096.0, 8192.0, 16384.0, 65536.0):
        for depth, rate in ((1, 12e3), (128, 90e3)):
            add("read", "1/s", rate / (1 + num_bytes / 65536), bytes=num_bytes, queue_depth=depth)
    add("write wall, small buffer", "ns", 3e3, record_bytes=260.0, buffer_share=1 / 256)
    add("exchange", "ns", 2e3, record_bytes=260.0, buffer_share=1 / 256)
    for share, wait in ((1 / 256, 1.5e3), (1 / 64, 1e2)):
        add("writer wait", "ns", wait, record_bytes=260.0, buffer_share=share)
    for reads in (1, 8, 64, 512):
        add("burst", "us", 60.0 + 11 * reads, bytes=4096, reads=float(reads), queue_depth=128)
    for batch in (64.0, 2048.0, 8192.0):
        add("dense", "1/s", 2e11 * batch / (batch + 128), batch=batch, threads=2)
    add("operation", "us", 8.0, threads=2)
    add("step calls", "us", 600.0, layers=3.0, flop=2e7, batch=64.0, lookups=4096.0, bags=512.0, row_bytes=64.0,
        arena_bytes=float(1 << 25))  # fmt: skip
    add("tiered calls", "us", 200.0)
    add("contention", "1", 0.3)
    for batch in (64.0, 4096.0):
        add("read contention", "1", 0.3, record_bytes=260.0, batch=batch)
    capacity = {"dram": 1 << 36, "ssd": 1 << 41}
    fingerprint = {"cpu": "reference", "cores": 2, "made": "by hotrow.planning.instances"}
    return Hardware(
        fingerprint=fingerprint,
        measured_at="2026-01-01T00:00:00Z",
        capacity_bytes=capacity,
        measurements=tuple(found),
    )
