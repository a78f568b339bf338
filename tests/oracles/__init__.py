"""The generated project's figures against well-known libraries that it does not depend on; run by test_oracles.py."""
