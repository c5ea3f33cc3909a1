"""What solves: proximal gradient steps in one traced function, and active sets on the host.

May import `results`, `host`, `model`, `data`, `composite` and what these may import.
"""
