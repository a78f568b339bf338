"""The ledger of inferences and attempts; budget accounts and reservations."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE inferences (
            id uuid PRIMARY KEY,
            request_id text NOT NULL,
            tenant text NOT NULL, api_key_id text NOT NULL,
            role text NOT NULL, outcome text NOT NULL, cached text NOT NULL,
            saved_nanousd bigint,
            started_at timestamptz NOT NULL, duration_ms integer NOT NULL
        )""")
    op.execute("CREATE INDEX inferences_started ON inferences (started_at)")
    op.execute("""
        CREATE TABLE attempts (
            inference_id uuid NOT NULL REFERENCES inferences ON DELETE CASCADE,
            number integer NOT NULL,
            model text NOT NULL, outcome text NOT NULL, detail text NOT NULL,
            partial boolean NOT NULL, estimated boolean NOT NULL,
            input_tokens integer NOT NULL, output_tokens integer NOT NULL, cached_tokens integer NOT NULL,
            cost_nanousd bigint,
            started_at timestamptz NOT NULL, duration_ms integer NOT NULL, first_token_ms integer,
            PRIMARY KEY (inference_id, number)
        )""")
    op.execute("COMMENT ON COLUMN attempts.cost_nanousd IS '1e-9 US dollars; null where it is unknown'")
    op.execute("""
        CREATE TABLE budget_accounts (
            scope text NOT NULL,
            day date NOT NULL,
            spent_nanousd bigint NOT NULL DEFAULT 0,
            unpriced integer NOT NULL DEFAULT 0,
            PRIMARY KEY (scope, day)
        )""")
    op.execute("COMMENT ON COLUMN budget_accounts.scope IS 'tenant:NAME or key:ID'")
    op.execute("COMMENT ON COLUMN budget_accounts.unpriced IS 'attempts whose cost is unknown'")
    op.execute("""
        CREATE TABLE budget_reservations (
            scope text NOT NULL,
            id uuid NOT NULL,
            day date NOT NULL,
            amount_nanousd bigint NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (scope, id)
        )""")


def downgrade() -> None:
    op.execute("DROP TABLE budget_reservations, budget_accounts, attempts, inferences")
