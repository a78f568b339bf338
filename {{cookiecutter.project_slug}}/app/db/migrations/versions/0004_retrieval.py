"""Vectors in a table of their own, sizes for BM25, pages and metadata, and rows that only their tenant sees."""

from alembic import op

revision = "0004"
down_revision = "0003"

OF_ONE_TENANT = ("documents", "chunks", "postings", "index_stamps", "embeddings", "chunk_contexts", "answers")


def upgrade() -> None:
    _reshape()
    _move_vectors()
    _separate_tenants()


def _reshape() -> None:
    op.execute("""
        ALTER TABLE documents
            ADD COLUMN origin text NOT NULL DEFAULT 'file',
            ADD COLUMN recipe text NOT NULL DEFAULT '',
            ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
            ADD COLUMN page_starts integer[] NOT NULL DEFAULT '{}',
            ADD COLUMN chunk_count integer NOT NULL DEFAULT 0,
            ADD COLUMN term_count bigint NOT NULL DEFAULT 0
    """)
    op.execute("ALTER TABLE documents ALTER COLUMN origin DROP DEFAULT, ALTER COLUMN recipe DROP DEFAULT")
    op.execute("COMMENT ON COLUMN documents.recipe IS 'hash of what besides the bytes decides the chunks'")
    op.execute("COMMENT ON COLUMN documents.term_count IS 'of all its chunks, for BM25'")
    op.execute("""
        UPDATE documents d SET chunk_count = c.chunks, term_count = c.terms
        FROM (SELECT document_id, count(*) AS chunks, sum(length) AS terms FROM chunks GROUP BY document_id) c
        WHERE c.document_id = d.id
    """)
    op.execute("CREATE INDEX documents_size ON documents (tenant) INCLUDE (chunk_count, term_count)")
    op.execute("""
        ALTER TABLE chunks
            ADD COLUMN context text NOT NULL DEFAULT '',
            ADD COLUMN content_hash text NOT NULL DEFAULT '',
            ADD COLUMN page integer
    """)
    op.execute("""
        UPDATE chunks SET content_hash = left(encode(sha256(convert_to(
            concat_ws(E'\\n', nullif(heading, ''), text), 'UTF8')), 'hex'), 32)
    """)
    op.execute("ALTER TABLE chunks ALTER COLUMN context DROP DEFAULT, ALTER COLUMN content_hash DROP DEFAULT")
    op.execute("COMMENT ON COLUMN chunks.content_hash IS 'of what is embedded'")
    op.execute("DROP INDEX chunks_tenant")
    op.execute("CREATE INDEX chunks_tenant_hash ON chunks (tenant, content_hash)")
    op.execute("ALTER TABLE postings ADD COLUMN length integer")
    op.execute("UPDATE postings p SET length = c.length FROM chunks c WHERE c.id = p.chunk_id")
    op.execute("ALTER TABLE postings ALTER COLUMN length SET NOT NULL, DROP CONSTRAINT postings_pkey")
    op.execute("ALTER TABLE postings ADD PRIMARY KEY (tenant, term, chunk_id) INCLUDE (frequency, length)")
    op.execute("COMMENT ON COLUMN postings.length IS 'terms of the chunk'")
    op.execute("ALTER TABLE chunks DROP COLUMN length")
    op.execute("ALTER TABLE answers ADD COLUMN reason text NOT NULL DEFAULT ''")
    op.execute("COMMENT ON COLUMN answers.reason IS 'why it abstained'")
    op.execute("""
        CREATE TABLE chunk_contexts (
            tenant text NOT NULL, key text NOT NULL, source text NOT NULL, context text NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant, key)
        )""")
    op.execute("CREATE INDEX chunk_contexts_source ON chunk_contexts (tenant, source)")
    op.execute("COMMENT ON COLUMN chunk_contexts.key IS 'hash of all that the model was asked'")


def _move_vectors() -> None:
    """An index over the vectors is made when there are many: see vectors.py."""
    op.execute("""
        ALTER TABLE index_stamps
            DROP CONSTRAINT index_stamps_pkey,
            ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            ADD COLUMN ready boolean NOT NULL DEFAULT true,
            ADD CONSTRAINT index_stamps_tenant_model_key UNIQUE (tenant, embedding_model),
            ADD CONSTRAINT index_stamps_id_dimensions_key UNIQUE (id, dimensions)
    """)
    op.execute("ALTER TABLE index_stamps ALTER COLUMN ready DROP DEFAULT")
    op.execute("COMMENT ON COLUMN index_stamps.ready IS 'every chunk had its vector when this was set'")
    op.execute("""
        CREATE TABLE embeddings (
            stamp_id bigint NOT NULL,
            chunk_id bigint NOT NULL REFERENCES chunks ON DELETE CASCADE,
            tenant text NOT NULL,
            dimensions integer NOT NULL,
            -- no length here: the stamp says which model, and with it how many dimensions. In the row, because a
            -- search that reads all of them must not fetch each from elsewhere.
            embedding halfvec STORAGE MAIN NOT NULL,
            PRIMARY KEY (stamp_id, chunk_id),
            FOREIGN KEY (stamp_id, dimensions) REFERENCES index_stamps (id, dimensions) ON DELETE CASCADE
        )""")
    op.execute("CREATE INDEX embeddings_chunk ON embeddings (chunk_id)")
    op.execute("""
        INSERT INTO embeddings (stamp_id, chunk_id, tenant, dimensions, embedding)
        SELECT s.id, c.id, c.tenant, s.dimensions, c.embedding FROM chunks c JOIN index_stamps s USING (tenant)
    """)
    op.execute("ALTER TABLE chunks DROP COLUMN embedding")


def _separate_tenants() -> None:
    """Rows are seen and written by their tenant alone, by the tables' owner too.

    A superuser passes by every policy; each transaction therefore takes on a role that is none (see engine.py). Who
    may make no role is no superuser and needs none. A role belongs to all databases of a server: it may be there
    already, and somebody else's.
    """
    op.execute("""
        DO $$ BEGIN
            IF to_regrole('app_tenant') IS NULL
               AND (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
                CREATE ROLE app_tenant NOLOGIN;
            END IF;
            IF pg_has_role(to_regrole('app_tenant'), 'MEMBER WITH ADMIN OPTION') THEN
                GRANT app_tenant TO CURRENT_USER;
            END IF;
            IF pg_has_role(to_regrole('app_tenant'), 'MEMBER') THEN
                GRANT USAGE ON SCHEMA public TO app_tenant;
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_tenant;
                REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM app_tenant;
                GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO app_tenant;
                ALTER DEFAULT PRIVILEGES IN SCHEMA public
                    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app_tenant;
                ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO app_tenant;
            END IF;
        END $$
    """)
    for table in OF_ONE_TENANT:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(f"""
            CREATE POLICY of_its_tenant ON {table}
            USING (tenant = current_setting('app.tenant', true))
            WITH CHECK (tenant = current_setting('app.tenant', true))
        """)


def downgrade() -> None:
    """The role stays: other databases of the server may use it."""
    op.execute("""
        DO $$ BEGIN
            IF pg_has_role(to_regrole('app_tenant'), 'MEMBER') THEN
                ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM app_tenant;
                ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM app_tenant;
                REVOKE ALL ON ALL TABLES IN SCHEMA public FROM app_tenant;
                REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM app_tenant;
                REVOKE ALL ON SCHEMA public FROM app_tenant;
            END IF;
        END $$
    """)
    for table in OF_ONE_TENANT:
        op.execute(f"DROP POLICY of_its_tenant ON {table}")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE answers DROP COLUMN reason")
    op.execute("ALTER TABLE chunks ADD COLUMN embedding halfvec, ADD COLUMN length integer NOT NULL DEFAULT 0")
    op.execute("DELETE FROM index_stamps WHERE NOT ready")
    op.execute("DELETE FROM index_stamps s USING index_stamps newer WHERE s.tenant = newer.tenant AND s.id < newer.id")
    op.execute("UPDATE chunks c SET embedding = e.embedding FROM embeddings e WHERE e.chunk_id = c.id")
    op.execute("UPDATE chunks c SET length = p.length FROM postings p WHERE p.chunk_id = c.id")
    op.execute("DELETE FROM documents d USING chunks c WHERE c.document_id = d.id AND c.embedding IS NULL")
    op.execute("ALTER TABLE chunks ALTER COLUMN embedding SET NOT NULL")
    op.execute("COMMENT ON COLUMN chunks.length IS 'terms, for BM25'")
    op.execute("DROP TABLE embeddings, chunk_contexts")
    op.execute("ALTER TABLE index_stamps DROP COLUMN id, DROP COLUMN ready")
    op.execute("ALTER TABLE index_stamps DROP CONSTRAINT index_stamps_tenant_model_key, ADD PRIMARY KEY (tenant)")
    op.execute("ALTER TABLE postings DROP CONSTRAINT postings_pkey, DROP COLUMN length")
    op.execute("ALTER TABLE postings ADD PRIMARY KEY (tenant, term, chunk_id)")
    op.execute("DROP INDEX chunks_tenant_hash")
    op.execute("ALTER TABLE chunks DROP COLUMN context, DROP COLUMN content_hash, DROP COLUMN page")
    op.execute("CREATE INDEX chunks_tenant ON chunks (tenant)")
    op.execute("""
        ALTER TABLE documents DROP COLUMN origin, DROP COLUMN recipe, DROP COLUMN metadata, DROP COLUMN page_starts,
            DROP COLUMN chunk_count, DROP COLUMN term_count
    """)
