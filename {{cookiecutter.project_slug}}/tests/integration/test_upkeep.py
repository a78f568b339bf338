"""What is removed because it is old, of every tenant, and what stays."""

import pytest
from sqlalchemy import text

from app.db import upkeep
from app.db.engine import Database
from app.gateway.gateway import Gateway
from app.jobs.queue import open_queue
from app.jobs.tasks.upkeep import remove_old
from app.jobs.worker import Parts
from app.rag.parsing import Parser
from app.settings import Settings

MONTH = 30
# Of each kind one that is old, and one that is not yet; of two tenants, in turn.
OLD = """
    INSERT INTO answers (id, tenant, question, text, model, prompt_hash, abstained, usage_estimated, input_tokens,
        output_tokens, latency_ms, citations, rejected, passages, created_at)
    SELECT gen_random_uuid(), 'tenant' || n % 2, 'q' || n, '', '', '', false, false, 0, 0, 0, '[]', '[]', '[]',
        now() - make_interval(days => 27 + n) FROM generate_series(1, 6) n;
    INSERT INTO feedback (id, tenant, owner, answer_id, rating, created_at)
    SELECT gen_random_uuid(), tenant, '', id, 'up', created_at FROM answers;
    INSERT INTO conversations (id, tenant, owner, title, updated_at)
    SELECT gen_random_uuid(), tenant, '', question, created_at FROM answers;
    INSERT INTO uploads (id, tenant, owner, api_key_id, source, bytes, status, updated_at)
    SELECT gen_random_uuid(), 'tenant' || n % 2, '', '', status || n, 0, status,
        now() - make_interval(days => 27 + n)
    FROM generate_series(1, 6) n, unnest(ARRAY['queued', 'running', 'done', 'failed']) status;
    INSERT INTO stream_leases (scope, id, tenant, expires_at)
    SELECT 'key:' || n, gen_random_uuid(), 'tenant' || n % 2, now() + make_interval(mins => n - 3)
    FROM generate_series(0, 5) n;
    INSERT INTO rate_buckets (scope, kind, tenant, empty_at)
    SELECT 'key:' || n, 'requests', 'tenant' || n % 2, now() + make_interval(mins => n - 3)
    FROM generate_series(0, 5) n;
    INSERT INTO completions_cache (key, tenant, completion, created_at)
    SELECT n, 'tenant' || n % 2, '', now() - make_interval(mins => 10 * n) FROM generate_series(1, 8) n;
    INSERT INTO idempotency_keys (tenant, owner, key, fingerprint, created_at)
    SELECT 'tenant' || n % 2, '', n, '', now() - make_interval(hours => 20 + n) FROM generate_series(1, 8) n;
    INSERT INTO jobs.procrastinate_jobs (queue_name, task_name, status)
    SELECT 'default', 'old', CAST(s AS jobs.procrastinate_job_status)
    FROM unnest(ARRAY['todo', 'doing', 'failed', 'aborted']) s;
    INSERT INTO jobs.procrastinate_events (job_id, type, at)
    SELECT id, 'deferred', now() - interval '8 days' FROM jobs.procrastinate_jobs;
    DELETE FROM jobs.procrastinate_events WHERE at > now() - interval '1 day'
"""
LEFT = """
    SELECT 'answers', string_agg(question, ' ' ORDER BY question) FROM answers
    UNION ALL SELECT 'feedback', string_agg(question, ' ' ORDER BY question)
        FROM feedback f JOIN answers a ON a.id = f.answer_id
    UNION ALL SELECT 'conversations', string_agg(title, ' ' ORDER BY title) FROM conversations
    UNION ALL SELECT 'uploads', string_agg(source, ' ' ORDER BY source) FROM uploads
    UNION ALL SELECT 'leases', string_agg(scope, ' ' ORDER BY scope) FROM stream_leases
    UNION ALL SELECT 'buckets', string_agg(scope, ' ' ORDER BY scope) FROM rate_buckets
    UNION ALL SELECT 'cache', string_agg(key, ' ' ORDER BY key) FROM completions_cache
    UNION ALL SELECT 'keys', string_agg(key, ' ' ORDER BY key) FROM idempotency_keys
    UNION ALL SELECT 'jobs', string_agg(CAST(status AS text), ' ' ORDER BY status) FROM jobs.procrastinate_jobs
"""
OPEN_UPLOADS = " ".join(f"{status}{n}" for status in ("queued", "running") for n in range(1, 7))


@pytest.mark.parametrize(
    ("days", "kept", "uploads"),
    [
        (None, range(1, 7), range(1, 3)),
        (MONTH, range(1, 3), range(1, 3)),
        (29, range(1, 2), range(1, 2)),
        (99, range(1, 7), range(1, 3)),
    ],
)
async def test_what_is_old_is_removed(
    database: Database,
    owner: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    days: int | None,
    kept: range,
    uploads: range,
) -> None:
    """Answers, conversations and feedback after RETENTION_DAYS; uploads that ended after 30 days, or after fewer."""
    monkeypatch.setattr(upkeep, "BATCH", 2)
    async with owner.engine.begin() as connection:
        await connection.execute(text("SET LOCAL search_path TO public, jobs"))
        for statement in OLD.split(";"):
            await connection.execute(text(statement))
    dated = settings.model_copy(update={"retention_days": days})
    async with open_queue(database) as queue:
        await remove_old(Parts(database, Gateway(dated), dated, queue, Parser(dated)), timestamp=0)
    async with owner.engine.begin() as connection:
        left = {row[0]: row[1] for row in await connection.execute(text(LEFT))}
    questions = " ".join(f"q{n}" for n in kept)
    ended = [" ".join(f"{status}{n}" for n in uploads) for status in ("done", "failed")]
    assert left == {
        "answers": questions,
        "feedback": questions,
        "conversations": questions,
        "uploads": f"{' '.join(ended)} {OPEN_UPLOADS}",
        "leases": "key:4 key:5",
        "buckets": "key:4 key:5",
        "cache": "1 2 3 4 5",
        "keys": "1 2 3",
        "jobs": "todo doing",
    }
