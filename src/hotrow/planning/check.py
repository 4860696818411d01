"""Whether a plan is complete, its caches are legal, and it is within every tier of every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hotrow.core import EmbeddingConfig, Tier
from hotrow.errors import PlanInfeasible
from hotrow.optim import Optimizer
from hotrow.planning.candidates import RowSizes
from hotrow.planning.problem import Floats
from hotrow.plans import Plan, Representation, Segment, TablePlan
from hotrow.storage import capacity_for, slots_within

TIERS = ("dram", "ssd")


def check(
    plan: Plan,
    tables: Sequence[EmbeddingConfig],
    budget: Mapping[str, Sequence[int]],
    optimizer: Optimizer | None,
    *,
    needs: Mapping[str, int] | None = None,
    is_training: bool = True,
) -> dict[str, list[int]]:
    """Bytes used of each tier by rank. budget: bytes of each tier by rank.

    needs: by table, slots that a cache must have beside pinned rows; what one row needs if not given. Raises
    PlanInfeasible naming table, tier, need, have, gap and the cheapest remedy; the rows of a hole or an overlap, or
    of a segment whose tier, representation or precision no run has.
    """
    _check_tables(plan, tables)
    used = {tier: np.zeros((len(tables), plan.world_size)) for tier in TIERS}
    for index, table in enumerate(tables):
        sizes, planned = RowSizes.of(table, optimizer, is_training), plan.tables[table.name]
        planned.check(table.name)
        _check_segments(table, planned)
        _check_cache(table.name, planned, sizes, plan.world_size, (needs or {}).get(table.name, 1))
        for tier, by_rank in _bytes_by_rank(planned, sizes, plan.world_size).items():
            used[tier][index] = by_rank
    for tier in TIERS:
        _check_tier(tier, used[tier], budget[tier], tables)
    return {tier: [int(size) for size in used[tier].sum(0)] for tier in TIERS}


def _check_tables(plan: Plan, tables: Sequence[EmbeddingConfig]) -> None:
    names = [table.name for table in tables]
    if set(names) != set(plan.tables):
        odd = sorted(set(names) ^ set(plan.tables))[0]
        where = "plan" if odd in names else "model"
        raise PlanInfeasible(
            f"table {odd!r} is not in the {where}; plan the tables of the model, no more and no less"
        )
    for table in tables:
        planned = plan.tables[table.name]
        if (planned.num_rows, planned.embedding_dim) != (table.num_embeddings, table.embedding_dim):
            raise PlanInfeasible(
                f"table {table.name!r}: the plan is for {planned.num_rows} rows of {planned.embedding_dim}, the table "
                f"has {table.num_embeddings} of {table.embedding_dim}; plan again"
            )


def _check_segments(table: EmbeddingConfig, planned: TablePlan) -> None:
    """What a collection would refuse: here, before bytes of something else are counted."""
    is_behind_ssd = False
    for segment in planned.segments:
        wrong = ""
        if segment.tier not in (Tier.DRAM, Tier.SSD):
            wrong = f"tier {segment.tier.value!r}; rows are planned for {' and '.join(TIERS)}"
        elif segment.tier is Tier.DRAM and is_behind_ssd:
            wrong = "tier 'dram' behind rows on ssd; the first places are those in dram"
        elif segment.representation is not Representation.TABLE:
            wrong = f"representation {segment.representation.value!r}; rows are run as a table"
        elif segment.data_type is not table.data_type:
            wrong = f"precision {segment.data_type.value}, the table is {table.data_type.value}; give one precision"
        if wrong:
            raise PlanInfeasible(f"table {table.name!r}, rows [{segment.begin}, {segment.end}): {wrong}")
        is_behind_ssd |= segment.tier is Tier.SSD


def _rows_by_rank(segment: Segment, world_size: int) -> Floats:
    """Rows of a segment that each rank holds."""
    if segment.owner.kind == "all":
        return np.full(world_size, float(segment.num_rows))
    if segment.owner.kind == "stripe":
        return np.full(world_size, float(-(-segment.num_rows // world_size)))
    held = np.zeros(world_size)
    held[segment.owner.rank or 0] = segment.num_rows
    return held


def _bytes_by_rank(planned: TablePlan, sizes: RowSizes, world_size: int) -> dict[str, Floats]:
    found = {tier: np.zeros(world_size) for tier in TIERS}
    for segment in planned.segments:
        rows = _rows_by_rank(segment, world_size)
        if segment.tier is Tier.DRAM:
            found["dram"] += rows * sizes.dram
        else:
            found["ssd"] += rows * sizes.ssd
            if planned.cache is not None:
                found["dram"] += np.where(rows > 0, planned.cache.capacity_bytes, 0)
    return found


def _check_cache(name: str, planned: TablePlan, sizes: RowSizes, world_size: int, need: int) -> None:
    if planned.cache is None:
        return
    on_ssd = [segment for segment in planned.segments if segment.tier is not Tier.DRAM]
    rows = int(max(_rows_by_rank(segment, world_size).max() for segment in on_ssd))
    all_rows = int(np.ceil(planned.num_rows / (world_size if on_ssd[0].owner.kind == "stripe" else 1)))
    capacity, pinned = planned.cache.capacity_bytes, planned.cache.num_pinned_rows
    slots = slots_within(name, capacity, all_rows, rows, sizes.slot, pinned)
    wanted = min(rows, pinned + need)
    if slots < wanted:
        least = capacity_for(wanted, all_rows, sizes.slot, pinned)
        raise PlanInfeasible(
            f"table {name!r}, dram: its cache of {capacity} bytes holds {slots} rows, {pinned} of them pinned, and its "
            f"batches need {need} beside those: {least} bytes, {least - capacity} more; give them, or smaller batches"
        )


def _check_tier(tier: str, used: Floats, budget: Sequence[int], tables: Sequence[EmbeddingConfig]) -> None:
    total = used.sum(0)
    over = total - np.array(budget, np.float64)
    rank = int(over.argmax())
    if over[rank] <= 0:
        return
    largest = int(used[:, rank].argmax())
    raise PlanInfeasible(
        f"table {tables[largest].name!r}, {tier} of rank {rank}: the plan needs {int(total[rank])} bytes there, "
        f"{int(used[largest, rank])} of them for this table, and has {int(budget[rank])}, {int(over[rank])} too few; "
        f"give --{tier} {int(total[rank])}, or plan again within {int(budget[rank])}"
    )
