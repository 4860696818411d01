"""What the report's script draws, as JSON values: facts of the plan and the curves of its profile, cut to size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hotrow.explanation import (
    PINNED,
    PlanFacts,
    Stretch,
    TableFacts,
    bytes_text,
    count_text,
    curve_of_places,
    plural,
    share_text,
    stretch_text,
)
from hotrow.profiles import AccessProfile, Curve, MissCurve, TableProfile
from hotrow.reporting.curves import deviation, rounded, simplified

MAX_DETAILED_TABLES = 200
"""Tables with all their curves; those that read most."""
MAX_DRAWN_TABLES = 2000
"""Tables with the curve by heat; of all others the numbers are listed."""
MAX_MISS_CURVES = 12
MAX_DRIFT_LINES = 8
COARSE_POINTS = 24


@dataclass
class LeftOut:
    """What the report does not show, in numbers; ``sentences`` says it."""

    num_points: int = 0
    deviation: float = 0.0
    num_undetailed: int = 0
    num_undrawn: int = 0
    num_miss_curves: int = 0
    notes: list[str] = field(default_factory=list)

    def sentences(self) -> list[str]:
        found = list(self.notes)
        if self.num_points:
            found.append(
                f"Curves are drawn through some of their points, {plural(self.num_points, 'point')} of the profile "
                f"left out; the drawn lines are up to {share_text(self.deviation)} of all accesses off."
            )
        if self.num_undetailed:
            found.append(
                f"Miss ratios and drift are drawn for the {MAX_DETAILED_TABLES} tables that read most, and left out "
                f"for {plural(self.num_undetailed, 'table')}."
            )
        if self.num_undrawn:
            found.append(f"No curve is drawn for {plural(self.num_undrawn, 'table')}, which read least.")
        if self.num_miss_curves:
            found.append(
                f"{plural(self.num_miss_curves, 'miss curve')} behind prefixes far from the chosen ones left out."
            )
        return found


class Cutter:
    """Cuts curves to ``num_points``, keeping places that must not be lost, and counts what it leaves out."""

    def __init__(self, num_points: int, left_out: LeftOut) -> None:
        self.num_points, self.left_out = num_points, left_out

    def __call__(self, curve: Curve) -> list[list[float]]:
        simple = simplified(curve, self.num_points)
        self.left_out.num_points += len(curve) - len(simple)
        self.left_out.deviation = max(self.left_out.deviation, deviation(curve, simple))
        return rounded(simple)


def points_per_curve(num_tables: int) -> int:
    """Fewer the more tables there are: about 4 MB of curves at most."""
    return int(np.clip(25_000 // max(num_tables, 1), 48, 256))


def _stretch(stretch: Stretch) -> dict[str, Any]:
    return {
        "begin": stretch.begin,
        "end": stretch.end,
        "where": stretch.where,
        "label": stretch_text(stretch),
        "rows": count_text(stretch.num_rows),
        "bytes": bytes_text(stretch.num_bytes),
        "share": None if stretch.share is None else round(stretch.share, 5),
    }


def chosen_prefix(table: TableFacts) -> int:
    """Places in front of the rows that the cache's dynamic part is for."""
    return sum(s.num_rows for s in table.stretches if s.where in ("hbm", "dram", PINNED))


def _nearest(curves: Sequence[MissCurve], prefix: int) -> list[MissCurve]:
    """Curves by how near their prefix is to the chosen one, at most ``MAX_MISS_CURVES``."""
    ordered = sorted(curves, key=lambda curve: (abs(curve.num_pinned_rows - prefix), curve.policy))
    return ordered[:MAX_MISS_CURVES]


def chosen_point(table: TableFacts, curves: Sequence[MissCurve]) -> dict[str, Any] | None:
    """Where the plan is among the miss curves: the predicted reads, at the size at which the nearest curve has them.

    Nearest: of the cache's policy, with the prefix nearest to the chosen one. None where the plan predicts nothing.
    """
    reads = table.rows_read_per_lookup
    if table.cache is None or reads is None:
        return None
    prefix = chosen_prefix(table)
    alike = [curve for curve in curves if curve.policy == table.cache.policy and curve.points]
    if not alike:
        return None
    curve = min(alike, key=lambda one: abs(one.num_pinned_rows - prefix))
    sizes, misses = (np.array([point[i] for point in curve.points]) for i in (0, 1))
    falling = np.minimum.accumulate(misses)
    slots = float(np.interp(-reads, -falling, sizes))
    return {"x": round(slots + curve.num_pinned_rows), "y": round(reads, 5), "policy": curve.policy}


def _misses(table: TableFacts, profile: TableProfile, cut: Cutter) -> dict[str, Any]:
    nearest = _nearest(profile.miss_curves, chosen_prefix(table))
    cut.left_out.num_miss_curves += len(profile.miss_curves) - len(nearest)
    prefix = min((c.num_pinned_rows for c in nearest), key=lambda n: abs(n - chosen_prefix(table)), default=0)
    policy = table.cache.policy if table.cache else ""
    return {
        "misses": [
            {
                "policy": curve.policy,
                "pinned": curve.num_pinned_rows,
                "points": cut(curve.points),
                "error": round(curve.error, 5),
                "is_chosen": curve.num_pinned_rows == prefix and (curve.policy == policy or not policy),
            }
            for curve in sorted(nearest, key=lambda curve: (curve.num_pinned_rows, curve.policy))
        ],
        "textbook": cut(profile.miss_ratio_curve),
        "chosen": chosen_point(table, profile.miss_curves),
    }


def _drift(profile: TableProfile) -> list[dict[str, Any]]:
    lines = [p for p in profile.drift if p.later]
    picked = (
        [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, MAX_DRIFT_LINES).astype(int))]
        if lines
        else []
    )
    return [
        {"rows": count_text(p.num_rows), "shares": [round(share, 5) for share in (p.same, *p.later)]}
        for p in picked
    ]


def _remarks(profile: TableProfile, batch_size: int) -> list[list[str]]:
    """(what, finding) about how a table is accessed."""
    found = [
        ["lookups", f"{count_text(profile.num_lookups)} in the profile"],
        ["distinct rows", f"{count_text(profile.num_distinct_rows)} of {count_text(profile.num_rows)}"],
        ["ids of a bag", f"{count_text(profile.mean_pooling_factor)} in the mean"],
    ]
    uniques = dict(profile.uniques_per_batch)
    nearest = min(uniques, key=lambda samples: abs(samples - batch_size), default=None)
    if nearest is not None:
        found.append(
            [
                "distinct in a batch",
                f"{count_text(uniques[nearest])} of {count_text(nearest)} samples in the mean",
            ]
        )
    found += [[f"fit: {law}", _fit_text(numbers)] for law, numbers in profile.fits.items()]
    counts = "exact" if profile.exact else "estimated"
    found.append(["counts", f"{counts}{f' ({profile.how})' if profile.how else ''}"])
    if profile.sampled < 1:
        found.append(["followed for reuse", f"{share_text(profile.sampled)} of the rows"])
    return found


def _fit_text(numbers: Mapping[str, float]) -> str:
    """Parameters and goodness of a fit; flags (``is_``) where they hold."""
    texts = []
    for name, value in numbers.items():
        label = name.replace("_", " ")
        if name.startswith("is_"):
            texts += [label[3:]] if value else []
        else:
            texts.append(
                f"{label[4:]} {count_text(value)}" if name.startswith("num_") else f"{label} {value:.3g}"
            )
    return ", ".join(texts)


def _with_cuts(curve: Curve, table: TableFacts) -> Curve:
    """The curve with a point at every cut of the stretches, so that each colour begins and ends where it should."""
    if not curve:
        return ()
    xs = np.array([0.0, *(x for x, _ in curve)])
    ys = np.array([0.0, *(y for _, y in curve)])
    if xs[-1] < table.num_rows:
        xs, ys = np.append(xs, float(table.num_rows)), np.append(ys, 1.0)
    cuts = [float(s.end) for s in table.stretches]
    wanted = np.union1d(xs[1:], cuts)
    return tuple(zip(wanted.tolist(), np.interp(wanted, xs, ys).tolist()))


def _heat(table: TableFacts, profile: TableProfile, cut: Cutter) -> list[dict[str, Any]]:
    """The curve of places, one piece per stretch; pieces meet at the cuts."""
    curve = _with_cuts(curve_of_places(profile, table.order_id), table)
    pieces = []
    for stretch in table.stretches:
        piece = tuple(point for point in curve if stretch.begin <= point[0] <= stretch.end)
        pieces.append({**_stretch(stretch), "points": cut(piece)})
    return pieces


def _table(
    table: TableFacts, profile: TableProfile | None, cut: Cutter, is_detailed: bool, batch_size: int
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": table.name,
        "rows": table.num_rows,
        "facts": table_remarks(table),
        "why": table.why,
    }
    if profile is None:
        return value | {"stretches": [_stretch(stretch) for stretch in table.stretches]}
    value["stretches"] = _heat(table, profile, cut)
    if not is_detailed:
        return value
    value["remarks"] = _remarks(profile, batch_size)
    value["by_heat"] = cut(profile.heat_curve) if profile.place_curve else []
    if profile.order_id == table.order_id:
        value["late"] = cut(profile.place_curve_late)
    value["drift"] = _drift(profile)
    return value | _misses(table, profile, cut)


def table_remarks(table: TableFacts) -> list[list[str]]:
    """(what, finding) about where a table's rows are."""
    found = [["rows", f"{count_text(table.num_rows)} x {table.embedding_dim}"], ["order", table.order_id]]
    for tier, size in table.tier_bytes.items():
        with_state = "with state, indexes and cache" if table.is_counted else "rows and cache, without state"
        found.append([f"bytes of {tier}", f"{bytes_text(size)} {with_state}"])
    if table.cache:
        pinned = (
            f", {plural(table.cache.num_pinned_rows, 'row')} pinned" if table.cache.num_pinned_rows else ""
        )
        found.append(["cache", f"{table.cache.policy}, {bytes_text(table.cache.capacity_bytes)}{pinned}"])
    numbers: Mapping[str, float | None] = {
        "lookups a step": table.lookups_per_step,
        "distinct rows a step": table.distinct_per_step,
        "rows read a step": table.rows_read_per_step,
        "pages read a step": table.pages_per_step,
        "measured rows read a step": table.measured_rows_read,
    }
    found += [[what, count_text(value)] for what, value in numbers.items() if value is not None]
    return found


def payload_of(facts: PlanFacts, profile: AccessProfile | None) -> tuple[dict[str, Any], LeftOut]:
    """What the script draws, and what was left out."""
    left_out = LeftOut()
    drawn = facts.tables[:MAX_DRAWN_TABLES]
    fine = Cutter(points_per_curve(len(drawn)), left_out)
    coarse = Cutter(COARSE_POINTS, left_out)
    batch_size = (profile.batch_size if profile else None) or facts.batch_size or 1
    tables = []
    for index, table in enumerate(drawn):
        is_detailed = index < MAX_DETAILED_TABLES
        seen = profile.tables[table.name] if profile else None
        tables.append(_table(table, seen, fine if is_detailed else coarse, is_detailed, batch_size))
    left_out.num_undrawn = len(facts.tables) - len(drawn)
    if profile is not None:
        left_out.num_undetailed = max(len(facts.tables) - MAX_DETAILED_TABLES, 0)
    measured = facts.measured.parts if facts.measured else {}
    parts = [
        {"name": name, "predicted": facts.parts.get(name), "measured": measured.get(name)}
        for name in dict.fromkeys((*facts.parts, *measured))
    ]
    ranks = {
        tier: [round(100 * used / budget, 2) for used in facts.used_bytes[tier]]
        for tier, budget in facts.budget_bytes.items()
        if budget and len(facts.used_bytes.get(tier, ())) > 1
    }
    value = {"tables": tables, "parts": parts, "ranks": ranks, "has_profile": profile is not None}
    return value, left_out
