"""Paths with a weight per coordinate as one compiled program: under `jit` and `vmap`, on a CPU and elsewhere.

May import `host`, `model`, `data` and what these may import.
"""
