"""What a plan says, in words: ``explain`` and ``diff``. Formats what the planner stored in the plan; plans nothing."""

from __future__ import annotations

from hotrow.explanation.differences import PlanDifference, difference_text, differences_of
from hotrow.explanation.facts import (
    PINNED,
    Measured,
    PlanFacts,
    Stretch,
    TableFacts,
    curve_of_places,
    facts_of,
    made_for_other_steps,
    number,
    read_measured,
)
from hotrow.explanation.json_form import difference_json, facts_json
from hotrow.explanation.text import (
    NUM_SHOWN,
    beside_text,
    explanation_text,
    fingerprint_pairs,
    hit_text,
    price_text,
    source_lines,
    stretch_text,
    tiers_of,
    used_of,
)
from hotrow.explanation.units import bytes_text, change_text, count_text, plural, seconds_text, share_text
from hotrow.plans import Plan
from hotrow.profiles import AccessProfile

__all__ = [
    "NUM_SHOWN",
    "PINNED",
    "Measured",
    "PlanDifference",
    "PlanFacts",
    "Stretch",
    "TableFacts",
    "beside_text",
    "bytes_text",
    "change_text",
    "count_text",
    "curve_of_places",
    "diff",
    "difference_json",
    "difference_text",
    "differences_of",
    "explain",
    "explanation_text",
    "facts_json",
    "facts_of",
    "fingerprint_pairs",
    "hit_text",
    "made_for_other_steps",
    "number",
    "plural",
    "price_text",
    "read_measured",
    "seconds_text",
    "share_text",
    "source_lines",
    "stretch_text",
    "tiers_of",
    "used_of",
]


def explain(
    plan: Plan,
    profile: AccessProfile | None = None,
    measured: Measured | None = None,
    all_tables: bool = False,
) -> str:
    """What goes where and why, as plain text of at most 120 columns.

    profile: the profile that the plan was made from; it adds what pinned rows catch to plans without notes. measured:
    what a run measured (``read_measured``). all_tables: list every table, not only those that read most.
    Raises ConfigError for a profile of other tables.
    """
    return explanation_text(facts_of(plan, profile, measured), all_tables)


def diff(before: Plan, after: Plan, all_tables: bool = False) -> str:
    """What changes from one plan to another: tables, rows that move and their bytes, caches, the predicted step."""
    return difference_text(differences_of(before, after), all_tables)
