"""The tables, as SQLAlchemy knows them; migrations/ makes them, and a test compares the two.

Every row carries its tenant, but for the switches of the semantic cache, which belong to all. Knows nothing of queries.
"""

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from app.db.columns import moments, required, texts

metadata = MetaData()

documents = Table(
    "documents",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *required(Text, "tenant", "source", "title", "media_type", "content_hash", "text", "origin"),
    Column("recipe", Text, nullable=False, comment="hash of what besides the bytes decides the chunks"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("page_starts", ARRAY(Integer), nullable=False, server_default="{}"),
    Column("chunk_count", Integer, nullable=False, server_default="0"),
    Column("term_count", BigInteger, nullable=False, server_default="0", comment="of all its chunks, for BM25"),
    *moments("created_at"),
    UniqueConstraint("tenant", "source", name="documents_tenant_source_key"),
    Index("documents_size", "tenant", postgresql_include=["chunk_count", "term_count"]),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("document_id", ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
    *required(Text, "tenant", "heading", "text", "context"),
    Column("content_hash", Text, nullable=False, comment="of what is embedded"),
    *required(Integer, "ordinal", "start_char", "end_char"),
    Column("page", Integer),
    UniqueConstraint("document_id", "ordinal", name="chunks_document_ordinal_key"),
    Index("chunks_tenant_hash", "tenant", "content_hash"),
)

# The length stands with each posting, so that a search reads nothing but this index.
postings = Table(
    "postings",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("term", Text, primary_key=True),
    Column("chunk_id", ForeignKey("chunks.id", ondelete="CASCADE"), primary_key=True),
    *required(Integer, "frequency"),
    Column("length", Integer, nullable=False, comment="terms of the chunk"),
    Index("postings_chunk", "chunk_id"),
)

# One row per embedding model that the tenant's chunks were embedded with; two while one replaces the other.
index_stamps = Table(
    "index_stamps",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *required(Text, "tenant", "embedding_model"),
    *required(Integer, "dimensions"),
    Column("ready", Boolean, nullable=False, comment="every chunk had its vector when this was set"),
    UniqueConstraint("tenant", "embedding_model", name="index_stamps_tenant_model_key"),
    UniqueConstraint("id", "dimensions", name="index_stamps_id_dimensions_key"),
)

# Their index is made when there are many of one length (see vectors.py): until then every search is exact.
embeddings = Table(
    "embeddings",
    metadata,
    Column("stamp_id", BigInteger, primary_key=True, autoincrement=False),
    Column("chunk_id", ForeignKey("chunks.id", ondelete="CASCADE"), primary_key=True),
    *required(Text, "tenant"),
    *required(Integer, "dimensions"),
    Column("embedding", HALFVEC(), nullable=False),
    ForeignKeyConstraint(
        ["stamp_id", "dimensions"], ["index_stamps.id", "index_stamps.dimensions"], ondelete="CASCADE"
    ),
    Index("embeddings_chunk", "chunk_id"),
)

chunk_contexts = Table(
    "chunk_contexts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True, comment="hash of all that the model was asked"),
    *required(Text, "source", "context"),
    *moments("created_at"),
    Index("chunk_contexts_source", "tenant", "source"),
)

answers = Table(
    "answers",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant", "question", "text", "model", "prompt_hash"),
    *required(Boolean, "abstained", "usage_estimated"),
    *required(Integer, "input_tokens", "output_tokens", "latency_ms"),
    Column("cost_nanousd", BigInteger, comment="1e-9 US dollars; null where the price is unknown"),
    *required(JSONB, "citations", "rejected", "passages"),
    Column("reason", Text, nullable=False, server_default="", comment="why it abstained"),
    Column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE")),
    Column("standalone", Text, nullable=False, server_default="", comment="the question as it was searched for"),
    *texts("owner", "notice"),
    *moments("created_at"),
    Index("answers_tenant_created", "tenant", "created_at"),
    Index("answers_conversation", "conversation_id", "created_at"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant", "owner", "title"),
    *moments("created_at", "updated_at"),
    Index("conversations_owner", "tenant", "owner", "updated_at", "id"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant", "owner", "rating"),
    Column("answer_id", ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
    *texts("comment", "correction"),
    *moments("created_at"),
    Column("reviewed_at", DateTime(timezone=True)),
    UniqueConstraint("answer_id", "owner", name="feedback_answer_owner_key"),
    Index("feedback_tenant_created", "tenant", "created_at", "id"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant", "owner", "api_key_id", "source"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("data", LargeBinary, comment="null once it is done"),
    *required(BigInteger, "bytes"),
    Column("status", Text, nullable=False, comment="queued, running, done or failed"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    *texts("outcome", "error_code", "error"),
    Column("chunks", Integer, nullable=False, server_default="0"),
    *moments("created_at", "updated_at"),
    Index("uploads_tenant_created", "tenant", "created_at", "id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    *required(Text, "tenant", "name"),
    Column("hash", LargeBinary, nullable=False, comment="HMAC-SHA256 of the secret"),
    *required(ARRAY(Text), "scopes"),
    *moments("created_at"),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Index("api_keys_tenant_name", "tenant", "name"),
)

rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("scope", Text, primary_key=True, comment="tenant:NAME or key:ID"),
    Column("kind", Text, primary_key=True),
    *required(Text, "tenant"),
    Column("empty_at", DateTime(timezone=True), nullable=False, comment="once what is in it has leaked"),
)

stream_leases = Table(
    "stream_leases",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    *required(Text, "fingerprint"),
    Column("status", Integer, comment="null while the first request is under way"),
    Column("headers", JSONB),
    Column("body", LargeBinary),
    *moments("created_at"),
    Index("idempotency_keys_created", "created_at"),
)

inferences = Table(
    "inferences",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "request_id", "tenant", "api_key_id", "role", "outcome", "cached"),
    Column("saved_nanousd", BigInteger),
    Column("started_at", DateTime(timezone=True), nullable=False),
    *required(Integer, "duration_ms"),
    Index("inferences_started", "started_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("inference_id", ForeignKey("inferences.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    *required(Text, "tenant", "model", "outcome", "detail"),
    *required(Boolean, "partial", "estimated"),
    *required(Integer, "input_tokens", "output_tokens", "cached_tokens"),
    Column("cost_nanousd", BigInteger, comment="1e-9 US dollars; null where it is unknown"),
    Column("started_at", DateTime(timezone=True), nullable=False),
    *required(Integer, "duration_ms"),
    Column("first_token_ms", Integer),
)

budget_accounts = Table(
    "budget_accounts",
    metadata,
    Column("scope", Text, primary_key=True, comment="tenant:NAME or key:ID"),
    Column("day", Date, primary_key=True),
    *required(Text, "tenant"),
    Column("spent_nanousd", BigInteger, nullable=False, server_default="0"),
    Column("unpriced", Integer, nullable=False, server_default="0", comment="attempts whose cost is unknown"),
)

budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("id", UUID(as_uuid=False), primary_key=True),
    *required(Text, "tenant"),
    *required(Date, "day"),
    *required(BigInteger, "amount_nanousd"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

completions_cache = Table(
    "completions_cache",
    metadata,
    Column("key", Text, primary_key=True),
    *required(Text, "tenant"),
    *required(LargeBinary, "completion"),
    *moments("created_at"),
    Index("completions_cache_created", "created_at"),
)

# Of the installation, not of a tenant: what was measured is the embedding model. A row is the route's switch.
semantic_cache_routes = Table(
    "semantic_cache_routes",
    metadata,
    Column("route", Text, primary_key=True),
    *required(Text, "embedding_model", "dataset_hash"),
    *required(Double, "threshold", "false_hit_rate", "false_hit_rate_at_most"),
    *required(Integer, "pairs"),
    Column("measured_at", DateTime(timezone=True), nullable=False),
)

semantic_cache = Table(
    "semantic_cache",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    *required(Text, "tenant", "route", "scope_hash", "question"),
    Column("embedding", HALFVEC(), nullable=False),
    *required(LargeBinary, "payload"),
    *moments("created_at"),
    Index("semantic_cache_scope", "tenant", "route", "scope_hash"),
    Index("semantic_cache_created", "created_at"),
)
