"""Runs as people read them: `report.py` is the place to start reading."""
