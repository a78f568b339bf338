"""Several real parts together: Postgres, models, HTTP."""
