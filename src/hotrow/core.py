"""The nouns: table configurations, segments, plans, hardware, access profiles. Values only; nothing here runs.

Every value is frozen, checks itself on construction, and those that live in files have ``to_json``/``from_json``,
``save``/``load`` and a ``format_version`` (JSON schemas: ``hotrow/schemas``). Words are those of ``docs/words.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, unique
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from hotrow.document import Document, take
from hotrow.errors import ConfigError, PlanInfeasible
from hotrow.sizes import parse_bytes, parse_rows

if TYPE_CHECKING:
    import torch

    from hotrow.optim import Optimizer

IDENTITY_ORDER = "identity"
"""``order_id`` of a table whose places are its row ids."""


INT8_TAIL_BYTES = 8
"""Bytes of scale and bias, both fp32, behind the elements of an INT8 row."""


@unique
class PoolingType(Enum):
    """How the rows of a bag become one vector."""

    SUM = "SUM"
    MEAN = "MEAN"
    NONE = "NONE"


@unique
class DataType(Enum):
    """Precision of a row. INT8 rows carry an fp32 scale and an fp32 bias of their own and cannot be trained."""

    FP32 = "FP32"
    BF16 = "BF16"
    INT8 = "INT8"

    def row_bytes(self, embedding_dim: int) -> int:
        """Bytes of one row, without optimizer state."""
        return {
            "FP32": 4 * embedding_dim,
            "BF16": 2 * embedding_dim,
            "INT8": embedding_dim + INT8_TAIL_BYTES,
        }[self.value]


@dataclass
class EmbeddingConfig:
    """One embedding table without pooling. Field names and order follow TorchRec's.

    num_embeddings: rows. embedding_dim: elements per row. feature_names: features that look up in this table.
    weight_init_min/max: bounds of the uniform initial values, ±1/sqrt(num_embeddings) if None.
    init_fn: called with the fp32 table to fill it in place, instead of the uniform values.

    Raises ConfigError for sizes below 1, an empty or repeated name.
    """

    num_embeddings: int
    embedding_dim: int
    name: str = ""
    data_type: DataType = DataType.FP32
    feature_names: list[str] = field(default_factory=list)
    weight_init_max: float | None = None
    weight_init_min: float | None = None
    init_fn: Callable[[torch.Tensor], Any] | None = None

    def __post_init__(self) -> None:
        where = f"table {self.name!r}"
        sizes = (self.num_embeddings, self.embedding_dim)
        if any(not isinstance(size, Integral) or isinstance(size, bool) or size < 1 for size in sizes):
            raise ConfigError(
                f"{where}: num_embeddings={self.num_embeddings!r}, embedding_dim={self.embedding_dim!r}; "
                "both must be whole numbers >= 1"
            )
        if isinstance(self.feature_names, str):
            raise ConfigError(
                f"{where}: feature_names={self.feature_names!r} is a text; give a list of names"
            )
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ConfigError(f"{where}: feature_names {self.feature_names} has a name twice; give each once")
        if not isinstance(self.data_type, DataType):
            raise ConfigError(
                f"{where}: data_type={self.data_type!r} is not a DataType; give DataType.FP32, BF16 or INT8"
            )
        low, high = self.init_bounds()
        if not low <= high:
            raise ConfigError(f"{where}: weight_init_min={low} is above weight_init_max={high}")

    def init_bounds(self) -> tuple[float, float]:
        """Bounds of the uniform initial values."""
        bound = self.num_embeddings**-0.5
        low = -bound if self.weight_init_min is None else self.weight_init_min
        high = bound if self.weight_init_max is None else self.weight_init_max
        return low, high


@dataclass
class EmbeddingBagConfig(EmbeddingConfig):
    """One embedding table whose rows are pooled per bag."""

    pooling: PoolingType = PoolingType.SUM

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.pooling, PoolingType):
            raise ConfigError(
                f"table {self.name!r}: pooling={self.pooling!r} is not a PoolingType; give PoolingType.SUM or MEAN"
            )


@unique
class Tier(Enum):
    """Where rows are."""

    HBM = "hbm"
    DRAM = "dram"
    SSD = "ssd"


@unique
class Representation(Enum):
    """What a row is made from."""

    TABLE = "table"
    DHE = "dhe"
    HYBRID = "hybrid"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a segment: every rank (``all``), one ``rank``, or a ``stripe`` (place mod world size)."""

    kind: str = "all"
    rank: int | None = None

    KINDS: ClassVar[tuple[str, ...]] = ("all", "rank", "stripe")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ConfigError(f"owner: kind {self.kind!r} is not one of {', '.join(self.KINDS)}")
        if (self.kind == "rank") != (self.rank is not None) or (self.rank is not None and self.rank < 0):
            raise ConfigError(
                f"owner: kind {self.kind!r} with rank={self.rank}; a rank >= 0 goes with kind 'rank' only"
            )

    def to_json(self) -> str:
        return f"rank:{self.rank}" if self.kind == "rank" else self.kind

    @classmethod
    def from_json(cls, text: str) -> Owner:
        kind, _, rank = str(text).partition(":")
        if kind == "rank" and not rank.isdigit():
            raise ConfigError(f"owner: {text!r} is not 'all', 'stripe' or 'rank:N'")
        return cls(kind=kind, rank=int(rank) if kind == "rank" else None)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A half-open range of places ``[begin, end)`` of one table that are treated alike."""

    begin: int
    end: int
    tier: Tier = Tier.DRAM
    owner: Owner = field(default_factory=Owner)
    representation: Representation = Representation.TABLE
    data_type: DataType = DataType.FP32

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end:
            raise ConfigError(f"segment [{self.begin}, {self.end}): begin must be >= 0 and below end")

    @property
    def num_rows(self) -> int:
        return self.end - self.begin

    def to_json(self) -> dict[str, Any]:
        return {
            "begin": self.begin,
            "end": self.end,
            "tier": self.tier.value,
            "owner": self.owner.to_json(),
            "representation": self.representation.value,
            "data_type": self.data_type.value,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "segment") -> Segment:
        return cls(
            begin=take(value, "begin", int, where),
            end=take(value, "end", int, where),
            tier=take(value, "tier", Tier, where),
            owner=Owner.from_json(take(value, "owner", str, where)),
            representation=take(value, "representation", Representation, where),
            data_type=take(value, "data_type", DataType, where),
        )


@dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """The cache in front of a table's ``ssd`` rows: policy, pinned rows (a prefix of places) and bytes in all."""

    policy: str
    num_pinned_rows: int
    capacity_bytes: int

    POLICIES: ClassVar[tuple[str, ...]] = ("none", "pinned", "lru", "wtinylfu", "generation")

    def __post_init__(self) -> None:
        if self.policy not in self.POLICIES:
            raise ConfigError(f"cache: policy {self.policy!r} is not one of {', '.join(self.POLICIES)}")
        if self.num_pinned_rows < 0 or self.capacity_bytes < 0:
            raise ConfigError(
                f"cache: num_pinned_rows={self.num_pinned_rows}, capacity_bytes={self.capacity_bytes}; give >= 0"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "num_pinned_rows": self.num_pinned_rows,
            "capacity_bytes": self.capacity_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "cache") -> CacheSpec:
        return cls(
            policy=take(value, "policy", str, where),
            num_pinned_rows=take(value, "num_pinned_rows", int, where),
            capacity_bytes=take(value, "capacity_bytes", int, where),
        )


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """The segments of one table, in order of place, covering every row exactly once."""

    num_rows: int
    embedding_dim: int
    segments: tuple[Segment, ...]
    order_id: str = IDENTITY_ORDER
    cache: CacheSpec | None = None

    def check(self, name: str) -> None:
        """Raise PlanInfeasible, naming the rows, if the segments leave a hole or overlap."""
        place = 0
        for segment in self.segments:
            if segment.begin != place:
                what = "hole" if segment.begin > place else "overlap"
                low, high = sorted((segment.begin, place))
                raise PlanInfeasible(
                    f"table {name!r}: {what} at rows [{low}, {high}); segments must join end to begin"
                )
            place = segment.end
        if place != self.num_rows:
            raise PlanInfeasible(
                f"table {name!r}: segments end at row {place}, the table has {self.num_rows}; "
                f"give rows [{min(place, self.num_rows)}, {max(place, self.num_rows)}) exactly one segment"
            )
        has_ssd = any(segment.tier is Tier.SSD for segment in self.segments)
        if has_ssd != (self.cache is not None):
            raise PlanInfeasible(
                f"table {name!r}: {'ssd rows but no cache' if has_ssd else 'a cache but no ssd rows'}; "
                "a table has a cache exactly when it has rows on ssd"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows,
            "embedding_dim": self.embedding_dim,
            "order_id": self.order_id,
            "segments": [segment.to_json() for segment in self.segments],
            "cache": self.cache.to_json() if self.cache else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TablePlan:
        segments = take(value, "segments", list, where)
        cache = take(value, "cache", (dict, type(None)), where)
        return cls(
            num_rows=take(value, "num_rows", int, where),
            embedding_dim=take(value, "embedding_dim", int, where),
            order_id=take(value, "order_id", str, where),
            segments=tuple(Segment.from_json(s, f"{where}.segments[{i}]") for i, s in enumerate(segments)),
            cache=None if cache is None else CacheSpec.from_json(cache, f"{where}.cache"),
        )


DRAM_ROW_OVERHEAD_BYTES = 2
"""What is known of a row in DRAM whose changes are to be committed: counted beside its bytes and state."""


def table_bytes(table: EmbeddingConfig, optimizer: Optimizer | None) -> int:
    """Bytes that a table takes in DRAM: rows, optimizer state, and what a commit wants to know of them."""
    is_trained = optimizer is not None and table.data_type is not DataType.INT8
    state = optimizer.state_bytes_per_row(table.embedding_dim) if is_trained and optimizer else 0
    row = table.data_type.row_bytes(table.embedding_dim)
    return table.num_embeddings * (row + state + DRAM_ROW_OVERHEAD_BYTES)


def _take_known(choice: Any, known: Sequence[str], what: str) -> Mapping[str, Any]:
    if not isinstance(choice, Mapping):
        raise ConfigError(f"{what} is {choice!r}; give fields {', '.join(known)}")
    foreign = [name for name in choice if name not in known]
    if foreign:
        raise ConfigError(f"{what} has {foreign[0]!r}, which is not one of {', '.join(known)}")
    return choice


def choose_table(table: EmbeddingConfig, choice: Any) -> TablePlan:
    """One table's part of ``Plan.manual``."""
    num_rows, where = table.num_embeddings, f"plan: table {table.name!r}"
    cache, num_dram, spec = None, num_rows, None
    if choice != "dram":
        chosen = _take_known(choice, ("dram_rows", "cache"), f"{where}: choice")
        num_dram = parse_rows(chosen.get("dram_rows", 0), num_rows, f"{where}: dram_rows")
        cache = chosen.get("cache")
    if (cache is None) != (num_dram == num_rows):
        remedy = "leave 'cache' out" if cache is not None else "give 'cache' with 'bytes', or \"dram\""
        raise ConfigError(f"{where}: {num_rows - num_dram} of {num_rows} rows are on ssd; {remedy}")
    if cache is not None:
        cache = _take_known(cache, ("policy", "pinned_rows", "bytes"), f"{where}: cache")
        if "bytes" not in cache:
            raise ConfigError(f"{where}: cache has no 'bytes'; say how much DRAM it may take, as '64MiB'")
        spec = CacheSpec(
            policy=cache.get("policy", "lru"),
            num_pinned_rows=parse_rows(
                cache.get("pinned_rows", 0), num_rows - num_dram, f"{where}: pinned_rows"
            ),
            capacity_bytes=parse_bytes(cache["bytes"], f"{where}: cache bytes"),
        )
    cuts = ((0, num_dram, Tier.DRAM), (num_dram, num_rows, Tier.SSD))
    segments = (Segment(begin=a, end=b, tier=t, data_type=table.data_type) for a, b, t in cuts if a < b)
    return TablePlan(
        num_rows=num_rows, embedding_dim=table.embedding_dim, segments=tuple(segments), cache=spec
    )


@dataclass(frozen=True, kw_only=True)
class Plan(Document):
    """For every table a short list of segments of heat-ordered rows, and a cache where rows are on ``ssd``.

    ``notes`` holds what the planner wants to explain later (predicted parts, gap); nothing reads it to run.
    Raises PlanInfeasible on construction if any row is in no segment or in two.
    """

    FORMAT: ClassVar[str] = "hotrow-plan"
    FORMAT_VERSION: ClassVar[int] = 1

    tables: Mapping[str, TablePlan]
    world_size: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.world_size < 1:
            raise ConfigError(f"plan: world_size={self.world_size} must be >= 1")
        for name, table in self.tables.items():
            table.check(name)
            for segment in table.segments:
                if segment.owner.rank is not None and segment.owner.rank >= self.world_size:
                    raise PlanInfeasible(
                        f"table {name!r}: rows [{segment.begin}, {segment.end}) belong to rank {segment.owner.rank}, "
                        f"but world_size is {self.world_size}"
                    )

    @classmethod
    def manual(cls, choices: Mapping[str, Any], tables: Sequence[EmbeddingConfig]) -> Plan:
        """A plan built by hand. choices: per table ``"dram"`` or ``{"dram_rows": ..., "cache": {...}}``.

        ``dram_rows``: how many of the table's first places live in DRAM for ever, rows or a fraction (0.25), 0 if left
        out. All other rows live on SSD behind a cache of ``"bytes"`` (a number or a text such as ``"64MiB"``), which
        count everything: cached rows with their optimizer state, what is known about them, buffers. ``"policy"`` is
        one of ``CacheSpec.POLICIES``, ``"lru"`` if left out; ``"pinned_rows"``: how many rows of the cache's are
        pinned, the first that are on SSD, rows or a fraction of those. Tables that are not named stay in DRAM.

        ::

            Plan.manual({"items": {"cache": {"bytes": "1GiB"}},
                         "users": {"dram_rows": 0.01, "cache": {"policy": "wtinylfu", "bytes": "256MiB"}}}, tables)

        Raises ConfigError naming the table and the choice that cannot be.
        """
        by_name = {table.name: table for table in tables}
        foreign = [name for name in choices if name not in by_name]
        if foreign:
            raise ConfigError(f"plan: no table is named {foreign[0]!r}; tables are {', '.join(by_name)}")
        plans = {name: choose_table(table, choices.get(name, "dram")) for name, table in by_name.items()}
        return cls(tables=plans)

    @classmethod
    def within(
        cls,
        tables: Sequence[EmbeddingConfig],
        dram_bytes: int | str,
        optimizer: Optimizer | None,
        policy: str = "lru",
    ) -> Plan:
        """A plan for a DRAM budget by a simple rule: every table gets the same share of ``dram_bytes``.

        A table that takes less stays whole in DRAM and leaves what it does not need to the others; the rest live on
        SSD behind a cache of their share. optimizer: its state counts with the rows. Nothing is known of heat here.
        """
        sizes = {table.name: table_bytes(table, optimizer) for table in tables}
        left, choices = parse_bytes(dram_bytes, "dram_bytes"), dict[str, Any]()
        for waiting, table in enumerate(sorted(tables, key=lambda t: sizes[t.name])):
            share = left // (len(tables) - waiting)
            is_small = sizes[table.name] <= share
            choices[table.name] = "dram" if is_small else {"cache": {"policy": policy, "bytes": share}}
            left -= sizes[table.name] if is_small else share
        return cls.manual(choices, tables)

    @classmethod
    def in_memory(cls, tables: Sequence[EmbeddingConfig]) -> Plan:
        """The plan that ``plan=None`` stands for: every table whole in DRAM, as a table, in its own precision."""
        return cls(
            tables={
                t.name: TablePlan(
                    num_rows=t.num_embeddings,
                    embedding_dim=t.embedding_dim,
                    segments=(Segment(begin=0, end=t.num_embeddings, data_type=t.data_type),),
                )
                for t in tables
            }
        )

    def body(self) -> dict[str, Any]:
        return {
            "world_size": self.world_size,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "notes": dict(self.notes),
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> Plan:
        tables = take(body, "tables", dict, where)
        return cls(
            world_size=take(body, "world_size", int, where),
            tables={name: TablePlan.from_json(t, f"{where}: tables.{name}") for name, t in tables.items()},
            notes=take(body, "notes", dict, where),
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured quantity: what, at which argument (bytes, queue depth, ...), value, unit, and its spread."""

    what: str
    unit: str
    value: float
    low: float
    high: float
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "arguments": dict(self.arguments),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Measurement:
        return cls(
            what=take(value, "what", str, where),
            unit=take(value, "unit", str, where),
            value=take(value, "value", float, where),
            low=take(value, "low", float, where),
            high=take(value, "high", float, where),
            arguments=take(value, "arguments", dict, where),
        )


@dataclass(frozen=True, kw_only=True)
class Hardware(Document):
    """A machine as measured: fingerprint (what it is), capacity per tier, and measurements with their spread."""

    FORMAT: ClassVar[str] = "hotrow-hardware"
    FORMAT_VERSION: ClassVar[int] = 1

    fingerprint: Mapping[str, Any]
    measured_at: str
    capacity_bytes: Mapping[str, int]
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        known = {tier.value for tier in Tier}
        for tier, size in self.capacity_bytes.items():
            if tier not in known or size < 0:
                raise ConfigError(
                    f"hardware: capacity_bytes {tier}={size}; tiers are {sorted(known)}, bytes >= 0"
                )

    def body(self) -> dict[str, Any]:
        return {
            "fingerprint": dict(self.fingerprint),
            "measured_at": self.measured_at,
            "capacity_bytes": dict(self.capacity_bytes),
            "measurements": [m.to_json() for m in self.measurements],
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> Hardware:
        measurements = take(body, "measurements", list, where)
        return cls(
            fingerprint=take(body, "fingerprint", dict, where),
            measured_at=take(body, "measured_at", str, where),
            capacity_bytes=take(body, "capacity_bytes", dict, where),
            measurements=tuple(
                Measurement.from_json(m, f"{where}: measurements[{i}]") for i, m in enumerate(measurements)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TableProfile:
    """How one table is accessed.

    heat_curve: (rows, share of accesses) points, hottest rows first, rising to (distinct rows, 1.0).
    miss_ratio_curve: (cache rows, LRU miss ratio) points. uniques_per_batch: (batch size, distinct rows) points.
    exact: whether counts are exact or sketched.
    """

    num_rows: int
    num_lookups: int
    num_distinct_rows: int
    heat_curve: tuple[tuple[float, float], ...]
    miss_ratio_curve: tuple[tuple[float, float], ...] = ()
    uniques_per_batch: tuple[tuple[float, float], ...] = ()
    mean_pooling_factor: float = 1.0
    order_id: str = IDENTITY_ORDER
    exact: bool = True

    def __post_init__(self) -> None:
        shares = [share for _, share in self.heat_curve]
        if any(b < a for a, b in zip(shares, shares[1:])) or any(not 0 <= s <= 1 + 1e-9 for s in shares):
            raise ConfigError("profile: heat_curve must rise from 0 to 1; make the profile again")

    def to_json(self) -> dict[str, Any]:
        curve_names = ("heat_curve", "miss_ratio_curve", "uniques_per_batch")
        value: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return value | {name: [list(point) for point in value[name]] for name in curve_names}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TableProfile:
        def curve(name: str) -> tuple[tuple[float, float], ...]:
            return tuple((float(x), float(y)) for x, y in take(value, name, list, where))

        return cls(
            num_rows=take(value, "num_rows", int, where),
            num_lookups=take(value, "num_lookups", int, where),
            num_distinct_rows=take(value, "num_distinct_rows", int, where),
            heat_curve=curve("heat_curve"),
            miss_ratio_curve=curve("miss_ratio_curve"),
            uniques_per_batch=curve("uniques_per_batch"),
            mean_pooling_factor=take(value, "mean_pooling_factor", float, where),
            order_id=take(value, "order_id", str, where),
            exact=take(value, "exact", bool, where),
        )


@dataclass(frozen=True, kw_only=True)
class AccessProfile(Document):
    """Heat, reuse and pooling of every table, measured in one pass over ``num_samples`` samples."""

    FORMAT: ClassVar[str] = "hotrow-profile"
    FORMAT_VERSION: ClassVar[int] = 1

    tables: Mapping[str, TableProfile]
    num_samples: int
    source: str = ""

    def body(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "source": self.source,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> AccessProfile:
        tables = take(body, "tables", dict, where)
        return cls(
            num_samples=take(body, "num_samples", int, where),
            source=take(body, "source", str, where),
            tables={name: TableProfile.from_json(t, f"{where}: tables.{name}") for name, t in tables.items()},
        )
