"""The conditions of optimality of a solution, and its derivative through them; small dense solves.

May import the ground floor, of which it needs `_tracing` and `_types`.
"""
