"""Places for ids that have no order by heat: by the first half's accesses, judged on the second half."""

from __future__ import annotations

import numpy as np

from hotrow.profiles import Curve
from hotrow.profiling.curves import cuts
from hotrow.profiling.followed import Followed

HEAT_ORDER = "heat"
"""``order_id`` of curves whose places are by the accesses of the pass's first half; no table has this order yet."""


def judged_place_curves(followed: Followed) -> tuple[Curve, Curve]:
    """(places, share of accesses): of the second half of the batches, and of the last quarter of the samples.

    Shares are one less what followed rows behind a place take, against the lookups expected of them.
    """
    end = followed.counted.num_samples
    return _from(followed, followed.half * followed.batch_size), _from(followed, end * 3 // 4)


def _from(followed: Followed, begin: int) -> Curve:
    counted, stream = followed.counted, followed.all
    found = counted.row_counts([begin, counted.num_samples])
    expected = float(found.counts.sum())
    if counted.row_rate < 1.0:
        expected = counted.num_lookups_between(*found.edges) * stream.rate
    if not expected:
        return ()
    counts = np.zeros(len(stream.places))
    counts[followed.number] = found.counts[0]
    behind = counts[::-1].cumsum()[::-1]  # of this row's place and later
    at = cuts(max(followed.num_distinct, 1))
    rows = np.searchsorted(stream.places, at)
    outside = np.append(behind, 0.0)[rows]
    shares = np.clip(1.0 - outside / expected, 0.0, 1.0)
    if at[-1] < counted.num_rows:
        at, shares = np.append(at, counted.num_rows), np.append(shares, 1.0)
    return tuple((int(x), float(y)) for x, y in zip(at, np.maximum.accumulate(shares)))
