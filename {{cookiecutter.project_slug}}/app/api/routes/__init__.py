"""One module per kind of thing; each has a `router`, and is found by being here."""
