"""The exact cache, the semantic cache, and the routes that may use it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE completions_cache (
            key text PRIMARY KEY,
            tenant text NOT NULL,
            completion bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX completions_cache_created ON completions_cache (created_at)")
    op.execute("""
        CREATE TABLE semantic_cache_routes (
            route text PRIMARY KEY,
            embedding_model text NOT NULL, dataset_hash text NOT NULL,
            threshold double precision NOT NULL,
            false_hit_rate double precision NOT NULL, false_hit_rate_at_most double precision NOT NULL,
            pairs integer NOT NULL,
            measured_at timestamptz NOT NULL
        )""")
    op.execute("""
        CREATE TABLE semantic_cache (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL, route text NOT NULL, scope_hash text NOT NULL, question text NOT NULL,
            embedding halfvec NOT NULL,
            payload bytea NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("CREATE INDEX semantic_cache_scope ON semantic_cache (tenant, route, scope_hash)")
    op.execute("CREATE INDEX semantic_cache_created ON semantic_cache (created_at)")


def downgrade() -> None:
    op.execute("DROP TABLE semantic_cache, semantic_cache_routes, completions_cache")
