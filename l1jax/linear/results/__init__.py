"""What fits and paths return: records, their certificates, tables, data frames, resuming.

May import `host`, `model`, `data` and what these may import.
"""
