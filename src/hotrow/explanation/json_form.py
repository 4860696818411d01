"""Facts and differences as JSON values."""

from __future__ import annotations

from typing import Any

from hotrow.explanation.differences import Move, PlanDifference, TableDifference
from hotrow.explanation.facts import PlanFacts, Stretch, TableFacts


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "begin": stretch.begin,
        "end": stretch.end,
        "where": stretch.where,
        "owner": stretch.owner.to_json(),
        "representation": stretch.representation.value,
        "data_type": stretch.data_type,
        "num_bytes": stretch.num_bytes,
        "share": stretch.share,
    }


def _table(table: TableFacts) -> dict[str, Any]:
    return {
        "num_rows": table.num_rows,
        "embedding_dim": table.embedding_dim,
        "order_id": table.order_id,
        "stretches": [_stretch(stretch) for stretch in table.stretches],
        "cache": table.cache.to_json() if table.cache else None,
        "tier_bytes": dict(table.tier_bytes),
        "hit_rate": table.hit_rate,
        "hit_rate_is_lower_bound": table.at_least,
        "rows_read_per_step": table.rows_read_per_step,
        "rows_read_per_lookup": table.rows_read_per_lookup,
        "lookups_per_step": table.lookups_per_step,
        "distinct_per_step": table.distinct_per_step,
        "pages_per_step": table.pages_per_step,
        "measured_rows_read_per_step": table.measured_rows_read,
        "why": table.why,
    }


def facts_json(facts: PlanFacts) -> dict[str, Any]:
    """What ``hotrow explain --json`` prints: every fact, null where it is not known."""
    measured = facts.measured
    return {
        "objective": facts.objective or None,
        "batch_size": facts.batch_size,
        "look_ahead": facts.look_ahead,
        "world_size": facts.world_size,
        "budget_bytes": dict(facts.budget_bytes),
        "used_bytes": {tier: list(ranks) for tier, ranks in facts.used_bytes.items()},
        "predicted": {
            "step_seconds": facts.step_seconds,
            "parts": dict(facts.parts),
            "rank": facts.slowest_rank,
            **facts.predicted,
        },
        "bound": {
            "step_seconds": facts.bound_seconds,
            "gap": facts.gap,
            "method": facts.bound_method or None,
        },
        "prices": dict(facts.prices),
        "measured": None
        if measured is None
        else {
            "step_seconds": dict(zip(("median", "low", "high"), measured.step_seconds))
            | {"mean": measured.mean_seconds},
            "parts": dict(measured.parts),
            "rows_read_per_step": dict(measured.rows_read_per_step),
            "num_steps": measured.num_steps,
            "is_of_this_plan": not facts.measured_remark,
        },
        "is_edited": facts.is_edited,
        "fingerprint": dict(facts.fingerprint),
        "profile": dict(facts.profile),
        "search": dict(facts.search),
        "remarks": list(facts.remarks),
        "unknown": list(facts.unknown),
        "tables": {table.name: _table(table) for table in facts.tables},
    }


def _move(move: Move) -> dict[str, Any]:
    return {"before": _stretch(move.before), "after": _stretch(move.after)}


def _changed(changed: TableDifference) -> dict[str, Any]:
    caches = changed.caches
    return {
        "shape": list(changed.shape),
        "moves": [_move(move) for move in changed.moves],
        "num_moved_rows": changed.num_moved_rows,
        "num_moved_bytes": changed.num_moved_bytes,
        "cache": None if caches is None else [cache.to_json() if cache else None for cache in caches],
    }


def difference_json(difference: PlanDifference) -> dict[str, Any]:
    """What ``hotrow explain --diff --json`` adds."""
    return {
        "step_seconds": [difference.before.step_seconds, difference.after.step_seconds],
        "added": list(difference.added),
        "removed": list(difference.removed),
        "changed": {changed.name: _changed(changed) for changed in difference.changed},
        "num_alike": difference.num_alike,
    }
