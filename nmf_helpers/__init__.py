"""Helpers for the course *Neural Matrix Factorization on MovieLens*.

Each module imports only what lies below it; importing this package alone loads nothing heavy.
"""

__version__ = "0.1.0"
