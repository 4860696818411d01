"""Plans: which rows of which table live where, and in which form. Values only; nothing here runs.

A plan is, for every table, a short list of segments of places; a table with rows on ``ssd`` also has a cache. Every
value is frozen and checks itself; plans are files with a ``format_version`` (JSON schemas: ``hotrow/schemas``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from typing import TYPE_CHECKING, Any, ClassVar

from hotrow.core import IDENTITY_ORDER, DataType, EmbeddingConfig, Tier
from hotrow.document import Document, inside, refuse_others, take
from hotrow.errors import ConfigError, PlanInfeasible
from hotrow.sizes import parse_bytes, parse_rows, shown, whole

if TYPE_CHECKING:
    from hotrow.optim import Optimizer


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
        if (self.kind == "rank") != (self.rank is not None):
            raise ConfigError(
                f"owner: kind {self.kind!r} with rank={self.rank}; a rank >= 0 goes with kind 'rank' only"
            )
        if self.rank is not None:
            whole(self.rank, "owner: rank")

    def to_json(self) -> str:
        return f"rank:{self.rank}" if self.kind == "rank" else self.kind

    @classmethod
    def from_json(cls, text: str) -> Owner:
        found = re.fullmatch("rank:([0-9]{1,18})", str(text))
        if found is None and text not in ("all", "stripe"):
            raise ConfigError(f"owner: {shown(text)} is not 'all', 'stripe' or 'rank:N'")
        return cls(kind="rank", rank=int(found[1])) if found else cls(kind=text)


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
        where = f"segment [{shown(self.begin)}, {shown(self.end)})"
        if whole(self.begin, f"{where}: begin") >= whole(self.end, f"{where}: end", 1):
            raise ConfigError(f"{where}: begin must be below end")

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
        with inside(where):
            found = cls(
                begin=take(value, "begin", int, where),
                end=take(value, "end", int, where),
                tier=take(value, "tier", Tier, where),
                owner=Owner.from_json(take(value, "owner", str, where)),
                representation=take(value, "representation", Representation, where),
                data_type=take(value, "data_type", DataType, where),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


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
        whole(self.num_pinned_rows, "cache: num_pinned_rows")
        whole(self.capacity_bytes, "cache: capacity_bytes")

    def to_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "num_pinned_rows": self.num_pinned_rows,
            "capacity_bytes": self.capacity_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "cache") -> CacheSpec:
        with inside(where):
            found = cls(
                policy=take(value, "policy", str, where),
                num_pinned_rows=take(value, "num_pinned_rows", int, where),
                capacity_bytes=take(value, "capacity_bytes", int, where),
            )
        refuse_others(value, list(found.to_json()), where)
        return found


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """The segments of one table, in order of place, covering every row exactly once."""

    num_rows: int
    embedding_dim: int
    segments: tuple[Segment, ...]
    order_id: str = IDENTITY_ORDER
    cache: CacheSpec | None = None

    def check(self, name: str) -> None:
        """Raise PlanInfeasible, naming the rows, if the segments leave a hole or overlap, or the cache pins more rows
        than are on SSD; ConfigError for a table of no rows or no elements."""
        whole(self.num_rows, f"table {name!r}: num_rows", 1)
        whole(self.embedding_dim, f"table {name!r}: embedding_dim", 1)
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
        on_ssd = sum(segment.num_rows for segment in self.segments if segment.tier is Tier.SSD)
        if bool(on_ssd) != (self.cache is not None):
            raise PlanInfeasible(
                f"table {name!r}: {'ssd rows but no cache' if on_ssd else 'a cache but no ssd rows'}; "
                "a table has a cache exactly when it has rows on ssd"
            )
        if self.cache is not None and self.cache.num_pinned_rows > on_ssd:
            raise PlanInfeasible(
                f"table {name!r}: its cache pins {self.cache.num_pinned_rows} rows, {on_ssd} are on ssd; pin no more"
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
        found = cls(
            num_rows=take(value, "num_rows", int, where),
            embedding_dim=take(value, "embedding_dim", int, where),
            order_id=take(value, "order_id", str, where),
            segments=tuple(Segment.from_json(s, f"{where}.segments[{i}]") for i, s in enumerate(segments)),
            cache=None if cache is None else CacheSpec.from_json(cache, f"{where}.cache"),
        )
        refuse_others(value, list(found.to_json()), where)
        return found


DIGEST_NOTE = "tables_digest"
"""Among the planner's notes: ``Plan.tables_digest`` of the plan that they are about."""

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
        whole(self.world_size, "plan: world_size", 1)
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

    def explain(self, all_tables: bool = False) -> str:
        """What goes where and why, as text: tables, predicted parts of a step, gap, what more memory would buy.

        Of many tables those that read most are listed, the rest is summed up, unless ``all_tables``. What a profile and
        a measured run add: ``hotrow explain --profile --measured``.
        """
        from hotrow.explanation import explain

        return explain(self, all_tables=all_tables)

    def diff(self, other: Plan, all_tables: bool = False) -> str:
        """What changes from this plan to another, as text: tables, rows that move, caches, the predicted step."""
        from hotrow.explanation import diff

        return diff(self, other, all_tables)

    def with_orders(self, order_ids: Mapping[str, str]) -> Plan:
        """The same plan of tables whose places are in the orders named; in identity order where none is."""
        tables = {
            name: replace(table, order_id=order_ids.get(name, IDENTITY_ORDER))
            for name, table in self.tables.items()
        }
        return replace(self, tables=tables)

    def tables_digest(self) -> str:
        """``sha256:`` and the digest of where every row is: of ``tables`` as canonical JSON, and of ``world_size`` if
        there are several ranks, whatever the notes say.

        The planner notes it, so that a plan which was edited since is known, and so does a run of a plan.
        """
        told: dict[str, Any] = {name: table.to_json() for name, table in self.tables.items()}
        if self.world_size > 1:
            told = {"tables": told, "world_size": self.world_size}
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def is_edited(self) -> bool:
        """Whether its planner noted a digest of other tables: then its other notes are of another plan."""
        planner = self.notes.get("planner")
        noted = planner.get(DIGEST_NOTE) if isinstance(planner, Mapping) else None
        return noted is not None and noted != self.tables_digest()

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
