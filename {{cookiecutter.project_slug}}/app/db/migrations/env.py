"""Alembic's entry: connects to the URL it is handed and runs the migrations."""

from alembic import context
from sqlalchemy import create_engine

from app.db.tables import metadata

engine = create_engine(context.config.attributes["url"])
with engine.begin() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
