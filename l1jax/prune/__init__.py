"""Removal of silent units from any network that is a JAX function.

Reads the jaxpr of an apply function (`_program`), relates the indices of axes that go together (`_axes`,
`_axis_rules`), finds what is constant (`_constants`, `_constant_rules`) and what is read (`_read_rules`), folds
constants into biases (`_folding`), and runs what is left (`_rebind`). May import
`training` and what that may import.
"""

from ._compact import Compacted as Compacted
from ._compact import compact as compact
from ._feedback import Feedback as Feedback
from ._feedback import FeedbackState as FeedbackState
from ._plan import PruningPlan as PruningPlan
from ._report import Cost as Cost
from ._report import Layer as Layer
from ._report import Report as Report
from ._units import UnitLayer as UnitLayer
from ._units import Units as Units
from ._units import units as units

__all__ = [
    "Compacted",
    "Cost",
    "Feedback",
    "FeedbackState",
    "Layer",
    "PruningPlan",
    "Report",
    "UnitLayer",
    "Units",
    "compact",
    "units",
]
