"""Work that is done in the background, by a queue in Postgres."""
