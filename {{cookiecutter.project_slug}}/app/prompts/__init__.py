"""Prompts are files beside this one; `loader.py` reads them and stamps their hash on every answer."""
