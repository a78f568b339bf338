"""The queue of background jobs: procrastinate's own schema, out of the tenants' sight.

A job names what is to be done and holds no text of anybody's.
"""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("CREATE SCHEMA jobs")
    op.execute("SET LOCAL search_path TO jobs")
    cursor = op.get_bind().connection.cursor()  # not by SQLAlchemy, which would take its colons for parameters
    cursor.execute(SchemaManager.get_schema())
    cursor.close()
    op.execute("SET LOCAL search_path TO DEFAULT")
    # As app_tenant in migration 0004. Who logs in as a member of both may use the queue, but no transaction of a
    # tenant can.
    op.execute("""
        DO $$ BEGIN
            IF to_regrole('app_worker') IS NULL
               AND (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
                CREATE ROLE app_worker NOLOGIN;
            END IF;
            IF pg_has_role(to_regrole('app_worker'), 'MEMBER WITH ADMIN OPTION') THEN
                GRANT app_worker TO CURRENT_USER;
            END IF;
            IF pg_has_role(to_regrole('app_worker'), 'MEMBER') THEN
                GRANT USAGE ON SCHEMA jobs TO app_worker;
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobs TO app_worker;
                GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA jobs TO app_worker;
            END IF;
        END $$
    """)


def downgrade() -> None:
    op.execute("DROP SCHEMA jobs CASCADE")
