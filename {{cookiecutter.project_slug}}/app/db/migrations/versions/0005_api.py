"""API keys, limits, uploads, conversations and feedback; every row of every tenant behind a policy."""

from alembic import op

revision = "0005"
down_revision = "0004"

NEW = (
    *("api_keys", "rate_buckets", "stream_leases", "idempotency_keys", "uploads", "conversations", "feedback"),
    *("inferences", "attempts", "budget_accounts", "budget_reservations", "completions_cache", "semantic_cache"),
)
# Some work concerns rows whoever they belong to: settling the ledger, looking up a key, removing what is old. It says
# so, transaction by transaction (see engine.py). Documents and what is made from them are not
# among these tables.
OWN = "tenant = current_setting('app.tenant', true)"
OWN_OR_ACROSS = f"{OWN} OR current_setting('app.every_tenant', true) = 'on'"


def upgrade() -> None:
    _add_tables()
    _give_tenants()
    for table in NEW:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY of_its_tenant ON {table} USING ({OWN_OR_ACROSS}) WITH CHECK ({OWN_OR_ACROSS})")
    op.execute(f"ALTER POLICY of_its_tenant ON answers USING ({OWN_OR_ACROSS}) WITH CHECK ({OWN_OR_ACROSS})")
    op.execute("""
        DO $$ BEGIN
            IF pg_has_role(to_regrole('app_tenant'), 'MEMBER') THEN
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_tenant;
                REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM app_tenant;
            END IF;
        END $$
    """)


def _add_tables() -> None:
    op.execute("""
        CREATE TABLE api_keys (
            id text PRIMARY KEY,
            tenant text NOT NULL, name text NOT NULL,
            hash bytea NOT NULL,
            scopes text[] NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz, revoked_at timestamptz
        )""")
    op.execute("COMMENT ON COLUMN api_keys.hash IS 'HMAC-SHA256 of the secret'")
    op.execute("CREATE INDEX api_keys_tenant_name ON api_keys (tenant, name)")
    op.execute("""
        CREATE TABLE rate_buckets (
            scope text NOT NULL, kind text NOT NULL,
            tenant text NOT NULL,
            empty_at timestamptz NOT NULL,
            PRIMARY KEY (scope, kind)
        )""")
    op.execute("COMMENT ON COLUMN rate_buckets.scope IS 'tenant:NAME or key:ID'")
    op.execute("COMMENT ON COLUMN rate_buckets.empty_at IS 'once what is in it has leaked'")
    op.execute("""
        CREATE TABLE stream_leases (
            scope text NOT NULL, id uuid NOT NULL,
            tenant text NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (scope, id)
        )""")
    op.execute("""
        CREATE TABLE idempotency_keys (
            tenant text NOT NULL, owner text NOT NULL, key text NOT NULL,
            fingerprint text NOT NULL,
            status integer, headers jsonb, body bytea,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant, owner, key)
        )""")
    op.execute("COMMENT ON COLUMN idempotency_keys.status IS 'null while the first request is under way'")
    op.execute("CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at)")
    op.execute("""
        CREATE TABLE uploads (
            id uuid PRIMARY KEY,
            tenant text NOT NULL, owner text NOT NULL, api_key_id text NOT NULL, source text NOT NULL,
            metadata jsonb NOT NULL DEFAULT '{}',
            data bytea,
            bytes bigint NOT NULL,
            status text NOT NULL,
            attempts integer NOT NULL DEFAULT 0,
            outcome text NOT NULL DEFAULT '', chunks integer NOT NULL DEFAULT 0,
            error_code text NOT NULL DEFAULT '', error text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("COMMENT ON COLUMN uploads.data IS 'null once it is done'")
    op.execute("COMMENT ON COLUMN uploads.status IS 'queued, running, done or failed'")
    op.execute("CREATE INDEX uploads_tenant_created ON uploads (tenant, created_at, id)")
    op.execute("""
        CREATE TABLE conversations (
            id uuid PRIMARY KEY,
            tenant text NOT NULL, owner text NOT NULL, title text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX conversations_owner ON conversations (tenant, owner, updated_at, id)")
    op.execute("""
        ALTER TABLE answers
            ADD COLUMN owner text NOT NULL DEFAULT '',
            ADD COLUMN conversation_id uuid REFERENCES conversations ON DELETE CASCADE,
            ADD COLUMN standalone text NOT NULL DEFAULT '',
            ADD COLUMN notice text NOT NULL DEFAULT ''
    """)
    op.execute("COMMENT ON COLUMN answers.standalone IS 'the question as it was searched for'")
    op.execute("CREATE INDEX answers_conversation ON answers (conversation_id, created_at)")
    op.execute("""
        CREATE TABLE feedback (
            id uuid PRIMARY KEY,
            tenant text NOT NULL, owner text NOT NULL,
            answer_id uuid NOT NULL REFERENCES answers ON DELETE CASCADE,
            rating text NOT NULL,
            comment text NOT NULL DEFAULT '', correction text NOT NULL DEFAULT '',
            created_at timestamptz NOT NULL DEFAULT now(),
            reviewed_at timestamptz,
            CONSTRAINT feedback_answer_owner_key UNIQUE (answer_id, owner)
        )""")
    op.execute("CREATE INDEX feedback_tenant_created ON feedback (tenant, created_at, id)")


def _give_tenants() -> None:
    """Rows that belonged to their parent, or to a scope, say themselves whose they are."""
    op.execute("ALTER TABLE attempts ADD COLUMN tenant text")
    op.execute("UPDATE attempts a SET tenant = i.tenant FROM inferences i WHERE i.id = a.inference_id")
    op.execute("ALTER TABLE attempts ALTER COLUMN tenant SET NOT NULL")
    for table in ("budget_accounts", "budget_reservations"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN tenant text")
        # No API key existed before this migration, but a caller may have named one.
        op.execute(f"""
            UPDATE {table} b SET tenant = coalesce(
                CASE WHEN scope LIKE 'tenant:%' THEN substr(scope, 8) END,
                (SELECT i.tenant FROM inferences i WHERE 'key:' || i.api_key_id = b.scope LIMIT 1), 'default')
        """)
        op.execute(f"ALTER TABLE {table} ALTER COLUMN tenant SET NOT NULL")


def downgrade() -> None:
    op.execute(f"ALTER POLICY of_its_tenant ON answers USING ({OWN}) WITH CHECK ({OWN})")
    for table in NEW:
        op.execute(f"DROP POLICY of_its_tenant ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
    for table in ("attempts", "budget_accounts", "budget_reservations"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN tenant")
    op.execute("DROP TABLE feedback")
    op.execute("""
        ALTER TABLE answers
            DROP COLUMN owner, DROP COLUMN conversation_id, DROP COLUMN standalone, DROP COLUMN notice
    """)
    op.execute("DROP TABLE conversations, uploads, idempotency_keys, stream_leases, rate_buckets, api_keys")
