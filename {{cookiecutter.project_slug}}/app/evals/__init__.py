"""Evaluation in process, over the same pipeline that serves: `runner.py` is the place to start reading."""

TENANT = "eval"
"""The tenant that evaluations read and write, so that nobody's data is read or changed."""
