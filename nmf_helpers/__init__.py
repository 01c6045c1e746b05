"""Helpers for the course *Neural Matrix Factorization on MovieLens*.

Each module answers one question and imports only what lies below it; start with
``nmf_helpers.data``. Importing this package alone loads nothing heavy.
"""

__version__ = "0.1.0"
