"""One module per group of commands; `app/cli.py` finds them here and takes each one's `cli`."""
