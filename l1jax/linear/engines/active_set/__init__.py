"""Paths by active sets, on the host in float64: least squares, smooth losses, groups.

May import `results`, `host`, `model`, `data` and what these may import.
"""
