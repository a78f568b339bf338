"""Answers over documents: `pipeline.py` is the place to start reading."""
