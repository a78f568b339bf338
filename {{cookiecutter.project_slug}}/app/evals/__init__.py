"""Evaluation in process, over the same pipeline that serves: `runner.py` is the place to start reading."""
