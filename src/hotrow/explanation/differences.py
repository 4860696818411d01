"""What changes from one plan to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hotrow.core import Tier
from hotrow.explanation.facts import PINNED, PlanFacts, Stretch, facts_of, stretches_of
from hotrow.explanation.layout import columns, shown, wrapped
from hotrow.explanation.text import NUM_SHOWN, stretch_text, tiers_of, used_of
from hotrow.explanation.units import bytes_text, change_text, plural, seconds_text
from hotrow.plans import CacheSpec, Plan, TablePlan


@dataclass(frozen=True, kw_only=True)
class Move:
    """Places that are treated otherwise: before and after, cut to the places that both have in common."""

    before: Stretch
    after: Stretch

    @property
    def is_pinning(self) -> bool:
        """Whether the rows stay on SSD, as they are, and only their copy in the cache comes or goes."""
        form = _treatment(self.before)[1:] == _treatment(self.after)[1:]
        return form and {self.before.where, self.after.where} == {PINNED, Tier.SSD.value}

    @property
    def num_rows(self) -> int:
        return self.after.num_rows

    @property
    def num_bytes(self) -> int:
        """Bytes of elements as they are after the move."""
        return self.after.num_bytes


@dataclass(frozen=True, kw_only=True)
class TableDifference:
    """A table that both plans have and treat otherwise. moves is empty where the orders or rows are not comparable."""

    name: str
    before: TablePlan
    after: TablePlan
    moves: tuple[Move, ...] = ()
    caches: tuple[CacheSpec | None, CacheSpec | None] | None = None
    shape: tuple[str, ...] = ()

    @property
    def num_moved_rows(self) -> int:
        """Rows that change their tier or form; not those whose copy in a cache comes or goes."""
        return sum(move.num_rows for move in self.moves if not move.is_pinning)

    @property
    def num_moved_bytes(self) -> int:
        return sum(move.num_bytes for move in self.moves if not move.is_pinning)


@dataclass(frozen=True, kw_only=True)
class PlanDifference:
    """added, removed: tables of one plan alone. num_alike: tables that are the same in both."""

    before: PlanFacts
    after: PlanFacts
    added: Mapping[str, TablePlan] = field(default_factory=dict)
    removed: Mapping[str, TablePlan] = field(default_factory=dict)
    changed: tuple[TableDifference, ...] = ()
    num_alike: int = 0


def _cut(stretch: Stretch, begin: int, end: int) -> Stretch:
    """The part ``[begin, end)`` of a stretch."""
    return Stretch(
        begin=begin,
        end=end,
        where=stretch.where,
        owner=stretch.owner,
        representation=stretch.representation,
        data_type=stretch.data_type,
        num_bytes=stretch.num_bytes // stretch.num_rows * (end - begin),
    )


def _treatment(stretch: Stretch) -> tuple[object, ...]:
    return (stretch.where, stretch.owner, stretch.representation, stretch.data_type)


def moves_between(
    before: TablePlan, after: TablePlan, world_sizes: tuple[int, int] = (1, 1)
) -> tuple[Move, ...]:
    """Ranges of places that both tables have and treat otherwise, in order."""
    old, new = (list(stretches_of(table, None, size)) for table, size in zip((before, after), world_sizes))
    found: list[Move] = []
    while old and new:
        begin, end = max(old[0].begin, new[0].begin), min(old[0].end, new[0].end)
        if begin < end and _treatment(old[0]) != _treatment(new[0]):
            found.append(Move(before=_cut(old[0], begin, end), after=_cut(new[0], begin, end)))
        behind = old if old[0].end <= new[0].end else new
        behind.pop(0)
    return tuple(found)


def _shape(before: TablePlan, after: TablePlan) -> tuple[str, ...]:
    """What makes places of the two not comparable, or new rows, in words."""
    texts = []
    if before.order_id != after.order_id:
        texts.append(f"another order of rows: {shown(before.order_id)} → {shown(after.order_id)}")
    if before.num_rows != after.num_rows:
        texts.append(f"{before.num_rows:,} → {plural(after.num_rows, 'row')}")
    if before.embedding_dim != after.embedding_dim:
        texts.append(f"dim {before.embedding_dim} → {after.embedding_dim}")
    return tuple(texts)


def _difference(
    name: str, before: TablePlan, after: TablePlan, world_sizes: tuple[int, int]
) -> TableDifference | None:
    if before == after:
        return None
    moves = moves_between(before, after, world_sizes) if before.order_id == after.order_id else ()
    return TableDifference(
        name=name,
        before=before,
        after=after,
        moves=moves,
        caches=None if before.cache == after.cache else (before.cache, after.cache),
        shape=_shape(before, after),
    )


def differences_of(before: Plan, after: Plan) -> PlanDifference:
    """What changes from ``before`` to ``after``; changed tables come with the most bytes moved first."""
    both = [name for name in before.tables if name in after.tables]
    sizes = (before.world_size, after.world_size)
    found = [_difference(name, before.tables[name], after.tables[name], sizes) for name in both]
    changed = [difference for difference in found if difference is not None]
    return PlanDifference(
        before=facts_of(before),
        after=facts_of(after),
        added={name: table for name, table in after.tables.items() if name not in before.tables},
        removed={name: table for name, table in before.tables.items() if name not in after.tables},
        changed=tuple(sorted(changed, key=lambda d: (-d.num_moved_bytes, -d.num_moved_rows))),
        num_alike=len(both) - len(changed),
    )


def _cache_text(cache: CacheSpec | None) -> str:
    if cache is None:
        return "none"
    pinned = f", {plural(cache.num_pinned_rows, 'row')} pinned" if cache.num_pinned_rows else ""
    return f"{cache.policy} {bytes_text(cache.capacity_bytes)}{pinned}"


def _step_text(difference: PlanDifference) -> str:
    before, after = difference.before, difference.after
    if before.step_seconds is None or after.step_seconds is None:
        which = [side for side, facts in (("first", before), ("second", after)) if facts.step_seconds is None]
        return f"predicted step: not known of the {' and the '.join(which)} plan"
    text = (
        f"predicted step: {seconds_text(before.step_seconds)} → {seconds_text(after.step_seconds)}"
        f" ({change_text(before.step_seconds, after.step_seconds) or 'no change'})"
    )
    unlike = [
        what
        for what, one, other in (
            ("batch size", before.batch_size, after.batch_size),
            ("objective", before.objective, after.objective),
            ("ranks", before.world_size, after.world_size),
            ("machine", before.fingerprint, after.fingerprint),
            ("profile", before.profile, after.profile),
        )
        if one != other
    ]
    return f"{text}; not made alike: {', '.join(unlike)}" if unlike else text


def _used_lines(difference: PlanDifference) -> list[str]:
    before, after = difference.before, difference.after
    rows = []
    for tier in dict.fromkeys((*tiers_of(before), *tiers_of(after))):
        old, new = max(used_of(before, tier), default=0.0), max(used_of(after, tier), default=0.0)
        if old or new:
            rows.append((tier, bytes_text(old), bytes_text(new), change_text(old, new) if old != new else ""))
    return columns(("tier", "before", "after", "difference"), rows) if rows else []


def _changed_lines(changed: TableDifference) -> list[str]:
    lines = [f"  {shown(changed.name)}"]
    for text in changed.shape:
        lines += wrapped(text, 6)
    if changed.before.order_id != changed.after.order_id:
        lines += wrapped("places of the two orders are not the same rows, so moves are not listed", 6)
    for move in changed.moves:
        size = "" if move.is_pinning else f", {bytes_text(move.num_bytes)}"
        lines += wrapped(
            f"[{move.after.begin:,}, {move.after.end:,}): {_place_text(move.before)} → {_place_text(move.after)}"
            f" ({plural(move.num_rows, 'row')}{size})",
            6,
        )
    if changed.caches is not None:
        lines += wrapped(f"cache: {_cache_text(changed.caches[0])} → {_cache_text(changed.caches[1])}", 6)
    return lines


def _place_text(stretch: Stretch) -> str:
    return stretch_text(stretch).partition(") ")[2]


def _one_sided_lines(title: str, tables: Mapping[str, TablePlan], limit: int | None) -> list[str]:
    if not tables:
        return []
    lines = [title]
    for name, table in list(tables.items())[:limit]:
        where = "; ".join(stretch_text(stretch) for stretch in stretches_of(table))
        cache = f"; cache {_cache_text(table.cache)}" if table.cache else ""
        lines += wrapped(
            f"{shown(name)}: {plural(table.num_rows, 'row')} x {table.embedding_dim}: {where}{cache}", 2
        )
    left = 0 if limit is None else len(tables) - limit
    return [*lines, f"  and {left:,} more. All of them: --all, or all_tables=True."] if left > 0 else lines


def _counts(difference: PlanDifference) -> str:
    counts: Sequence[tuple[int, str]] = (
        (len(difference.added), "added"),
        (len(difference.removed), "removed"),
        (len(difference.changed), "changed"),
        (difference.num_alike, "alike"),
    )
    return "tables: " + ", ".join(f"{count:,} {what}" for count, what in counts if count)


def difference_text(difference: PlanDifference, all_tables: bool = False) -> str:
    """Plain text, at most 120 columns."""
    if not (difference.added or difference.removed or difference.changed):
        what = "The plans place every row alike."
        return f"{what}\n  {_step_text(difference)}" if difference.before != difference.after else what
    limit = None if all_tables else NUM_SHOWN
    listed = difference.changed[:limit]
    rest = difference.changed[len(listed) :]
    moved = sum(d.num_moved_rows for d in difference.changed)
    moved_bytes = sum(d.num_moved_bytes for d in difference.changed)
    head = [_counts(difference)]
    if moved:
        head.append(f"  moved: {plural(moved, 'row')}, {bytes_text(moved_bytes)} of elements")
    head += wrapped(_step_text(difference), 2)
    changed = [line for d in listed for line in _changed_lines(d)]
    if rest:
        changed.append(
            f"  and {plural(len(rest), 'more table')}, which move less. All of them: --all, or all_tables=True."
        )
    blocks = [
        head,
        _used_lines(difference),
        _one_sided_lines("Added", difference.added, limit),
        _one_sided_lines("Removed", difference.removed, limit),
        ["Changed", *changed] if changed else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)
