"""The application as a user meets it."""
