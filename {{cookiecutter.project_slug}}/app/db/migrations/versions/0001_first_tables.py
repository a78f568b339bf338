"""Documents, chunks, postings, index stamps and answers."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.execute("""
        CREATE TABLE documents (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            source text NOT NULL, title text NOT NULL, media_type text NOT NULL,
            content_hash text NOT NULL, text text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT documents_tenant_source_key UNIQUE (tenant, source)
        )""")
    op.execute("""
        CREATE TABLE chunks (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            tenant text NOT NULL,
            document_id bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
            ordinal integer NOT NULL, start_char integer NOT NULL, end_char integer NOT NULL,
            heading text NOT NULL, text text NOT NULL,
            length integer NOT NULL DEFAULT 0,
            -- no dimension here: the index stamp says which model, and with it how many
            embedding halfvec NOT NULL,
            CONSTRAINT chunks_document_ordinal_key UNIQUE (document_id, ordinal)
        )""")
    op.execute("COMMENT ON COLUMN chunks.length IS 'terms, for BM25'")
    op.execute("CREATE INDEX chunks_tenant ON chunks (tenant)")
    op.execute("""
        CREATE TABLE postings (
            tenant text NOT NULL,
            term text NOT NULL,
            chunk_id bigint NOT NULL REFERENCES chunks ON DELETE CASCADE,
            frequency integer NOT NULL,
            PRIMARY KEY (tenant, term, chunk_id)
        )""")
    op.execute("CREATE INDEX postings_chunk ON postings (chunk_id)")
    op.execute("""
        CREATE TABLE index_stamps (
            tenant text PRIMARY KEY,
            embedding_model text NOT NULL,
            dimensions integer NOT NULL
        )""")
    op.execute("""
        CREATE TABLE answers (
            id uuid PRIMARY KEY,
            tenant text NOT NULL,
            question text NOT NULL, text text NOT NULL, abstained boolean NOT NULL,
            model text NOT NULL, prompt_hash text NOT NULL,
            input_tokens integer NOT NULL, output_tokens integer NOT NULL, usage_estimated boolean NOT NULL,
            cost_nanousd bigint,
            latency_ms integer NOT NULL,
            citations jsonb NOT NULL, rejected jsonb NOT NULL, passages jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )""")
    op.execute("COMMENT ON COLUMN answers.cost_nanousd IS '1e-9 US dollars; null where the price is unknown'")
    op.execute("CREATE INDEX answers_tenant_created ON answers (tenant, created_at)")


def downgrade() -> None:
    op.execute("DROP TABLE answers, index_stamps, postings, chunks, documents")
