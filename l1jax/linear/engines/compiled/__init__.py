"""Paths of squared error as one compiled program: under `jit` and `vmap`, on a CPU and on accelerators.

May import `model`, `data` and what these may import.
"""
