"""A value of a valid file that is replaced by another: the file is refused by name, or works."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hotrow as hr
from hotrow.document import Document
from hotrow.errors import ConfigError, FormatError, PlanInfeasible
from hotrow.explanation import difference_json, difference_text, differences_of, facts_json, facts_of
from hotrow.measurements import NOT_NEGATIVE, NUMBERS, POSITIVE, Hardware
from hotrow.planning import HardwareRates
from hotrow.planning.fingerprint import read_fingerprint
from hotrow.planning.instances import reference_hardware, zipf_profile
from hotrow.plans import Plan
from hotrow.profiles import AccessProfile, DriftPoint

At = tuple[Any, ...]

SIZES = {"big": 4000, "small": 300}
TABLES = [hr.EmbeddingBagConfig(name=n, num_embeddings=s, embedding_dim=8) for n, s in SIZES.items()]


def a_profile() -> AccessProfile:
    tables = {}
    for name, size in SIZES.items():
        made = zipf_profile(size, 4, 0.9, 64)
        tables[name] = type(made)(**{
            **made.__dict__,
            "miss_ratio_curve": ((1, 0.9), (size, 0.1)),
            "drift": (DriftPoint(num_rows=10, same=0.5, later=(0.4, 0.3)),),
            "fits": {"zipf": {"alpha": 0.9, "ks": 0.01}},
        })  # fmt: skip
    return AccessProfile(tables=tables, num_samples=1 << 22, batch_size=64, look_ahead=2, source="made")


def a_hardware() -> Hardware:
    made = reference_hardware()
    here = read_fingerprint(Path.cwd())
    return Hardware(**{**made.__dict__, "fingerprint": here})


def planned(profile: AccessProfile, hardware: Hardware) -> Plan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return hr.plan(TABLES, profile, hardware, budget={"dram": "100KiB", "ssd": "1GiB"}, seconds=0.2)


PROFILE, HARDWARE = a_profile(), a_hardware()
PLAN = planned(PROFILE, HARDWARE)
BAD = (
    float("nan"),
    float("inf"),
    -1,
    0,
    "x",
    "",
    None,
    [],
    [[1]],
    {},
    True,
    2.5,
    1e-12,
    1e-300,
    10**18,
    1e300,
    10**400,
)


def places(value: Any, at: At = ()) -> Iterator[At]:
    if at:
        yield at
    pairs: Any = (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    )
    for key, item in pairs:
        yield from places(item, (*at, key))


def replaced(value: Any, at: At, item: Any) -> Any:
    value = copy.deepcopy(value)
    holder = value
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = item
    return value


def kinds(value: Any) -> list[list[At]]:
    """Places by the names on the way, so that the points of long curves are not most of what is tried."""
    found: dict[At, list[At]] = {}
    for at in places(value):
        found.setdefault(tuple(key if isinstance(key, str) else "" for key in at), []).append(at)
    return list(found.values())


VALUES: dict[str, Any] = {
    name: json.loads(json.dumps(document.to_json()))
    for name, document in (("profile", PROFILE), ("hardware", HARDWARE), ("plan", PLAN))
}
KINDS = {name: kinds(value) for name, value in VALUES.items()}


def changes(name: str) -> Any:
    at = st.sampled_from(KINDS[name]).flatmap(st.sampled_from)
    return st.tuples(at, st.sampled_from(BAD))


def refused(kind: type[Document], value: Any, path: Path) -> Any:
    """The document, or None if it is refused in one line that names the file."""
    path.write_text(json.dumps(value))
    try:
        return kind.load(path)
    except (FormatError, PlanInfeasible) as error:
        assert str(error).startswith(str(path)), error
        assert "\n" not in str(error) and len(str(error)) < 500, error
        return None


def check_predicted(plan: Plan) -> None:
    planner = plan.notes["planner"]
    seconds = planner["predicted"]["step_seconds"]
    assert 1e-6 < seconds < float("inf"), seconds
    assert all(part >= 0 for part in planner["predicted"]["parts"].values())
    json.dumps(plan.to_json(), allow_nan=False)


SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW
@given(changes("profile"))
def test_any_changed_value_of_a_profile_is_refused_or_planned_with(tmp_path: Path, change: Any) -> None:
    value = replaced(VALUES["profile"], *change)
    profile = refused(AccessProfile, value, tmp_path / "profile.json")
    if profile is not None:
        try:
            check_predicted(planned(profile, HARDWARE))
        except (ConfigError, PlanInfeasible) as error:
            assert "\n" not in str(error), error


@SLOW
@given(changes("hardware"))
def test_any_changed_value_of_a_machine_is_refused_or_planned_with(tmp_path: Path, change: Any) -> None:
    value = replaced(VALUES["hardware"], *change)
    hardware = refused(Hardware, value, tmp_path / "hardware.json")
    if hardware is not None:
        try:
            check_predicted(planned(PROFILE, hardware))
        except (ConfigError, PlanInfeasible) as error:
            assert "\n" not in str(error), error


@SLOW
@given(changes("plan"))
def test_any_changed_value_of_a_plan_is_refused_or_explained(tmp_path: Path, change: Any) -> None:
    plan = refused(Plan, replaced(VALUES["plan"], *change), tmp_path / "plan.json")
    if plan is not None:
        facts = facts_of(plan)
        assert plan.explain() and json.dumps(facts_json(facts))
        assert facts.gap is None or 0 <= facts.gap <= 1
        difference = differences_of(plan, PLAN)
        assert difference_text(difference) and json.dumps(difference_json(difference))


def number_of(what: str) -> int:
    return next(i for i, m in enumerate(HARDWARE.measurements) if m.what == what)


def test_no_measurement_is_there_twice(tmp_path: Path) -> None:
    """Else the last of them would decide in silence."""
    value = copy.deepcopy(VALUES["hardware"])
    again = copy.deepcopy(value["measurements"][number_of("writer wait")])
    value["measurements"].append(again | {"value": 9e9, "high": 9e9})
    with pytest.raises(ConfigError, match="'writer wait' is there twice"):
        HardwareRates.of(refused(Hardware, value, tmp_path / "hardware.json"))
    del value["measurements"][-1], value["measurements"][number_of("writer wait")]
    hardware = refused(Hardware, value, tmp_path / "hardware.json")
    assert hardware is not None
    with pytest.raises(ConfigError, match="'writer wait' was measured with one buffer_share"):
        HardwareRates.of(hardware)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1, 0], ids=str)
@pytest.mark.parametrize("what", sorted({m.what for m in HARDWARE.measurements}))
def test_no_measurement_is_impossible(what: str, bad: float, tmp_path: Path) -> None:
    """What takes time is above 0; parts may be nothing; differences may be negative; nothing is NaN."""
    value = copy.deepcopy(VALUES["hardware"])
    value["measurements"][number_of(what)] |= {"value": bad, "low": bad, "high": bad}
    may_be = {
        "exchange": (-1, 0),
        "contention": (0,),
        "read contention": (0,),
        "read cpu": (0,),
        "write out": (0,),
        "writer wait": (0,),
    }
    hardware = refused(Hardware, value, tmp_path / "hardware.json")
    assert (hardware is not None) == (bad in may_be.get(what, ()))
    if hardware is not None:
        check_predicted(planned(PROFILE, hardware))


FIRST = ("tables", "big")


@pytest.mark.parametrize(
    ("name", "at", "bad", "message"),
    [
        ("profile", (*FIRST, "heat_curve"), [1, 2], r"tables.big: heat_curve\[0\]=1 is no point"),
        ("profile", (*FIRST, "heat_curve"), [["a", "b"]], r"tables.big: heat_curve\[0\]='a' is not of type float"),
        ("profile", (*FIRST, "heat_curve"), [[1, 2, 3]], "is no point"),
        ("profile", (*FIRST, "place_curve"), [None], "is no point"),
        ("profile", (*FIRST, "fits"), {"zipf": 3}, "tables.big: fits.zipf=3 is no object"),
        ("profile", (*FIRST, "num_lookups"), -1, "tables.big: num_lookups=-1; give at least 0"),
        ("profile", (*FIRST, "num_rows"), 0, "tables.big: num_rows=0; give at least 1"),
        ("profile", (*FIRST, "num_rows"), 3999, "tables.big: num_distinct_rows=4000; give .* at most 3999"),
        ("profile", (*FIRST, "miss_curves", 0, "points"), [[8, 0.5], [4, 0.4]], r"miss_curves\[0\].* x must rise"),
        ("profile", (*FIRST, "uniques_per_batch"), [[64, -3.0]], "uniques_per_batch: y of point .* must lie in"),
        ("profile", (*FIRST, "uniques_per_batch"), [[64, 1e300]], "uniques_per_batch: y of point .* must lie in"),
        ("profile", (*FIRST, "order_id"), "x", "tables.big: order_id='x' names no order"),
        ("profile", (*FIRST, "place_curve", 3, 1), float("nan"), r"tables.big.place_curve\[3\]\[1\]=nan is not finite"),
        ("hardware", ("capacity_bytes", "dram"), "1GiB", "capacity_bytes.dram='1GiB'; give at least 0, a whole number"),
        ("hardware", ("fingerprint", "cores"), "2", "fingerprint.cores='2'; give at least 1"),
        ("hardware", ("measurements", 0, "arguments", "row_bytes"), "64", r"\[0\]: 'forward': row_bytes='64'"),
        ("hardware", ("measurements", 0, "high"), 0.1, "is not between"),
        ("plan", (*FIRST, "segments", 0, "owner"), "rank:²", r"tables.big.segments\[0\]: owner: 'rank:²' is not"),
        ("plan", (*FIRST, "embedding_dim"), 0, "table 'big': embedding_dim=0; give at least 1"),
        ("plan", (*FIRST, "embedding_dim"), -3, "table 'big': embedding_dim=-3; give at least 1"),
        ("plan", (*FIRST, "cache", "num_pinned_rows"), 10**12, "table 'big': its cache pins 1000000000000 rows"),
        ("plan", ("world_size",), 10**400, "world_size=a number of .* bits is not finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name: str, at: At, bad: Any, message: str, tmp_path: Path) -> None:
    kind = type({"profile": PROFILE, "hardware": HARDWARE, "plan": PLAN}[name])
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(replaced(VALUES[name], at, bad)))
    with pytest.raises((FormatError, PlanInfeasible), match=f"^{re.escape(str(path))}.*{message}"):
        kind.load(path)


@pytest.mark.parametrize("depth", [101, 900, 100_000])
def test_lists_in_lists_without_end_are_refused(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text('{"options": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(FormatError, match="nested"):
        AccessProfile.load(path)


def test_numbers_that_no_file_can_hold_are_not_written(tmp_path: Path) -> None:
    plan = Plan(tables={}, notes={"planner": {"gap": float("nan")}})
    with pytest.raises(FormatError, match="cannot hold NaN or Infinity"):
        plan.save(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def test_a_gap_above_1_is_not_told() -> None:
    notes = copy.deepcopy(dict(PLAN.notes))
    notes["planner"]["bound"]["gap"] = 5
    text = Plan(tables=PLAN.tables, notes=notes).explain()
    assert "500" not in text and facts_of(Plan(tables=PLAN.tables, notes=notes)).gap is None


def test_the_schema_of_a_machine_has_the_same_table() -> None:
    schema = json.loads((files("hotrow") / "schemas" / "hardware.json").read_text())
    measurement = schema["$defs"]["measurement"]
    named = [set(rule["if"]["properties"]["what"]["enum"]) for rule in measurement["allOf"]]
    assert named == [POSITIVE, NOT_NEGATIVE]
    assert set(measurement["properties"]["arguments"]["properties"]) == NUMBERS


@pytest.mark.parametrize("name", VALUES)
def test_the_schemas_accept_what_is_read(name: str) -> None:
    schema = json.loads((files("hotrow") / "schemas" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(VALUES[name])
