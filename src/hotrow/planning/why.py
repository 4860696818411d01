"""Why a table is where it is, in one line: what its last bytes are worth, against what bytes are worth elsewhere."""

from __future__ import annotations

import numpy as np

from hotrow.explanation import bytes_text, seconds_text
from hotrow.planning.candidates import POLICIES, RANK, STRIPE, Candidates
from hotrow.planning.problem import Floats, Problem, Solution

_MIB = 2.0**20


def why(problem: Problem, candidates: Candidates, solution: Solution, prices: Floats) -> list[str]:
    """A line for every table. prices: what a little more of each tier saves, and the weights of the forms."""
    bounded = problem.num_bounded
    seconds = problem.average[:, bounded:] @ prices[bounded:]
    price = seconds_text(float(prices[0]) * _MIB)
    lines = []
    for index in range(problem.num_tables):
        chosen = int(solution.choice[index])
        options = np.arange(problem.starts[index], problem.starts[index + 1])
        what = _what(candidates, chosen, int(solution.owner[index]))
        smaller = options[problem.average[options, 0] < problem.average[chosen, 0]]
        if len(smaller):
            size = problem.average[chosen, 0] - problem.average[smaller, 0]
            spared = (seconds[smaller] - seconds[chosen]) / size
            at = int(spared.argmin())
            worth = seconds_text(max(0.0, float(spared[at])) * _MIB)
            lines.append(
                f"{what}: its last {bytes_text(float(size[at]))} spare {worth} a step and MiB; elsewhere a MiB spares "
                f"{price}"
            )
        elif len(options) > 1:
            larger = options[problem.average[options, 0] > problem.average[chosen, 0]]
            size = problem.average[larger, 0] - problem.average[chosen, 0]
            spared = (seconds[chosen] - seconds[larger]) / np.maximum(size, 1e-9)
            worth = seconds_text(float(spared.max(initial=0.0)) * _MIB)
            lines.append(
                f"{what}, the least: more would spare {worth} a step and MiB; elsewhere a MiB spares {price}"
            )
        else:
            lines.append(f"{what}: nothing else is legal, or better in any respect")
    return lines


def _what(candidates: Candidates, index: int, owner: int) -> str:
    """Where the rows are."""
    parts = []
    if candidates.num_replicated[index] > 0 and candidates.owner[index] in (STRIPE, RANK):
        parts.append(f"{int(candidates.num_replicated[index])} rows on every rank, the rest")
    if candidates.owner[index] == STRIPE:
        parts.append("striped over the ranks")
    elif candidates.owner[index] == RANK:
        parts.append(f"on rank {owner}")
    if candidates.capacity_bytes[index] > 0:
        policy = POLICIES[int(candidates.policy[index])]
        reads = candidates.rows_read[index]
        parts.append(f"on SSD behind {policy}, {reads:.4g} rows read a step")
    else:
        parts.append("in DRAM")
    return " ".join(parts)
