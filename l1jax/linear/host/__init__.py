"""What engines on the host need: columns in NumPy, whose sizes may change, and what they return.

May import `model`, `data` and what these may import.
"""
