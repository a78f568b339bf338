"""One part at a time, nothing outside this process."""
