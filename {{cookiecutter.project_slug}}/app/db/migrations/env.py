"""Alembic's entry: connects to the URL it is handed and runs the migrations."""

from alembic import context
from sqlalchemy import create_engine, text

from app.db.tables import metadata

engine = create_engine(context.config.attributes["url"])
with engine.begin() as connection:
    # Several processes may start at once: the first one migrates, the others wait and find it done.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('migrations'))"))
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
