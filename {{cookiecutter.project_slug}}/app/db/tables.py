"""The tables, as SQLAlchemy knows them; migrations/ makes them, and a test compares the two.

Every row carries its tenant. Knows nothing of queries.
"""

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

metadata = MetaData()


def _created() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


documents = Table(
    "documents",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("text", Text, nullable=False),
    _created(),
    UniqueConstraint("tenant", "source", name="documents_tenant_source_key"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("document_id", ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("start_char", Integer, nullable=False),
    Column("end_char", Integer, nullable=False),
    Column("heading", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("length", Integer, nullable=False, server_default="0", comment="terms, for BM25"),
    Column("embedding", HALFVEC(), nullable=False),
    UniqueConstraint("document_id", "ordinal", name="chunks_document_ordinal_key"),
    Index("chunks_tenant", "tenant"),
)

postings = Table(
    "postings",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("term", Text, primary_key=True),
    Column("chunk_id", ForeignKey("chunks.id", ondelete="CASCADE"), primary_key=True),
    Column("frequency", Integer, nullable=False),
    Index("postings_chunk", "chunk_id"),
)

index_stamps = Table(
    "index_stamps",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("embedding_model", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
)

answers = Table(
    "answers",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("abstained", Boolean, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_hash", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("usage_estimated", Boolean, nullable=False),
    Column("cost_nanousd", BigInteger, comment="1e-9 US dollars; null where the price is unknown"),
    Column("latency_ms", Integer, nullable=False),
    Column("citations", JSONB, nullable=False),
    Column("rejected", JSONB, nullable=False),
    Column("passages", JSONB, nullable=False),
    _created(),
    Index("answers_tenant_created", "tenant", "created_at"),
)
