"""What users hand in, read and checked: arrays, frames, sparse and dense matrices.

May import the ground floor, `losses`, `penalties`.
"""
