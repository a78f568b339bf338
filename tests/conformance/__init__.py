"""Unmodified clients of OpenAI's API against a served app; run by test_conformance.py."""
