"""The explanation of a plan in plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hotrow.core import Tier
from hotrow.explanation.facts import PINNED, Measured, PlanFacts, Stretch, TableFacts, number
from hotrow.explanation.layout import columns, shown, wrapped
from hotrow.explanation.units import (
    bytes_text,
    change_text,
    count_text,
    plural,
    seconds_text,
    share_text,
)

NUM_SHOWN = 20
"""Tables that are listed one by one unless all are asked for."""

BESIDE = ("translate", "read", "write back")
"""Parts of the look-ahead thread."""

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))

_METHODS = {"lp": "LP relaxation", "lagrangian": "Lagrangian dual"}


def _step_lines(facts: PlanFacts) -> list[str]:
    """What a step takes: predicted, the bound, measured."""
    lines = []
    of = f" a step of {facts.batch_size:,} samples" if facts.batch_size else " a step"
    if facts.step_seconds is not None:
        lines.append(f"  predicted  {seconds_text(facts.step_seconds)}{of}{_others(facts)}")
    if facts.gap is not None:
        first, *more = facts.bound_method.split(", ")
        method = ", ".join([_METHODS.get(first, first), *more])
        bound = (
            f"no plan within the budgets takes less than {seconds_text(facts.bound_seconds)}; "
            if (facts.bound_seconds is not None)
            else ""
        )
        lines.append(f"  bound      {bound}gap {share_text(facts.gap)}{f' ({method})' if method else ''}")
    if facts.measured is not None:
        lines += wrapped(f"measured   {_measured_text(facts, facts.measured)}", 2)
    return lines


def _measured_text(facts: PlanFacts, measured: Measured) -> str:
    median, low, high = measured.step_seconds
    if median <= 0:
        return "nothing: the run has no step that counts"
    text = f"{seconds_text(measured.mean_seconds)} a step"
    if low < high:
        text += f" (median {seconds_text(median)}, half of them {seconds_text(low)} to {seconds_text(high)})"
    if measured.num_steps:
        text += f" over {plural(measured.num_steps, 'step')}"
    if facts.measured_remark:
        return f"{text}, not known to be of this plan"
    change = change_text(facts.step_seconds, measured.mean_seconds) if facts.step_seconds else ""
    return f"{text}, {change} against predicted" if change else text


def _others(facts: PlanFacts) -> str:
    """Further predicted numbers, such as the latency of a query."""
    is_told = facts.slowest_rank is not None and facts.world_size > 1
    texts = [f"slowest: rank {facts.slowest_rank}"] if is_told else []
    for name, value in facts.predicted.items():
        is_time = name.endswith("_seconds")
        label = name.removesuffix("_seconds").replace("_", " ")
        texts.append(f"{label} {seconds_text(value) if is_time else count_text(value)}")
    return "".join(f"; {text}" for text in texts)


def price_text(facts: PlanFacts, tier: str) -> str:
    """What one more GiB of a tier buys, or one MiB where the budget is a few: a price holds for a little more."""
    price = facts.prices.get(tier)
    if price is None:
        return ""
    if price < 1e-9:
        return "more of it saves nothing"
    budget = facts.budget_bytes.get(tier) or max(used_of(facts, tier), default=0.0)
    unit, size = next(((u, s) for u, s in _UNITS if s <= budget / 2), _UNITS[-1])
    saved = price * size / _UNITS[0][1]
    share = f" ({share_text(saved / facts.step_seconds)})" if facts.step_seconds else ""
    return f"1 {unit} more saves {seconds_text(saved)} a step{share}"


def tiers_of(facts: PlanFacts) -> list[str]:
    """Tiers that anything is known about, fastest first."""
    named = [*facts.budget_bytes, *facts.used_bytes, *facts.prices]
    named += [tier for table in facts.tables for tier in table.tier_bytes]
    known = [tier.value for tier in Tier]
    return sorted(set(named), key=lambda tier: (known.index(tier) if tier in known else len(known), tier))


def used_of(facts: PlanFacts, tier: str) -> tuple[float, ...]:
    """Bytes of every rank; summed over the tables for one rank where the planner did not note them."""
    noted = facts.used_bytes.get(tier)
    if noted is not None or facts.world_size > 1:
        return noted or ()
    return (sum(table.tier_bytes.get(tier, 0.0) for table in facts.tables),)


def _budget_lines(facts: PlanFacts) -> list[str]:
    rows = []
    for tier in tiers_of(facts):
        used, budget = used_of(facts, tier), facts.budget_bytes.get(tier)
        most = max(used, default=None)
        rows.append(
            (
                tier,
                "" if most is None else bytes_text(most),
                "" if budget is None else bytes_text(budget),
                "" if most is None or not budget else share_text(most / budget),
                price_text(facts, tier),
            )
        )
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return []
    used_header = "used" if facts.world_size == 1 else "used, fullest rank"
    lines = columns(("tier", used_header, "budget", "share", "worth"), rows)
    for tier in tiers_of(facts):
        used = facts.used_bytes.get(tier, ())
        if len(used) > 1:
            low, high = min(used), max(used)
            lines += wrapped(f"{tier} of {len(used)} ranks: {bytes_text(low)} to {bytes_text(high)}", 4)
    return lines


def _part_lines(facts: PlanFacts) -> list[str]:
    measured = facts.measured.parts if facts.measured else {}
    rows = []
    for name in dict.fromkeys((*facts.parts, *measured)):
        predicted, found = facts.parts.get(name), measured.get(name)
        is_compared = predicted is not None and found is not None and not facts.measured_remark
        rows.append(
            (
                shown(name),
                "" if predicted is None else seconds_text(predicted),
                "" if found is None else seconds_text(found),
                change_text(predicted or 0.0, found or 0.0) if is_compared else "",
            )
        )
    lines = columns(("part of a step", "predicted", "measured", "difference"), rows) if rows else []
    text = beside_text([*facts.parts, *measured])
    lines += wrapped(text, 4) if text else []
    return lines


def beside_text(parts: Sequence[str]) -> str:
    """Which of the parts do not add to a step."""
    found = [name for name in BESIDE if name in parts]
    if not found:
        return ""
    return f"Beside the others: {', '.join(found)}; wait is what a step waits for them."


def stretch_text(stretch: Stretch) -> str:
    """``"[0, 400) dram, rank:1, BF16"``."""
    text = f"[{stretch.begin:,}, {stretch.end:,}) {stretch.where}"
    if stretch.owner.kind != "all":
        text += f", {stretch.owner.to_json()}"
    if stretch.representation.value != "table":
        text += f", {stretch.representation.value}"
    return text if stretch.data_type == "FP32" else f"{text}, {stretch.data_type}"


def hit_text(table: TableFacts) -> str:
    """``"87.3 %"``, ``">= 45.2 %"``, or nothing where it is not known."""
    if table.hit_rate is None:
        return ""
    return f"{'>= ' if table.at_least else ''}{share_text(table.hit_rate)}"


def _table_cells(table: TableFacts) -> tuple[str, ...]:
    cache = table.cache
    in_memory = table.rows_at(Tier.HBM.value, Tier.DRAM.value)
    measured = table.measured_rows_read
    return (
        shown(table.name),
        count_text(table.num_rows),
        str(table.embedding_dim),
        count_text(in_memory) if in_memory else "",
        count_text(table.num_ssd_rows) if table.num_ssd_rows else "",
        f"{cache.policy} {bytes_text(cache.capacity_bytes)}" if cache else "",
        count_text(table.rows_at(PINNED)) if cache else "",
        hit_text(table),
        count_text(table.rows_read_per_step) if cache and table.rows_read_per_step is not None else "",
        count_text(measured) if cache and measured is not None else "",
    )


_TABLE_HEADER = (
    "table",
    "rows",
    "dim",
    "in memory",
    "on ssd",
    "cache",
    "pinned",
    "hit rate",
    "rows read",
    "measured",
)


def _stretch_lines(table: TableFacts) -> list[str]:
    """The stretches where the columns do not tell them."""
    is_told = all(s.is_plain() and s.data_type == table.stretches[0].data_type for s in table.stretches)
    order = [s.where for s in table.stretches]
    is_told = is_told and order == [w for w in ("hbm", "dram", PINNED, "ssd") if w in order]
    return [] if is_told else wrapped("; ".join(stretch_text(s) for s in table.stretches), 6)


def _rest_text(rest: Sequence[TableFacts]) -> str:
    whole = [table for table in rest if not table.cache]
    cached = [table for table in rest if table.cache]
    texts = [f"and {plural(len(rest), 'more table')} with {plural(sum(t.num_rows for t in rest), 'row')}"]
    if whole:
        taken = sum(
            t.tier_bytes.get(Tier.DRAM.value, 0.0) + t.tier_bytes.get(Tier.HBM.value, 0.0) for t in whole
        )
        texts.append(f"{len(whole):,} whole in memory ({bytes_text(taken)})")
    if cached:
        sizes = sum(t.cache.capacity_bytes for t in cached if t.cache)
        reads = [t.rows_read_per_step for t in cached]
        read = "" if None in reads else f", {count_text(sum(r or 0.0 for r in reads))} rows read a step"
        texts.append(f"{len(cached):,} behind caches of {bytes_text(sizes)} in all{read}")
    return "; ".join(texts) + ". All of them: --all, or all_tables=True."


def _table_lines(facts: PlanFacts, all_tables: bool) -> list[str]:
    listed = facts.tables if all_tables else facts.tables[:NUM_SHOWN]
    rest = facts.tables[len(listed) :]
    aligned = columns(_TABLE_HEADER, [_table_cells(table) for table in listed])
    lines = aligned[:1]
    group = 0
    for index, (table, line) in enumerate(zip(listed, aligned[1:])):
        lines += [line, *_stretch_lines(table)]
        group += 1
        if index + 1 == len(listed) or listed[index + 1].why != table.why:
            these = f"these {group}: " if group > 1 else ""
            lines += wrapped(these + table.why, 6) if table.why else []
            group = 0
    return lines + (wrapped(_rest_text(rest), 2) if rest else [])


def fingerprint_pairs(facts: PlanFacts) -> list[tuple[str, str]]:
    """The machine of the plan: (what, value), units where the names have them."""
    pairs = []
    for name, value in facts.fingerprint.items():
        label = str(name).replace("_", " ").removeprefix("num ")
        if isinstance(value, Mapping):
            text = ", ".join(f"{inner} {shown(str(item))}" for inner, item in value.items())
        elif label.endswith(" bytes") and number(value) is not None:
            label, text = label[:-6], bytes_text(value)
        else:
            text = shown(str(value))
        if label.endswith(" gib"):
            label, text = label[:-4], f"{text} GiB"
        pairs.append((shown(label), text))
    return pairs


def fingerprint_text(facts: PlanFacts) -> str:
    """The machine of the plan on one line; a CPU's name speaks for itself."""
    pairs = fingerprint_pairs(facts)
    return "; ".join(
        text if label in ("cpu", "gpu", "system") else f"{label} {text}" for label, text in pairs
    )


def source_lines(facts: PlanFacts) -> list[str]:
    """Where the numbers come from."""
    lines = []
    source, samples = facts.profile.get("source"), facts.profile.get("num_samples")
    if source:
        of = f", {plural(samples, 'sample')}" if isinstance(samples, int) else ""
        lines.append(f"profile: {shown(str(source))}{of}")
    if facts.fingerprint:
        lines.append(f"machine: {fingerprint_text(facts)}")
    seconds, tried = facts.search.get("seconds"), facts.search.get("num_candidates")
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
        of = f", {plural(tried, 'candidate')}" if isinstance(tried, int) else ""
        stopped = (
            "" if facts.search.get("is_complete", True) else "; stopped before the end: the best plan so far"
        )
        lines.append(f"search: {seconds_text(seconds)}{of}{stopped}")
    if facts.measured and facts.measured.source:
        lines.append(f"measured: {shown(facts.measured.source)}")
    return lines


def explanation_text(facts: PlanFacts, all_tables: bool = False) -> str:
    """Plain text, at most 120 columns: step, budgets, parts, tables, sources, and what is not known."""
    ranks = plural(facts.world_size, "rank")
    kind = f"plan for {facts.objective}" if facts.objective else "plan"
    title = f"{kind}: {plural(len(facts.tables), 'table')}, {plural(facts.num_rows, 'row')}, {ranks}"
    ahead = f", look-ahead {facts.look_ahead}" if facts.look_ahead is not None else ""
    ahead += ", edited since it was planned" if facts.is_edited else ""
    blocks = [[title + ahead, *_step_lines(facts)], _budget_lines(facts), _part_lines(facts)]
    if facts.tables:
        reads = any(table.rows_read_per_step for table in facts.tables)
        title = f"Tables, {'those that read most' if reads else 'largest in memory'} first"
        owned = "; rows that name no owner are on every rank" if facts.world_size > 1 else ""
        blocks.append([title + owned, *_table_lines(facts, all_tables)])
    notes = [line for text in source_lines(facts) for line in wrapped(text, 2)]
    blocks.append(notes)
    blocks.append([line for text in (*facts.remarks, *facts.unknown) for line in wrapped(text, 2)])
    return "\n\n".join("\n".join(block) for block in blocks if block)
