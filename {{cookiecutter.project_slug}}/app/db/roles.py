"""What the database lets its user do that an application should not be able to. Knows nothing of settings."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Asked of who logged in, and of every role that they could take on, whatever role the transaction has.
POWERS = text("""
    SELECT
        coalesce(bool_or(rolsuper), false) AS "is a superuser",
        coalesce(bool_or(rolbypassrls), false) AS "passes by row-level security (BYPASSRLS)",
        EXISTS (
            SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('public', 'jobs') AND c.relkind IN ('r', 'p')
                AND pg_has_role(session_user, c.relowner, 'MEMBER')
        ) AS "owns the tables"
    FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER')
""")


async def excessive_powers(connection: AsyncConnection) -> list[str]:
    """Each as the end of a sentence that begins with the user; none where all is well."""
    [row] = (await connection.execute(POWERS)).mappings()
    return [power for power, held in row.items() if held]
