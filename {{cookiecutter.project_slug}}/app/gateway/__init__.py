"""Models behind one door: `gateway.py` is the place to start reading."""
