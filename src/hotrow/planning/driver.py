"""``hr.plan``: tables, a profile and a machine become a plan within a budget, with what it predicts and a bound."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hotrow.core import DataType, EmbeddingConfig, Tier
from hotrow.errors import ConfigError, PlanInfeasible
from hotrow.measurements import Hardware
from hotrow.optim import Optimizer, RowWiseAdagrad
from hotrow.planning.arguments import check_inputs, check_options
from hotrow.planning.candidates import (
    ALL,
    POLICIES,
    STRIPE,
    Candidates,
    Grids,
    Setting,
    coarser,
    room,
    table_load,
)
from hotrow.planning.check import TIERS, check
from hotrow.planning.cost import FixedCosts, named_parts
from hotrow.planning.dense import dense_costs
from hotrow.planning.fingerprint import differences, memory_bytes, read_fingerprint
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.infeasible import explain, explain_least
from hotrow.planning.objectives import Objective, objective_of
from hotrow.planning.problem import Floats, Solution
from hotrow.planning.statistics import TableStatistics, read_profile
from hotrow.planning.uses import UseSearch, worth
from hotrow.planning.why import why
from hotrow.plans import DIGEST_NOTE, CacheSpec, Owner, Plan, Segment, TablePlan, table_bytes
from hotrow.profiles import AccessProfile
from hotrow.sizes import parse_bytes

DEFAULT_SECONDS = 60.0
EXCHANGES = {"train": 3, "serve": 2}
"""Between ranks in a step: ids there, rows or pooled bags back, and in training gradients there."""
NEARLY_ALL_FIRST, FEW_FIRST = 1.1, 0.05
"""Of a table's lookups, those that are a row's first in the profile: reads of no more than that times them; and so few
that they do not matter.
"""
Budget = Mapping[str, "int | str | Sequence[int | str]"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a plan depends on, checked. rates: of no plan yet. budget_bytes: of each tier by rank.

    is_tiered: rows may be on SSD, so that a look-ahead thread is waited for; else only placements in DRAM are made.
    use_bytes: bounds of the caches of a rank together, and of DRAM beside them, where these are bounded as well.
    grids: placements that were made already, of these tables with this optimizer.
    """

    tables: tuple[EmbeddingConfig, ...]
    profile: AccessProfile
    statistics: Mapping[str, TableStatistics]
    rates: HardwareRates
    fixed: FixedCosts
    budget_bytes: Mapping[str, tuple[int, ...]]
    objective: str
    optimizer: Optimizer
    batch_size: int
    look_ahead: int
    world_size: int
    latency_seconds: float | None
    is_tiered: bool = True
    use_bytes: tuple[float, float] | None = None
    grids: Grids = field(default_factory=dict, compare=False, repr=False)

    def setting(self) -> Setting:
        found = Setting(
            objective=self.costs(),
            optimizer=self.optimizer,
            batch_size=self.batch_size,
            look_ahead=self.look_ahead,
            world_size=self.world_size,
            is_training=self.objective == "train",
            by_use=self.use_bytes is not None,
            gap_bytes=self.rates.gap_bytes,
        )
        return coarser(found, len(self.tables))

    @property
    def whole_bytes(self) -> int:
        """Of all rows in DRAM."""
        return sum(table_bytes(table, self.optimizer) for table in self.tables)

    def costs(self) -> Objective:
        fixed = replace(self.fixed, is_tiered=self.is_tiered, batch_size=self.batch_size)
        return objective_of(self.objective, fixed, self.rates, self.latency_seconds)

    def limits(self, objective: Objective) -> Floats:
        """[ranks, bounded columns]"""
        columns: list[tuple[float, ...]] = [self.budget_bytes[tier] for tier in TIERS]
        columns += [(size,) * self.world_size for size in self.use_bytes or ()]
        if objective.latency is not None and objective.latency_seconds is not None:
            left = objective.latency_seconds - objective.latency.constant
            columns.append((left,) * self.world_size)
        found: Floats = np.array(columns, np.float64).T
        return found


def plan(
    tables: Sequence[EmbeddingConfig],
    profile: AccessProfile,
    hardware: Hardware,
    *,
    budget: Budget | None = None,
    objective: str = "train",
    optimizer: Optimizer | None = None,
    batch_size: int | None = None,
    look_ahead: int | None = None,
    world_size: int = 1,
    latency_seconds: float | None = None,
    dense: FixedCosts | nn.Module | None = None,
    seconds: float | None = DEFAULT_SECONDS,
    seed: int = 0,
) -> Plan:
    """The placement of every table's rows that makes a step shortest within a budget of every rank.

    budget: bytes of the tiers ``dram`` and ``ssd`` of each rank (numbers, texts such as "4GiB", or a list by rank);
    where a tier is not given, what the machine has, of DRAM no more than is available when it is planned. objective:
    ``train``, or ``serve`` (throughput, each batch of queries within ``latency_seconds``). optimizer: of the rows,
    RowWiseAdagrad as the collection's if not given. batch_size: of one rank, look_ahead: batches ahead; the profile's
    if not given. dense: the model behind the tables, or what a step takes beside them. seconds: that the search may
    take; it then has the best plan so far. seed: of the search.

    ``notes["planner"]`` holds what the plan predicts, its gap to a bound that no plan is below, prices, and reasons.
    Warns if the hardware file is of another machine. Raises ConfigError for what is wrong or missing, PlanInfeasible,
    naming need, have, gap and the cheapest remedy of each tier, if the smallest legal plan does not fit.
    """
    begin = time.monotonic()
    check_inputs(tables, profile, hardware, dense)
    check_options(objective=objective, optimizer=optimizer, batch_size=batch_size, look_ahead=look_ahead,
                  world_size=world_size, latency_seconds=latency_seconds, seconds=seconds, seed=seed)  # fmt: skip
    statistics, remarks = read_profile(tables, profile)
    foreign = _check_machine(hardware)
    budget, taken = _with_room(budget, hardware, is_here=not foreign)
    budget_bytes = _budget(budget, hardware, world_size)
    rates = HardwareRates.of(hardware, num_ranks=world_size)
    ahead = profile.look_ahead if look_ahead is None else look_ahead
    remarks += foreign + taken + _exchange_remarks(rates, world_size)
    samples = batch_size or profile.batch_size
    if samples != profile.batch_size:
        remarks.append(
            f"the profile is of batches of {profile.batch_size} samples, the plan of {samples}: what caches read is "
            f"carried over, not measured; hotrow profile with --batch-size {samples} measures it"
        )
    if ahead != profile.look_ahead:
        remarks.append(
            f"the profile is of a look-ahead of {profile.look_ahead} batches, the plan of {ahead}: what caches read is "
            f"carried over, not measured; hotrow profile with --look-ahead {ahead} measures it"
        )
    fixed = dense or FixedCosts(other_seconds=rates.step_calls, batch_size=samples)
    if isinstance(fixed, nn.Module):
        fixed = dense_costs(fixed, samples, rates, is_training=objective == "train")
    if world_size > 1:
        calls = EXCHANGES[objective] * rates.send_call
        fixed = replace(fixed, exchange_seconds=fixed.exchange_seconds + calls)
    task = Task(
        tables=tuple(tables),
        profile=profile,
        statistics=statistics,
        rates=rates,
        fixed=fixed,
        budget_bytes=budget_bytes,
        objective=objective,
        optimizer=optimizer or RowWiseAdagrad(),
        batch_size=samples,
        look_ahead=ahead,
        world_size=world_size,
        latency_seconds=latency_seconds,
    )
    notes = {"fingerprint": dict(hardware.fingerprint), "remarks": remarks}
    return search_plan(task, seconds, seed, begin, notes)


def search_plan(
    task: Task,
    seconds: float | None,
    seed: int,
    begin: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a task, checked."""
    begin = time.monotonic() if begin is None else begin
    search = UseSearch(task, np.inf if seconds is None else begin + seconds, seed)
    search.run(lambda problem: explain_least(task, problem))
    best = search.best
    if not best.is_feasible:
        raise PlanInfeasible(explain(task, search.last_problem, is_proved=search.is_impossible))
    tables = {t.name: _table_plan(t, task, best.tables, i, best.solution) for i, t in enumerate(task.tables)}
    made = Plan(tables=tables, world_size=task.world_size)
    setting = task.setting()
    used = check(made, task.tables, task.budget_bytes, task.optimizer, needs=_needs(task, setting, best.tables),
                 is_training=setting.is_training)  # fmt: skip
    given = dict(notes or {})
    given["remarks"] = [
        *given.get("remarks", []),
        *_short_profile_remarks(task, best.tables),
    ]
    planner = _notes(task, search, used, begin)
    return replace(made, notes={"planner": planner | given | {DIGEST_NOTE: made.tables_digest()}})


# -- what is asked


def _check_machine(hardware: Hardware) -> list[str]:
    """A remark, and a warning, if the measurements are another machine's.

    The file system is not compared: where rows will be is not known here, and the working directory may be anywhere.
    """
    here = read_fingerprint(Path.cwd())
    found = differences(hardware.fingerprint, here, but=("file_system",))
    if not found:
        return []
    text = (
        f"the hardware file is of another machine ({'; '.join(found)}): what it predicts holds there, not here; run "
        f"hotrow probe. Measured: {dict(hardware.fingerprint)}. This one: {here}"
    )
    warnings.warn(text, stacklevel=3)
    return [text]


def _with_room(
    budget: Budget | None, hardware: Hardware, *, is_here: bool
) -> tuple[Budget | None, list[str]]:
    """A budget that does not name DRAM, with what is available of it; and a remark that says what was taken.

    is_here: the machine is this one, so what is available can be asked.
    """
    whole = hardware.capacity_bytes.get("dram")
    if whole is None or not (budget is None or isinstance(budget, Mapping) and "dram" not in budget):
        return budget, []
    available = memory_bytes("MemAvailable") if is_here else 0
    size = min(int(whole), available or int(whole))
    what = "that are available now" if available else "and leaves no room for anything else on that machine"
    text = (
        f"no budget of dram was given: the plan may use {size} bytes of each rank, of the {whole} of the machine, "
        f"{what}; budget={{'dram': ...}} (hotrow plan --dram) names another: several ranks of one machine share it"
    )
    return {**(budget or {}), "dram": size}, [text]


def _exchange_remarks(rates: HardwareRates, world_size: int) -> list[str]:
    """That the exchange between ranks was not measured, or not between as many."""
    if world_size == 1 or rates.exchange_ranks == world_size:
        return []
    command = f"torchrun --no-python --nproc-per-node {world_size} hotrow probe"
    if not rates.exchange_ranks:
        return [
            f"the exchange between ranks is taken as free: the hardware file has no 'all-to-all'; measure it with: "
            f"{command}"
        ]
    return [
        f"the exchange was measured between {rates.exchange_ranks} ranks, the plan is for {world_size}; measure it "
        f"with: {command}"
    ]


def _budget(budget: Budget | None, hardware: Hardware, world_size: int) -> dict[str, tuple[int, ...]]:
    if budget is not None and not isinstance(budget, Mapping):
        raise ConfigError(
            f"plan: budget={budget!r} does not say of which tier; give budget={{'dram': ...}}, with 'ssd' if "
            "that is bounded"
        )
    given: dict[str, Any] = dict(budget or {})
    foreign = [tier for tier in given if tier not in TIERS]
    if foreign:
        raise ConfigError(f"plan: budget has tier {foreign[0]!r}; rows are planned for {' and '.join(TIERS)}")
    found = {}
    for tier in TIERS:
        value = given.get(tier, hardware.capacity_bytes.get(tier))
        if value is None:
            raise ConfigError(
                f"plan: no budget of {tier}, and the hardware file does not say how much there is; give budget="
                f"{{{tier!r}: ...}}"
            )
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        values = list(value) if is_list else [value] * world_size
        if len(values) != world_size:
            raise ConfigError(
                f"plan: budget of {tier} is for {len(values)} ranks, world_size is {world_size}"
            )
        found[tier] = tuple(parse_bytes(each, f"budget of {tier}") for each in values)
    return found


# -- what was found


def _table_plan(
    table: EmbeddingConfig, task: Task, chosen: Candidates, index: int, solution: Solution
) -> TablePlan:
    kind, owner = int(chosen.owner[index]), int(solution.owner[index])
    rest = {ALL: Owner(), STRIPE: Owner(kind="stripe")}.get(kind)
    rest = rest or Owner(kind="rank", rank=owner)
    replicated, capacity = int(chosen.num_replicated[index]), int(chosen.capacity_bytes[index])
    cuts = [
        (0, replicated, Tier.DRAM, Owner()),
        (replicated, table.num_embeddings, Tier.SSD if capacity else Tier.DRAM, rest),
    ]
    cache = None
    if capacity:
        cache = CacheSpec(
            policy=POLICIES[int(chosen.policy[index])],
            num_pinned_rows=int(chosen.num_pinned[index]),
            capacity_bytes=capacity,
        )
    return TablePlan(
        num_rows=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        segments=tuple(
            Segment(begin=a, end=b, tier=tier, owner=who, data_type=table.data_type)
            for a, b, tier, who in cuts
            if a < b
        ),
        order_id=task.profile.tables[table.name].order_id,
        cache=cache,
    )


def _needs(task: Task, setting: Setting, chosen: Candidates) -> dict[str, int]:
    """Slots that each table's batches need at once beside pinned rows, on the rank that holds it."""
    found = {}
    for index, table in enumerate(task.tables):
        split = task.world_size if chosen.owner[index] == STRIPE else 1
        samples = task.batch_size * (1 if chosen.owner[index] == ALL else task.world_size)
        before = chosen.num_replicated[index] + chosen.num_pinned[index] * split
        slots = room(task.statistics[table.name], setting, samples, np.array(before))
        found[table.name] = int(np.ceil(float(slots) / split)) - 1  # prefixes are rounded up to ranks
    return found


def _short_profile_remarks(task: Task, chosen: Candidates) -> list[str]:
    """That hardly anything but rows which the profile saw for the first time is read: a log that is too short to tell
    caches of other sizes apart, or rows that never come again.
    """
    profiles = [task.profile.tables[table.name] for table in task.tables]
    first = np.array([each.num_distinct_rows / max(each.num_lookups, 1) for each in profiles])
    is_short = (chosen.capacity_bytes > 0) & (first > FEW_FIRST)
    is_short &= chosen.reads_per_lookup <= NEARLY_ALL_FIRST * first
    names = [table.name for table, short in zip(task.tables, is_short) if short]
    if not names:
        return []
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [
        f"nearly all reads of {some} are rows that the profile saw for the first time: what a larger cache saves is "
        "not known from it; profile more batches"
    ]


def _notes(task: Task, search: UseSearch, used: Mapping[str, Sequence[int]], begin: float) -> dict[str, Any]:
    """What explain, the trainer and bench read (the contract: docs/planner.md)."""
    best = search.best
    solution, chosen, own = best.solution, best.tables, best.own
    fixed = replace(task.fixed, is_tiered=best.is_tiered, batch_size=task.batch_size)
    loads = own.loads(np.arange(len(chosen)), solution.owner)
    rank = int(loads[:, own.num_bounded :].max(1).argmax())
    is_here = (solution.owner == rank) | (solution.owner < 0)
    on_rank = np.where(is_here[:, None], chosen.load, chosen.other_load)
    parts = named_parts([table_load(on_rank, task.objective == "train")], fixed, best.rates)
    step, bound = best.step_seconds, search.bound
    prices = worth(task, best)
    reasons = why(best.problem, best.candidates, solution, prices)
    gib = 2.0**30
    return {
        "objective": task.objective,
        "batch_size": task.batch_size,
        "world_size": task.world_size,
        "look_ahead": task.look_ahead,
        "optimizer": task.optimizer.name,
        "budget_bytes": {tier: max(sizes) for tier, sizes in task.budget_bytes.items()},
        "used_bytes": {tier: list(sizes) for tier, sizes in used.items()},
        "predicted": {"step_seconds": step, "parts": _of_objective(parts, task.objective), "rank": rank},
        "bound": {"step_seconds": bound, "gap": max(0.0, 1 - bound / step) if step > 0 else 0.0,
                  "method": search.method,
                  "at_its_rates": {"step_seconds": search.bound_at_rates,
                                   "gap": max(0.0, 1 - search.bound_at_rates / step) if step > 0 else 0.0}},
        "prices": {tier: float(prices[i]) * gib for i, tier in enumerate(TIERS)},
        "tables": {
            table.name: _table_notes(task, table, chosen, index, reasons[index])
            for index, table in enumerate(task.tables)
        },
        "profile": {"source": task.profile.source, "num_samples": task.profile.num_samples},
        "search": {
            "seconds": time.monotonic() - begin,
            "num_candidates": search.num_candidates,
            "is_complete": search.is_complete,
        },
    }  # fmt: skip


def _of_objective(parts: dict[str, float], objective: str) -> dict[str, float]:
    """Parts of serving are those without update, write back and the wait of a training step."""
    left_out = () if objective == "train" else ("update", "write back", "wait")
    return {name: seconds for name, seconds in parts.items() if name not in left_out}


def _table_notes(
    task: Task, table: EmbeddingConfig, chosen: Candidates, index: int, reason: str
) -> dict[str, Any]:
    statistics = task.statistics[table.name]
    kind = int(chosen.owner[index])
    split = task.world_size if kind == STRIPE else 1
    samples = task.batch_size * (1 if kind == ALL else task.world_size)
    lookups, reads = statistics.lookups(samples), float(chosen.reads_per_lookup[index])
    before = float(chosen.num_replicated[index] + chosen.num_pinned[index] * split)
    is_cached = chosen.capacity_bytes[index] > 0
    return {
        "rows_read_per_lookup": reads,
        "hit_rate": 1.0 - reads,
        "rows_read_per_step": float(chosen.rows_read[index]) * split,
        "pages_per_step": float(chosen.pages[index]) * split,
        "lookups_per_step": lookups,
        "distinct_per_step": statistics.distinct(samples),
        "bytes": {"dram": int(chosen.load[index, -2]), "ssd": int(chosen.load[index, -1])},
        "pinned_share": float(statistics.share_before(before)) if is_cached else 1.0,
        "policy": POLICIES[int(chosen.policy[index])] if is_cached else "dram",
        "data_type": DataType(table.data_type).value,
        "why": reason,
    }
