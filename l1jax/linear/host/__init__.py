"""What engines share that work on the host in NumPy, where arrays may change their sizes.

May import `model`, `data` and what these may import.
"""
