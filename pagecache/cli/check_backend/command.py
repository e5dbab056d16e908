"""The command `pagecache check-backend`: options, help and exit status."""

import click

from pagecache.cli.usage import WrongUsage, interrupted, leave, print_json
from pagecache.interrupts import leave_on_sigterm


@click.command("check-backend", short_help="Check a backend against the protocol, and measure it")
@click.argument("backend")
@click.option("--option", "options", metavar="NAME=VALUE", multiple=True, help="Argument of the factory (repeatable).")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.1),
    default=60.0,
    show_default=True,
    help="Time for a check.",
)
@click.option("--keep", is_flag=True, help="Leave the objects that were made.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check_backend(backend: str, options: tuple[str, ...], timeout: float, keep: bool, as_json: bool) -> None:
    """Check a backend against the promises of the protocol, and measure its calls for a second.

    BACKEND is a URL (memory:, dir:PATH, ...), or module:factory: a class or function that returns a backend, blocking
    or asynchronous. Exit status: 0 all promises are kept, 1 one is broken. All objects that the command makes have a
    common prefix, and are removed.
    """
    from pagecache.cli.check_backend.checking import run
    from pagecache.cli.check_backend.report import as_dict, print_report
    from pagecache.target import BadTarget, Hung, Target, options_of

    leave_on_sigterm()
    try:
        target = Target(backend, options_of(options))
        report = run(target, timeout, keep=keep)
    except Hung as error:
        WrongUsage(f"{backend} hangs: {error}").show()
        leave(WrongUsage.exit_code, hung=True)
    except BadTarget as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        interrupted("objects that begin with 'pagecache-check-' may be left in the backend")
    print_json(as_dict(report)) if as_json else print_report(report)
    leave(0 if report.ok else 1, hung=report.hung)
