"""Curves cut to a few of their points, so that a report of many tables stays small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hotrow.profiles import Curve

Points = list[list[float]]


def simplified(curve: Curve, num_points: int) -> Curve:
    """At most ``num_points`` of a curve's points, first and last among them, evenly far apart as they are drawn.

    Distance is measured along the curve over log x and y, each from 0 to 1, so bends keep more points than straights.
    """
    if len(curve) <= max(num_points, 2):
        return curve
    points = np.asarray(curve, dtype=np.float64)
    x, y = np.log1p(points[:, 0]), points[:, 1]
    steps = np.hypot(np.diff(x) / max(np.ptp(x), 1e-12), np.diff(y) / max(np.ptp(y), 1e-12))
    along = np.concatenate(([0.0], np.cumsum(steps)))
    keep = np.searchsorted(along, np.linspace(0.0, along[-1], max(num_points - 1, 2)))
    return tuple(curve[i] for i in np.union1d(np.minimum(keep, len(curve) - 1), [0, len(curve) - 1]))


def deviation(curve: Curve, simple: Curve) -> float:
    """The largest distance in y between a curve's points and its simplified form, drawn straight over x."""
    if len(curve) == len(simple):
        return 0.0
    x, y = (np.array([point[i] for point in curve]) for i in (0, 1))
    drawn = np.interp(x, [point[0] for point in simple], [point[1] for point in simple])
    return float(np.max(np.abs(drawn - y)))


def rounded(curve: Sequence[tuple[float, float]]) -> Points:
    """JSON values: whole x where they are whole, y to five digits behind the point."""
    return [[int(x) if float(x).is_integer() else round(x, 3), round(y, 5)] for x, y in curve]
