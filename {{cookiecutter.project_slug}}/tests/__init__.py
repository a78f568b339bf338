"""The tests, by cost: unit, integration, acceptance; each folder mirrors `app/`."""
