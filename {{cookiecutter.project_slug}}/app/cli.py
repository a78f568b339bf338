"""The command line: its commands are found in `commands/`, each a module with a `cli` of its own.

Errors are one line and exit code 2. So is a fault of ours, with its traceback: 1 is what commands say of what they
found. Knows nothing of any command.
"""

import importlib
import pkgutil
import sys
import traceback

import typer
from rich.markup import escape

from app import commands
from app.errors import AppError
from app.session import err

INTERRUPTED = 130  # what typer makes of Ctrl-C, as shells do
cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask questions about documents and get answers whose citations were checked.",
)
for module in pkgutil.iter_modules(commands.__path__):
    cli.add_typer(importlib.import_module(f"{commands.__name__}.{module.name}").cli)


def main() -> None:
    """Run the command line; an error of ours is a sentence, not a traceback."""
    try:
        cli()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            err.print("interrupted; run it again to finish")
        raise
    except (AppError, OSError, UnicodeError) as error:
        message = error.message if isinstance(error, AppError) else str(error)
        err.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001  # of any kind: none may end with 1
        traceback.print_exc()
        sys.exit(2)
