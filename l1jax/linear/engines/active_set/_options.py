"""The numbers that steer the active-set engine: sizes, and bounds on the work of one path."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class ActiveSetOptions:
    """Sizes of working sets and bounds on steps; none of them changes what a solution is."""

    # Working sets.
    block_size: int = 10  # λ per KKT check of all columns
    block_size_all_columns: int = 25  # ... where all of them are in the working set
    min_candidates: int = 256  # columns that join the active ones in a working set, at least
    max_columns: int = 600  # up to so many columns, all of them are the working set
    max_entries: int = 1_000_000  # ... and so many entries, where each step goes through these
    min_candidates_reread: int = 64  # ... or an eighth of all, where each step goes through them
    min_candidates_interior: int = (
        64  # ... where an interior point method solves each λ from anywhere
    )
    max_retries: int = 30  # blocks solved again after a KKT violation, in one path
    retries_per_lam_interior: int = 3  # ... and so many more where λ is solved from anywhere

    # Primal-dual active sets.
    max_guesses: int = 8  # of the active set, before homotopy takes over
    min_divergence: int = 16  # a guess with more changes than this, and the one before, diverges
    max_halvings: int = 4  # of the way to the next λ, where guesses or Newton's method fail

    # Solves that fail.
    max_breakdowns: int = 28  # in one path
    max_step_halvings: int = 6  # of the way to the next λ: 1/64 at the least
    steps_per_lam: int = 10  # Newton steps that a path may take per λ, on average ...
    min_steps: int = 500  # ... and beside these

    # Groups.
    row_ratio: int = 2  # columns per row up to which the Gram matrix of all columns is kept

    def max_steps(self, num_lams: int) -> int:
        """Returns the number of Newton steps that a path at so many λ may take in all."""
        return self.min_steps + self.steps_per_lam * num_lams


OPTIONS = ActiveSetOptions()
