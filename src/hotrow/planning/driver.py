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
from hotrow.planning.fingerprint import differences, read_fingerprint
from hotrow.planning.hardware_rates import HardwareRates
from hotrow.planning.infeasible import explain_least
from hotrow.planning.objectives import Objective, objective_of
from hotrow.planning.problem import Floats, Problem, Solution
from hotrow.planning.statistics import TableStatistics, read_profile
from hotrow.planning.uses import UseSearch, worth
from hotrow.planning.why import why
from hotrow.plans import DIGEST_NOTE, CacheSpec, Owner, Plan, Segment, TablePlan, table_bytes
from hotrow.profiles import AccessProfile
from hotrow.sizes import parse_bytes

OBJECTIVES = ("train", "serve")
DEFAULT_SECONDS = 60.0
Budget = Mapping[str, "int | str | Sequence[int | str]"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything that a plan depends on, checked. rates: of no plan yet. budget_bytes: of each tier by rank.

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
    use_bytes: tuple[float, float] | None = None
    grids: Grids = field(default_factory=dict, compare=False, repr=False)

    def setting(self) -> Setting:
        found = Setting(
            objective=self.costs(is_tiered=True),
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

    def costs(self, is_tiered: bool) -> Objective:
        fixed = replace(self.fixed, is_tiered=is_tiered, batch_size=self.batch_size)
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
    what the machine has where a tier is not given. objective: ``train``, or ``serve`` (throughput, each batch of
    queries within ``latency_seconds``). optimizer: of the rows, RowWiseAdagrad as the collection's if not given.
    batch_size: of one rank, look_ahead: batches ahead; the profile's if not given. dense: the model behind the tables,
    or what a step takes beside them. seconds: that the search may take; it then has the best plan so far. seed: of the
    search.

    ``notes["planner"]`` holds what the plan predicts, its gap to a bound that no plan is below, prices, and reasons.
    Warns if the hardware file is of another machine. Raises ConfigError for what is wrong or missing, PlanInfeasible,
    naming need, have, gap and the cheapest remedy of each tier, if the smallest legal plan does not fit.
    """
    begin = time.monotonic()
    statistics, remarks = read_profile(tables, profile)
    _check_options(objective, latency_seconds, profile, batch_size, look_ahead, world_size)
    remarks += _check_machine(hardware)
    budget_bytes = _budget(budget, hardware, world_size)
    rates = HardwareRates.of(hardware)
    samples = batch_size or profile.batch_size
    if samples != profile.batch_size:
        remarks.append(
            f"the profile is of batches of {profile.batch_size} samples, the plan of {samples}: what caches read is "
            f"carried over, not measured; hotrow profile with --batch-size {samples} measures it"
        )
    fixed = dense or FixedCosts(other_seconds=rates.step_calls, batch_size=samples)
    if not isinstance(fixed, (FixedCosts, nn.Module)):
        raise ConfigError(
            f"plan: dense={dense!r} is neither a module nor FixedCosts; give the model behind the tables, or "
            "leave it out"
        )
    if isinstance(fixed, nn.Module):
        fixed = dense_costs(fixed, samples, rates, is_training=objective == "train")
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
        look_ahead=profile.look_ahead if look_ahead is None else look_ahead,
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
        raise PlanInfeasible(_not_found(task, best.own, best.solution))
    tables = {t.name: _table_plan(t, task, best.tables, i, best.solution) for i, t in enumerate(task.tables)}
    made = Plan(tables=tables, world_size=task.world_size)
    setting = task.setting()
    used = check(made, task.tables, task.budget_bytes, task.optimizer, needs=_needs(task, setting, best.tables),
                 is_training=setting.is_training)  # fmt: skip
    planner = _notes(task, search, used, begin)
    return replace(made, notes={"planner": planner | dict(notes or {}) | {DIGEST_NOTE: made.tables_digest()}})


# -- what is asked


def _check_options(
    objective: str,
    latency_seconds: float | None,
    profile: AccessProfile,
    batch_size: int | None,
    look_ahead: int | None,
    world_size: int,
) -> None:
    if objective not in OBJECTIVES:
        raise ConfigError(f"plan: objective {objective!r} is not one of {', '.join(OBJECTIVES)}")
    if latency_seconds is not None and (objective != "serve" or not latency_seconds > 0):
        raise ConfigError(
            f"plan: latency_seconds={latency_seconds} with objective {objective!r}; a bound above 0 goes with 'serve'"
        )
    for name, value, least in (
        ("batch_size", profile.batch_size if batch_size is None else batch_size, 1),
        ("look_ahead", 0 if look_ahead is None else look_ahead, 0),
        ("world_size", world_size, 1),
    ):
        if value < least:
            raise ConfigError(f"plan: {name}={value}; give at least {least}")


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


def _not_found(task: Task, problem: Problem, solution: Solution) -> str:
    """Every table fits in the mean over ranks, but no assignment was found that fits each of them.

    problem: of the chosen candidates alone.
    """
    loads = problem.loads(np.arange(problem.num_tables), solution.owner)[:, : problem.num_bounded]
    scale = np.maximum(problem.limits.mean(0), 1.0)
    rank, column = np.unravel_index(int((loads / scale).argmax()), loads.shape)
    tier = (*TIERS, "latency")[int(column)]
    have = float(problem.limits[rank, column])
    more = float(loads[rank, column])
    table = int(problem.average[:, int(column)].argmax())
    unit = "seconds" if tier == "latency" else "bytes"
    return (
        f"table {task.tables[table].name!r}, {tier} of rank {rank}: the best that was found needs {have + more:.6g} "
        f"{unit}, has {have:.6g}, {more:.6g} too few; give {tier} that much, or the search more seconds"
    )


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
