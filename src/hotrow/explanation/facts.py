"""Facts of a plan: what its segments and its planner's notes say, with a profile and a measured run if there are any.

Notes are read with suspicion: they may be missing, of an older planner, or edited by hand. What is not there, or is no
number, is ``None``, and ``PlanFacts.unknown`` says so in words.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotrow.core import Tier
from hotrow.document import read_json, take
from hotrow.errors import ConfigError, FormatError
from hotrow.plans import DIGEST_NOTE, CacheSpec, Owner, Plan, Representation, Segment, TablePlan
from hotrow.profiles import AccessProfile, Curve, TableProfile

PINNED = "pinned"
"""Where a stretch is that lives on SSD with a copy in its cache for ever; other stretches are at their tier's name."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Places ``[begin, end)`` that are treated alike: a segment, or the pinned or the other rows of one on SSD.

    num_bytes: of their elements, once, without state and replicas. share: of the table's accesses, None if not known.
    """

    begin: int
    end: int
    where: str
    owner: Owner
    representation: Representation
    data_type: str
    num_bytes: int
    share: float | None = None

    @property
    def num_rows(self) -> int:
        return self.end - self.begin

    def is_plain(self) -> bool:
        """Whether everything but where it is goes without saying."""
        return (self.owner, self.representation) == (Owner(), Representation.TABLE)


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """One table under a plan; numbers that end in ``_per_step`` are of all ranks that share it.

    tier_bytes: what the planner counts per tier, state, indexes and caches included; without its notes, elements and
    the cache. hit_rate: lookups that find their row in memory. at_least: whether it is a lower bound (the share of the
    rows that always are there). measured_rows_read: rows read per step in a measured run.
    """

    name: str
    num_rows: int
    embedding_dim: int
    order_id: str
    stretches: tuple[Stretch, ...]
    cache: CacheSpec | None
    tier_bytes: Mapping[str, float]
    is_counted: bool = False
    hit_rate: float | None = None
    at_least: bool = False
    rows_read_per_step: float | None = None
    rows_read_per_lookup: float | None = None
    lookups_per_step: float | None = None
    distinct_per_step: float | None = None
    pages_per_step: float | None = None
    measured_rows_read: float | None = None
    why: str = ""

    def rows_at(self, *where: str) -> int:
        return sum(s.num_rows for s in self.stretches if s.where in where)

    @property
    def num_ssd_rows(self) -> int:
        return self.rows_at(Tier.SSD.value, PINNED)

    @property
    def effect(self) -> tuple[float, float, float]:
        """What tables are sorted by: rows read in a step, then bytes in memory, then rows."""
        in_memory = sum(size for tier, size in self.tier_bytes.items() if tier != Tier.SSD.value)
        return (self.rows_read_per_step or 0.0, in_memory, float(self.num_rows))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run measured: seconds of a step (median, low, high; the mean) and of its parts, rows read by table.

    Parts are means, and a prediction is of the mean. tables_digest: of the plan that it ran by, empty if there was
    none. shapes: (rows, dim) of its tables, None in files of before it was written. setting: batch_size and look_ahead.
    """

    step_seconds: tuple[float, float, float]
    mean_seconds: float
    parts: Mapping[str, float]
    rows_read_per_step: Mapping[str, float]
    num_steps: int
    source: str = ""
    tables_digest: str = ""
    shapes: Mapping[str, tuple[int, int]] | None = None
    setting: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlanFacts:
    """A plan as values.

    budget_bytes: per tier. used_bytes: per tier, of every rank. slowest_rank: whose step is predicted. prices: seconds
    saved in a step by one more GiB of a tier. remarks: the planner's warnings. unknown: sentences about what is not
    known. is_edited: whether the plan is another than its notes are about; then nothing of them is told that depends on
    it. measured_remark: why what was measured is not of this plan, empty if it is.
    """

    tables: tuple[TableFacts, ...]
    world_size: int
    is_planned: bool
    objective: str = ""
    batch_size: int | None = None
    look_ahead: int | None = None
    budget_bytes: Mapping[str, float] = field(default_factory=dict)
    used_bytes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    step_seconds: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    slowest_rank: int | None = None
    bound_seconds: float | None = None
    gap: float | None = None
    bound_method: str = ""
    prices: Mapping[str, float] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    measured: Measured | None = None
    remarks: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    is_edited: bool = False
    measured_remark: str = ""

    @property
    def num_rows(self) -> int:
        return sum(table.num_rows for table in self.tables)


def number(value: Any) -> float | None:
    """``value`` if it is a finite number >= 0, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, int) and value.bit_length() > 1000):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _share(value: Any) -> float | None:
    """``value`` if it is a number in [0, 1], else None."""
    found = number(value)
    return found if found is not None and found <= 1 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _numbers(value: Any) -> dict[str, float]:
    found = {str(name): number(item) for name, item in _mapping(value).items()}
    return {name: item for name, item in found.items() if item is not None}


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, map(_text, value))) if isinstance(value, (list, tuple)) else ()


def at(curve: Curve, x: float, last: float) -> float:
    """A rising curve of shares at x: from (0, 0) through its points, straight between them, to (last, 1)."""
    xs = [0.0, *(point[0] for point in curve)]
    ys = [0.0, *(point[1] for point in curve)]
    if xs[-1] < last:
        xs.append(float(last))
        ys.append(1.0)
    if x >= xs[-1]:
        return ys[-1]
    right = max(bisect_left(xs, x), 1)
    width = xs[right] - xs[right - 1]
    return (
        ys[right] if width <= 0 else ys[right - 1] + (ys[right] - ys[right - 1]) * (x - xs[right - 1]) / width
    )


def curve_of_places(profile: TableProfile, order_id: str) -> Curve:
    """Share of accesses by places of a plan with ``order_id``; empty if the profile was made in another order.

    Where the profile kept no curve in the table's order, the one by heat stands for it.
    """
    if profile.order_id != order_id:
        return ()
    return profile.place_curve or profile.heat_curve


def _pieces(table: TablePlan, world_size: int) -> Iterator[tuple[int, int, str, Segment]]:
    """(begin, end, where, segment), the pinned rows apart: the first of those on SSD, as many as the cache pins.

    A cache is one rank's, so of rows that are striped each rank pins that many.
    """
    left = table.cache.num_pinned_rows if table.cache else 0
    if any(s.tier is Tier.SSD and s.owner.kind == "stripe" for s in table.segments):
        left *= world_size
    for segment in table.segments:
        if segment.tier is not Tier.SSD or left <= 0:
            yield segment.begin, segment.end, segment.tier.value, segment
            continue
        cut = min(segment.begin + left, segment.end)
        left -= cut - segment.begin
        yield segment.begin, cut, PINNED, segment
        if cut < segment.end:
            yield cut, segment.end, segment.tier.value, segment


def stretches_of(
    table: TablePlan, profile: TableProfile | None = None, world_size: int = 1
) -> tuple[Stretch, ...]:
    """The stretches of a table, with their share of accesses if its profile is given."""
    curve = curve_of_places(profile, table.order_id) if profile else ()
    found = []
    for begin, end, where, segment in _pieces(table, world_size):
        has_rows = segment.representation is not Representation.DHE
        row_bytes = segment.data_type.row_bytes(table.embedding_dim) if has_rows else 0
        share = (
            at(curve, end, table.num_rows) - at(curve, begin, table.num_rows) if curve and profile else None
        )
        found.append(
            Stretch(
                begin=begin,
                end=end,
                where=where,
                owner=segment.owner,
                representation=segment.representation,
                data_type=segment.data_type.value,
                num_bytes=(end - begin) * row_bytes,
                share=share,
            )
        )
    return tuple(found)


def _bytes_without_notes(table: TablePlan, stretches: Sequence[Stretch]) -> dict[str, float]:
    """Elements per tier and the cache: what a plan itself says of bytes."""
    found: dict[str, float] = {}
    for stretch in stretches:
        tier = Tier.SSD.value if stretch.where == PINNED else stretch.where
        found[tier] = found.get(tier, 0.0) + stretch.num_bytes
    if table.cache:
        found[Tier.DRAM.value] = found.get(Tier.DRAM.value, 0.0) + table.cache.capacity_bytes
    return found


def _hit_rate(stretches: Sequence[Stretch], notes: Mapping[str, Any]) -> tuple[float | None, bool]:
    """Of the notes; else what is in memory for ever, which is all of it where nothing is on SSD alone."""
    noted = number(notes.get("hit_rate"))
    if noted is not None:
        return min(noted, 1.0), False
    if all(s.where not in (Tier.SSD.value, PINNED) for s in stretches):
        return 1.0, False
    resident = [s.share for s in stretches if s.where != Tier.SSD.value]
    if any(s.share is None for s in stretches):
        return None, False
    return min(sum(share or 0.0 for share in resident), 1.0), True


def _table_facts(
    name: str,
    table: TablePlan,
    notes: Mapping[str, Any],
    profile: TableProfile | None,
    measured: Measured | None,
    world_size: int,
) -> TableFacts:
    stretches = stretches_of(table, profile, world_size)
    counted = _numbers(notes.get("bytes"))
    hit_rate, at_least = _hit_rate(stretches, notes)
    is_in_memory = table.cache is None
    reads = {
        key: 0.0 if is_in_memory and key.startswith("rows_read") else number(notes.get(key))
        for key in (
            "rows_read_per_step",
            "rows_read_per_lookup",
            "lookups_per_step",
            "distinct_per_step",
            "pages_per_step",
        )
    }
    return TableFacts(
        name=name,
        num_rows=table.num_rows,
        embedding_dim=table.embedding_dim,
        order_id=table.order_id,
        stretches=stretches,
        cache=table.cache,
        tier_bytes=counted or _bytes_without_notes(table, stretches),
        is_counted=bool(counted),
        hit_rate=hit_rate,
        at_least=at_least,
        measured_rows_read=measured.rows_read_per_step.get(name) if measured else None,
        why=_text(notes.get("why")),
        **reads,
    )


def check_profile(plan: Plan, profile: AccessProfile, where: str = "profile") -> None:
    """Raise ConfigError naming the first table of the plan that the profile lacks, or has with other rows."""
    for name, table in plan.tables.items():
        found = profile.tables.get(name)
        if found is None:
            known = ", ".join(list(profile.tables)[:8]) + (", ..." if len(profile.tables) > 8 else "")
            raise ConfigError(
                f"{where}: no table {name!r}, which the plan has; it has {known or 'none'}; "
                "give the profile that the plan was made from"
            )
        if found.num_rows != table.num_rows:
            raise ConfigError(
                f"{where}: table {name!r} has {found.num_rows} rows, {table.num_rows} in the plan; "
                "give the profile that the plan was made from"
            )


def read_measured(path: str | Path) -> Measured:
    """What a run measured, from its directory or from the ``measured.json`` in it.

    Raises ConfigError if there is none and FormatError for a file that is something else.
    """
    path = Path(path)
    file = path / "measured.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; 'hotrow train' writes it into the directory of a run")
    value, where = read_json(file), str(file)
    step, parts = take(value, "step_seconds", dict, where), take(value, "parts", dict, where)
    numbers = {key: number(step.get(key)) for key in ("median", "low", "high")}
    median = numbers["median"]
    if median is None or len(_numbers(parts)) != len(parts):
        raise FormatError(f"{where}: step_seconds.median and every one of parts must be a number >= 0")
    return Measured(
        step_seconds=(
            median,
            median if numbers["low"] is None else numbers["low"],
            median if numbers["high"] is None else numbers["high"],
        ),
        mean_seconds=number(step.get("mean")) or median,
        parts=_numbers(parts),
        rows_read_per_step=_numbers(value.get("rows_read_per_step")),
        num_steps=int(number(value.get("num_steps")) or 0),
        source=str(path),
        tables_digest=_text(_mapping(value.get("plan")).get(DIGEST_NOTE)),
        shapes=_shapes(value.get("tables")),
        setting={
            name: int(found)
            for name in ("batch_size", "look_ahead")
            if (found := number(value.get(name))) is not None
        },
    )


def _shapes(value: Any) -> dict[str, tuple[int, int]] | None:
    """(rows, dim) of a run's tables; None unless it says both of every table."""
    if not isinstance(value, Mapping):
        return None
    found = {}
    for name, table in value.items():
        rows, dim = (number(_mapping(table).get(key)) for key in ("num_rows", "embedding_dim"))
        if rows is None or dim is None:
            return None
        found[str(name)] = (int(rows), int(dim))
    return found


def check_measured(plan: Plan, measured: Measured) -> str:
    """Why what a run measured is not of this plan, in words; empty if it is.

    Raises ConfigError, naming the first table, for a run of a model with other tables.
    """
    where, remedy = measured.source or "measured", "give a run of the plan's model"
    shapes = measured.shapes
    if shapes is None:
        return f"{where} does not say by which plan it ran: what was measured may be another plan's."
    for name, table in plan.tables.items():
        if name not in shapes:
            raise ConfigError(f"{where}: the run has no table {name!r}, which the plan has; {remedy}")
        if shapes[name] != (table.num_rows, table.embedding_dim):
            raise ConfigError(
                f"{where}: the run's table {name!r} has {shapes[name][0]} rows of {shapes[name][1]}, "
                f"{table.num_rows} of {table.embedding_dim} in the plan; {remedy}"
            )
    for name in shapes:
        if name not in plan.tables:
            raise ConfigError(f"{where}: the run has a table {name!r}, which the plan has not; {remedy}")
    if not measured.tables_digest:
        return f"{where} ran without a plan, all rows in memory: what was measured is not this plan's."
    if measured.tables_digest != plan.tables_digest():
        return f"{where} ran by another plan: what was measured is not this plan's."
    other = made_for_other_steps(_notes(plan), measured.setting)
    return f"{where}: {other}: what is predicted is not of those steps." if other else ""


def made_for_other_steps(notes: Mapping[str, Any], setting: Mapping[str, int]) -> str:
    """Why what a planner predicted (its notes) is not of a run's steps, in words; empty if it is, or nobody says.

    setting: batch_size and look_ahead of the run.
    """
    if notes.get("objective", "train") != "train":
        return f"the plan was made to {notes['objective']}, these are training steps"
    for name, value in setting.items():
        planned = notes.get(name)
        if planned is not None and planned != value:
            return f"the plan was made for {name} {planned}, the run has {value}"
    return ""


def _used(value: Any) -> dict[str, tuple[float, ...]]:
    """Per tier the bytes of every rank; one number stands for one rank."""
    found = {}
    for tier, ranks in _mapping(value).items():
        listed = ranks if isinstance(ranks, (list, tuple)) else [ranks]
        sizes = [number(size) for size in listed]
        if sizes and None not in sizes:
            found[str(tier)] = tuple(size for size in sizes if size is not None)
    return found


def _unknown(plan: Plan, notes: Mapping[str, Any], profile: AccessProfile | None) -> tuple[str, ...]:
    """Sentences about what these sources cannot tell."""
    found = []
    has_ssd = any(table.cache for table in plan.tables.values())
    if plan.is_edited:
        found.append(
            "Edited since it was planned: what its planner noted is of the plan as it was. What a step takes, how far "
            "it is from the best, what more memory would buy and why are not known; 'hotrow plan' plans anew."
        )
    elif not notes:
        found.append(
            "No planner's notes: this plan was made by hand or by a rule. What a step takes, how far it is from the "
            "best and what more memory would buy are not known; 'hotrow plan' makes plans that know."
        )
    if plan.is_edited or not notes:
        found.append("Bytes are those of rows and caches, without optimizer state.")
    if profile is None and has_ssd and not _mapping(notes.get("tables")):
        found.append("No profile: how many lookups find their row in memory is not known; give --profile.")
    if profile is not None:
        foreign = [n for n, t in plan.tables.items() if profile.tables[n].order_id != t.order_id]
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            found.append(
                f"The profile has table {foreign[0]!r}{more} in another order than the plan: shares of accesses are "
                "not known there; make the profile again."
            )
    return tuple(found)


KEPT_NOTES = ("objective", "batch_size", "look_ahead", "budget_bytes", "fingerprint", "profile")
"""What an edit leaves true: what the plan was made for, within which budgets, and from what."""


def _notes(plan: Plan) -> Mapping[str, Any]:
    """The planner's, as far as they are about the plan as it is."""
    notes = _mapping(plan.notes.get("planner"))
    return {key: notes[key] for key in KEPT_NOTES if key in notes} if plan.is_edited else notes


def _source(profile: AccessProfile | None) -> dict[str, Any]:
    """What the notes would say of a profile."""
    return {} if profile is None else {"source": profile.source, "num_samples": profile.num_samples}


def facts_of(
    plan: Plan,
    profile: AccessProfile | None = None,
    measured: Measured | None = None,
    profile_name: str = "profile",
) -> PlanFacts:
    """Everything that is known of a plan. Raises ConfigError for a profile or a run of other tables."""
    if profile is not None:
        check_profile(plan, profile, profile_name)
    measured_remark = "" if measured is None else check_measured(plan, measured)
    notes = _notes(plan)
    table_notes = _mapping(notes.get("tables"))
    predicted, bound = _mapping(notes.get("predicted")), _mapping(notes.get("bound"))
    batch_size, look_ahead = number(notes.get("batch_size")), number(notes.get("look_ahead"))
    rank = number(predicted.get("rank"))
    tables = [
        _table_facts(
            name,
            table,
            _mapping(table_notes.get(name)),
            profile.tables[name] if profile is not None else None,
            measured,
            plan.world_size,
        )
        for name, table in plan.tables.items()
    ]
    return PlanFacts(
        tables=tuple(sorted(tables, key=lambda table: table.effect, reverse=True)),
        world_size=plan.world_size,
        is_planned=bool(notes),
        objective=_text(notes.get("objective")),
        batch_size=None if batch_size is None else int(batch_size),
        look_ahead=None if look_ahead is None else int(look_ahead),
        budget_bytes=_numbers(notes.get("budget_bytes")),
        used_bytes=_used(notes.get("used_bytes")),
        step_seconds=number(predicted.get("step_seconds")),
        predicted={k: v for k, v in _numbers(predicted).items() if k not in ("step_seconds", "rank")},
        slowest_rank=None if rank is None else int(rank),
        parts=_numbers(predicted.get("parts")),
        bound_seconds=number(bound.get("step_seconds")),
        gap=_share(bound.get("gap")),
        bound_method=_text(bound.get("method")),
        prices=_numbers(notes.get("prices")),
        fingerprint=_mapping(notes.get("fingerprint")),
        profile=_mapping(notes.get("profile")) or _source(profile),
        search=_mapping(notes.get("search")),
        measured=measured,
        remarks=_texts(notes.get("remarks")) + ((measured_remark,) if measured_remark else ()),
        unknown=_unknown(plan, notes, profile),
        is_edited=plan.is_edited,
        measured_remark=measured_remark,
    )
