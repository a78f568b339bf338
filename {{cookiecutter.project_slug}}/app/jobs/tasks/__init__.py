"""One module per kind of task; each has `add_to(queue, parts)`, and is found by being here."""
