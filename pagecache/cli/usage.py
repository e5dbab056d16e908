"""Wrong usage, interruption, JSON and the exit status: the parts that all commands share."""

import sys
from typing import IO, Any, NoReturn

import click

from pagecache.interrupts import INTERRUPTED


class WrongUsage(click.ClickException):
    """A mistake in the arguments that click cannot see: one line on stderr, exit status 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Click leaves the context before it shows the exception.
        self.command = click.get_current_context().command_path

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self.command}: {self.format_message()}", file=file, err=file is None)


def interrupted(remark: str) -> NoReturn:
    """End after Ctrl-C: one line on stderr, exit status 130."""
    click.echo(f"interrupted: {remark}", err=True)
    sys.exit(INTERRUPTED)


def leave(status: int, *, hung: bool) -> NoReturn:
    """End the process; `hung`: without waiting for threads, because one of a backend may hang."""
    if hung:
        import os

        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    import json

    click.echo(json.dumps(document, indent=2))
