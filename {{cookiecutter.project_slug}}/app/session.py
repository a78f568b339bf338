"""What a command works with: the settings, the database, the gateway, two consoles and a progress bar.

Knows nothing of any command.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from app.db.engine import Database, open_database
from app.errors import InvalidInput
from app.gateway.deployments import resolve
from app.gateway.gateway import Gateway, open_gateway
from app.settings import Settings, load_settings
from app.telemetry import configure_logging

out = Console()
err = Console(stderr=True)


def start() -> Settings:
    """Read the settings and set up the log.

    Raises:
        ConfigurationError: names each setting that is wrong.

    """
    settings = load_settings()
    configure_logging(settings)
    return settings


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Database, Gateway, Settings]]:
    """Open the database and the gateway, and close both.

    Models are loaded by the first call of one: what needs none, or fails before, does not wait for them.

    Raises:
        ConfigurationError: a setting is wrong, or a model cannot work with what is set.

    """
    settings = start()
    resolve(settings)  # before the database, which takes a while
    async with open_database(settings) as database, open_gateway(settings, database) as gateway:
        yield database, gateway, settings


class RateColumn(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Nothing until it is known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error; give what advances it, by one or by more."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        yield partial(shown.advance, shown.add_task("", total=total))


def key_value(given: str, option: str) -> tuple[str, str]:
    """Take `KEY=VALUE` apart, as an option gives it.

    Raises:
        InvalidInput: names the option.

    """
    key, equals, value = given.partition("=")
    if not (key and equals):
        raise InvalidInput(f"{option} takes KEY=VALUE, and this is {given!r}")
    return key, value


def usd(nanousd: int | None) -> str:
    """An amount of 1e-9 US dollars; None is an unknown price."""
    return "price unknown" if nanousd is None else f"${nanousd / 1e9:.6f}"
