"""What solves: proximal gradient steps in one traced function, and active sets on the host.

May import `results`, `host`, `model`, `data`, `composite` and what these may import.
"""

from ._active_set_engines import Covariance, Homotopy, WorkingSet
from ._compiled_engine import Compiled
from ._engine import Engine, Plan, register_engine
from ._gradient_engines import GradientSteps, Parallel, Sequential
from ._row_blocks_engine import RowBlocksEngine

_ALL = (
    RowBlocksEngine(),
    WorkingSet(),
    Covariance(),
    Homotopy(),
    Compiled(),
    GradientSteps(),
    Sequential(),
    Parallel(),
)
for _one in _ALL:
    register_engine(_one)

__all__ = ["Engine", "Plan", "register_engine"]
