"""Published systems, each as a small honest experiment: the claim, what is tested here, what was measured, a verdict.

One module per experiment. The rule that turns numbers into a verdict stands in that module and was fixed before it was
run. ``hotrow reproduce`` is the way in; ``docs/reproduce.md`` has the outcomes.
"""

from hotrow.reproduce.outcome import Experiment, Finding, Outcome, Verdict
from hotrow.reproduce.registry import EXPERIMENTS, reproduce

__all__ = ["EXPERIMENTS", "Experiment", "Finding", "Outcome", "Verdict", "reproduce"]
