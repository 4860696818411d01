"""Other libraries' values as hotrow's and back. A library is imported when a function needs it."""

from hotrow.interop.torchrec_planner import PlannerStats, planner_stats

__all__ = ["PlannerStats", "planner_stats"]
