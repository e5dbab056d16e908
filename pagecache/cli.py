"""The command line: what each command is called, takes and returns; the work is done in the package of the command.

    pagecache demo [TREE]       the main job on real files, compared byte by byte with plain file operations
    pagecache top [SOCKET...]   what caches are doing, live in a terminal, or once as a table or JSON
    pagecache bench             hits, misses and write-back, measured beside plain files
    pagecache drain SOCKET...   have a running program save what it has written so far, and see that it does
    pagecache stress [TARGET]   random operations of many workers on a cache, a backend or a directory, all checked
    pagecache mount URL DIR     a file system over a backend, for any program
    pagecache check-backend     whether a backend of yours keeps its promises, and which limits suit it
    pagecache s3-clean URL      remove what programs that died have left in a bucket

Exit status: 0 fine, 1 a failure found or data not saved, 2 wrong usage, 130 interrupted. `--json` prints one JSON
document on stdout wherever a table is printed for a person; progress and complaints go to stderr. Nothing heavy is
imported before it is known which command runs: `pagecache --help` needs click alone.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from pagecache.interrupts import INTERRUPTED, leave_on_sigterm

Command = Callable[..., Any]


class WrongUsage(click.ClickException):
    """A mistake in the arguments that click cannot see: one line on stderr, exit status 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message)
        # Click leaves the context before it shows the exception.
        self.command = click.get_current_context().command_path

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"{self.command}: {self.format_message()}", file=file, err=file is None)


def interrupted(what_is_left: str) -> NoReturn:
    """End after Ctrl-C: one line on stderr, exit status 130."""
    click.echo(f"interrupted: {what_is_left}", err=True)
    sys.exit(INTERRUPTED)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pagecache")
def main() -> None:
    """A write-back page cache for files, objects and anything with bytes."""


@main.command(short_help="Copy and edit a directory tree through a cache and compare")
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@click.option("--capacity", metavar="SIZE", help="Memory of the cache.  [default: a quarter of the tree]")
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same edits.")
@click.option("--limit", metavar="SIZE", default="512MiB", show_default=True, help="Use no more of TREE than this.")
@click.option("--rounds", default=3, show_default=True, help="How often everything is edited and read back.")
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path), help="Work in DIR, new or empty, and leave it.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(
    tree: Path | None, capacity: str | None, seed: int, limit: str, rounds: int, keep: Path | None, as_json: bool
) -> None:
    """Copy TREE through a cache smaller than it, edit the copy, and prove every byte.

    The same edits are done by plain Python file operations on a second copy; in the end both copies are compared byte
    by byte, read without the cache. TREE is only read. Without TREE: the standard library of the running Python.
    """
    from pagecache.demo import Settings, WrongInput, run
    from pagecache.demo.report import as_dict, print_report

    leave_on_sigterm()
    try:
        report = run(Settings(tree=tree, capacity=capacity, seed=seed, limit=limit, rounds=rounds, keep=keep))
    except WrongInput as error:
        raise WrongUsage(str(error)) from None
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted(f"what was done is in {keep}" if keep else "temporary files are removed")
    if as_json:
        print_json(as_dict(report))
    else:
        print_report(report)
    sys.exit(0 if report.verified else 1)


@main.command(short_help="Watch caches that are served on local sockets")
@click.argument("sockets", nargs=-1, metavar="[SOCKET]...", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print tables once, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, and end.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600.0),
    help="Time between looks; with --once or --json: look twice, for rates.  [default: 1; once: one look]",
)
@click.option(
    "--sort",
    type=click.Choice(["dirty", "cached", "failed", "unstable", "age", "hits", "key"]),
    default="dirty",
    show_default=True,
    help="Order of the files.",
)
@click.option("--files", metavar="N", type=click.IntRange(0, 1000), help="Show at most so many files.")
@click.option("--wide", is_flag=True, help="With --once, print all columns, and each error on one line.")
def top(
    sockets: tuple[Path, ...],
    once: bool,
    as_json: bool,
    interval: float | None,
    sort: str,
    files: int | None,
    wide: bool,
) -> None:
    """Watch caches that are served on local sockets.

    Live in a terminal (needs textual: run pip install '.[tui]' in a checkout), once everywhere else. SOCKET is a path
    given to PageCache.serve_stats. Without any: the paths in $PAGECACHE_SOCKET, separated by ':', and then
    $XDG_RUNTIME_DIR/pagecache/*.sock.

    Exit status: 1 when a socket could not be read once, 2 when there is none.
    """
    from pagecache.top.start import WrongInput, start

    leave_on_sigterm()
    try:
        status = start(sockets, once=once, as_json=as_json, interval=interval, sort=sort, files=files, wide=wide)
    except WrongInput as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status == INTERRUPTED:
        interrupted("nothing was changed")
    sys.exit(status)


def _refuse_moved(context: click.Context, option: click.Parameter, value: object) -> None:
    if value:
        raise WrongUsage(
            f"{option.opts[0]}: only in a checkout, where goals are: make bench OPTIONS='{option.opts[0]} ...'"
        )


def _moved(name: str, *, is_flag: bool = False) -> Callable[[Command], Command]:
    """Return an option that is refused with a sentence that names its place."""
    return click.option(name, is_flag=is_flag, hidden=True, expose_value=False, callback=_refuse_moved)


@main.command(short_help="Measure hits, misses and write-back beside plain files")
@click.argument("group", required=False, type=click.Choice(["hits", "writeback"]))
@click.option("--only", metavar="P1,P5", help="Goals or cases to run.  [default: all]")
@click.option("--list", "list_cases", is_flag=True, help="List the cases and the ids of their goals, and run nothing.")
@click.option("--quick", is_flag=True, help="Measure 11 rounds on a quarter of the working set.")
@click.option("--seed", default=1, show_default=True, help="Number that decides the order of offsets and rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print machine, settings and rows as JSON.")
@_moved("--gate", is_flag=True)
@_moved("--repeat")
@_moved("--plot")
@_moved("--trace")
@_moved("--native")
def bench(group: str | None, only: str | None, list_cases: bool, quick: bool, seed: int, as_json: bool) -> None:
    """Measure the cache beside plain files in one run: each result is a ratio of two things that ran in turn.

    Hits: random 4 KiB reads and overwrites of cached bytes, against os.pread, os.pwrite and Python files. Misses:
    4 KiB reads that the cache does not hold, against calling the backend directly. Write-back: overwrites of a whole
    file, then fsync, against os.pwrite and os.fsync.

    GROUP: hits (hits and misses) or writeback. Without it: both. A checkout also has the goals, and measures other
    caches, threads, memory, fsspec and S3: make bench.
    """
    from pagecache.bench import report
    from pagecache.bench.cases import CASES
    from pagecache.bench.suite import UnknownCase, run, select, settings_for

    leave_on_sigterm()
    try:
        cases = select(CASES, only.split(",") if only else [], group)
    except UnknownCase as error:
        raise WrongUsage(f"{error}; a checkout has more: make bench ONLY={only}") from None
    if list_cases:
        listed = [
            {"name": case.name, "title": case.title, "goals": [{"key": key} for key in case.goals]} for case in cases
        ]
        print_json({"cases": listed}) if as_json else report.console().print(report.case_table(cases))
        return
    settings, where = settings_for(quick=quick, seed=seed), report.machine()
    try:
        result = run(cases, settings)
    except KeyboardInterrupt:
        interrupted("temporary files are removed")
    if as_json:
        print_json(report.as_dict(where, settings, result))
        return
    console = report.console()
    console.print(report.row_table(result.rows))
    for line in report.conditions(where, settings, result):
        console.print(line, highlight=False)


@main.command(short_help="Have running caches save everything, and wait for it")
@click.argument("sockets", metavar="SOCKET...", nargs=-1, required=True)
@click.option("--volume", metavar="NAME", help="Only this volume.  [default: all]")
@click.option("--deadline", metavar="SECONDS", type=click.FloatRange(min=0), help="Wait no longer than this.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress, and nothing at all when everything is saved.")
def drain(sockets: tuple[str, ...], volume: str | None, deadline: float | None, as_json: bool, quiet: bool) -> None:
    """Have running caches save everything written so far, and wait until it is committed.

    SOCKET is the path that a program gave to PageCache.serve_stats. Exit status: 0 everything is committed, 1 something
    is not (it is listed), or nothing is known as the program has ended meanwhile.
    """
    from pagecache.drain import Unusable
    from pagecache.drain import drain as drain_caches
    from pagecache.drain.display import on_stderr, silent
    from pagecache.drain.report import as_dict, lines

    leave_on_sigterm()
    try:
        with nullcontext(silent) if quiet else on_stderr() as display:
            outcomes = drain_caches(sockets, volume, deadline, display)
    except Unusable as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        interrupted("what was begun goes on")
    saved = all(outcome.saved for outcome in outcomes)
    if as_json:
        print_json(as_dict(outcomes))
    elif not (quiet and saved):
        click.echo("\n".join(lines(outcomes)))
    sys.exit(0 if saved else 1)


def _show_features(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from pagecache.fuse.features import features

        for line in features():
            click.echo(line)
        context.exit()


@main.command(short_help="Mount a backend as a file system")
@click.argument("url")
@click.argument("directory")
@click.option(
    "--features",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_features,
    help="Say what is built, and what libfuse and the kernel have; mount nothing.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and say on stderr how far it is.")
@click.option("-o", "words", metavar="WORD,...", multiple=True, help="Options as mount(8) has them; may be repeated.")
@click.option("--capacity", metavar="SIZE", help="Memory of the cache.  [default: 256MiB]")
@click.option("--direct-io", is_flag=True, help="The kernel keeps no pages: each read and write comes to the cache.")
@click.option("--kernel-cache", is_flag=True, help="The kernel keeps pages of unchanged files from open to open.")
@click.option("--read-only", is_flag=True, help="Nothing can be changed.")
@click.option("--allow-other", is_flag=True, help="Other users may use it too.")
@click.option("--uid", type=int, help="Owner of everything.  [default: as stored]")
@click.option("--gid", type=int, help="Group of everything.  [default: as stored]")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Seconds after which a program that waits for the backend gets EIO.  [default: 60]",
)
@click.option(
    "--drain-timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Seconds to save everything when the mount ends.  [default: 60]",
)
@click.option("--stats", metavar="SOCKET", help="Serve live statistics, for `pagecache top` and `pagecache drain`.")
@click.option(
    "--option", "backend_options", metavar="NAME=VALUE", multiple=True, help="Option of the backend (repeatable)."
)
@click.option(
    "--loop",
    type=click.Choice(["auto", "c", "pyfuse3"]),
    help="Library that carries the requests.  [default: the loop in C if it was built, else pyfuse3]",
)
def mount(
    url: str,
    directory: str,
    foreground: bool,
    words: tuple[str, ...],
    backend_options: tuple[str, ...],
    **options: Any,
) -> None:
    """Mount the backend that URL names on DIRECTORY, as a file system.

    URL: dir:PATH, s3://BUCKET/PREFIX, fsspec:URL, memory:, or module:factory. Unmount with `fusermount3 -u DIRECTORY`,
    or end it with SIGTERM: everything is saved then. Exit status: 0 mounted (in the foreground: everything was saved),
    1 not mounted, or not everything saved (it is listed), 2 wrong usage.
    """
    from pagecache.fuse.daemon import detach, wait_for_child
    from pagecache.fuse.mounting import mount_as_asked, options_from
    from pagecache.fuse.serving import why_cannot_serve

    if why := why_cannot_serve(options["loop"] or "auto"):
        raise WrongUsage(f"mounting: {why}")
    try:
        asked = options_from(url, directory, words, backend_options, options)
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    started = None
    if not foreground and (started := detach()) is None:
        wait_for_child(lambda why: click.echo(f"pagecache mount: {why}", err=True))
    mount_as_asked(asked, started, lambda text: click.echo(f"pagecache mount: {text}", err=True))


@main.command("check-backend", short_help="Check a backend against the protocol and measure limits")
@click.argument("backend")
@click.option("--option", "options", metavar="NAME=VALUE", multiple=True, help="Argument of the factory (repeatable).")
@click.option("--limits-only", is_flag=True, help="Measure, and look at the limits; make no checks.")
@click.option(
    "--budget",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Seconds to spend measuring.",
)
@click.option(
    "--bytes",
    "most",
    metavar="SIZE",
    default="2GiB",
    show_default=True,
    help="Most bytes that measuring reads and writes.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Seconds that one check may take.",
)
@click.option("--keep", is_flag=True, help="Leave the objects that were made.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check_backend(
    backend: str,
    options: tuple[str, ...],
    limits_only: bool,
    budget: float,
    most: str,
    timeout: float,
    keep: bool,
    as_json: bool,
) -> None:
    """Check a backend against the promises of the protocol, and measure which limits suit it.

    BACKEND is a URL (memory:, dir:PATH, ...), or module:factory, where factory is a class or function that gives a
    backend, blocking or asynchronous. Exit status: 0 all promises are kept, 1 something is broken. All objects that are
    made have one prefix of their own, and are removed.
    """
    from pagecache.check_backend import BadTarget, Settings, run
    from pagecache.check_backend.measuring import Budget
    from pagecache.check_backend.report import as_dict, print_report
    from pagecache.check_backend.target import Hangs, Target, options_of
    from pagecache.config import parse_size
    from pagecache.demo.progress import progress_on_stderr

    leave_on_sigterm()
    try:
        size = parse_size(most, "--bytes")
        target = Target(backend, options_of(options))
        settings = Settings(timeout, Budget(budget, size), limits_only=limits_only, keep=keep)
        with progress_on_stderr() as progress:
            report = run(target, settings, progress)
    except Hangs as error:
        WrongUsage(str(error)).show()
        leave(WrongUsage.exit_code, hung=True)
    except (BadTarget, ValueError) as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        interrupted("objects that begin with 'pagecache-check-' may be left in the backend")
    print_json(as_dict(report)) if as_json else print_report(report)
    leave(0 if report.ok else 1, hung=report.hung)


@main.command(short_help="Test random operations of many workers byte by byte")
@click.argument("target", required=False)
@click.option("--seed", type=int, help="Number that decides every operation.  [default: random]")
@click.option("--duration", metavar="TIME", help="Time to run: 60s, 10m, 1h.  [default: 10s]")
@click.option("--threads", type=int, help="Number of workers that are threads.  [default: 8]")
@click.option("--tasks", type=int, help="Number of workers that are tasks of one event loop.  [default: 20]")
@click.option("--files", type=int, help="Number of files that all workers share.  [default: 4]")
@click.option("--size", metavar="SIZE", help="Largest size of a file.  [default: 1MiB]")
@click.option("--capacity", metavar="SIZE", help="Memory of the cache.  [default: 1MiB]")
@click.option(
    "--mix",
    metavar="WAY,...",
    help="Ways into a file to use: buffered, direct, parallel, through, views, append, truncate, punch, try, "
    "names, hints, sources, foreign, losses, rivals, touches.  [default: all but rivals and touches]",
)
@click.option(
    "--profile",
    metavar="NAME",
    help="Kind of load: fsx, database, log, media, generic-095, direct, metadata, saving, crowd, losses, ends, "
    "touched, unsaved.  [default: fsx]",
)
@click.option("--faults", metavar="NAME", help="Make backend calls fail: none, mild, nasty, hell.  [default: none]")
@click.option(
    "--crashes",
    metavar="KIND,...",
    help="End each stir of a round by one: killed (the process), forgetting (the store).  [default: none]",
)
@click.option("--processes", type=int, help="Number of processes that share the workers, for path: only.  [default: 1]")
@click.option("--patience", metavar="TIME", help="Time after which a call counts as hanging.  [default: 60s]")
@click.option(
    "--scheduler",
    type=click.Choice(["threads", "deterministic"]),
    help="Let the machine (threads) or the seed (deterministic) choose the next thread.  [default: threads]",
)
@click.option(
    "--replay",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run the round that failed again; other options but --duration are the file's.",
)
@click.option("--shrink", is_flag=True, help="Make what is found small: fewest operations, as a replay and as a test.")
@click.option("--shrink-time", metavar="TIME", default="60s", show_default=True, help="Time that --shrink may take.")
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page that shows what was found, or what was exercised.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print what was exercised, too, when nothing was found.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def stress(
    target: str | None,
    replay: Path | None,
    shrink: bool,
    shrink_time: str,
    html: Path | None,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Random operations of many workers on TARGET, each byte checked against what it may be.

    TARGET: nothing (a cache over a backend in memory), a backend URL (dir:PATH, ...), python:module:factory (what the
    factory gives when it is called; the module is looked for here too), or path:DIR: any mounted file system, without
    the cache. Exit status: 0 nothing was found, 1 something was; a file that
    repeats it is written.
    """
    from pagecache.stress import UnusableTarget
    from pagecache.stress.command import Ending, execute, plan_of, read_replay
    from pagecache.stress.outcome import Outcome
    from pagecache.stress.plan import seconds

    outcome: Outcome | None = None
    if html is not None and not html.absolute().parent.is_dir():
        raise WrongUsage(f"--html {html}: no such directory")
    with Ending() as ending:
        try:
            time_to_shrink = seconds(shrink_time, "--shrink-time")
            if replay is not None:
                plan, named = read_replay(replay, options)
                if target is not None and named is not None and target != named:
                    click.echo(f"on {target}, in the place of the replay's {named}", err=True)
                target = target if target is not None else named
            else:
                plan = plan_of(options)
            outcome = Outcome(execute(plan, target, ending.asked))
            if not outcome.report.ok:
                outcome.save()
                if shrink:
                    outcome.shrink(target, time_to_shrink)
            if html is not None:
                outcome.write_page(html)
        except (UnusableTarget, ValueError) as error:
            raise WrongUsage(str(error)) from None
        except OSError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt as error:
            if outcome is not None:  # while it was shrunk, or written
                print_json(outcome.to_dict()) if as_json else click.echo(outcome.text())
            left = "objects that begin with 'pagecache-stress-' may be left in the target"
            click.echo(f"interrupted: {left if outcome is not None else str(error) or left}", err=True)
            leave(ending.status, hung=True)
    print_json(outcome.to_dict()) if as_json else click.echo(outcome.text(verbose=verbose))
    leave(0 if outcome.report.ok else 1, hung=not outcome.report.ok)


@main.command("s3-clean", short_help="Remove leftovers of ended programs from a bucket")
@click.argument("url", metavar="URL")
@click.option(
    "--older-than",
    metavar="TIME",
    default="24h",
    show_default=True,
    help="Time since a program last stored anything there: 90s, 1.5h; 0s: also objects of running programs.",
)
@click.option("--dry-run", is_flag=True, help="List the objects and remove none.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def s3_clean(url: str, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove what programs that died have left in a bucket: private objects, and the uploads they have notes of.

    URL is that of the volume: s3://BUCKET/PREFIX?endpoint=URL. Nothing of other programs is touched, and nothing of one
    that has stored something in that time. What a program that still runs has staged is lost when it is removed. An
    upload that was begun right before the program died may have no note: a lifecycle rule of the bucket ends those.
    Exit status: 0 done, 1 the server refused something, 2 wrong usage.
    """
    from pagecache.backends import backend_from_url
    from pagecache.stress.plan import seconds

    try:
        age = seconds(older_than, "--older-than", or_zero=True)
        backend: Any = backend_from_url(url)
        if not hasattr(backend, "bucket"):
            raise ValueError(f"{url!r}: it is not of the form s3://BUCKET/PREFIX?endpoint=URL")
    except ValueError as error:
        raise WrongUsage(str(error)) from None
    try:
        removed = backend.remove_leftovers(age, dry_run=dry_run)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        interrupted("what was not removed yet is left; the command may be given again")
    finally:
        backend.close()
    if as_json:
        print_json({"url": url, "older_than": age, "dry_run": dry_run, "removed": removed})
        return
    for name in removed:
        click.echo(name)
    click.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)}")


def leave(status: int, *, hung: bool) -> NoReturn:
    """End, whatever hangs: a thread of a backend may be one that the interpreter would wait for."""
    if hung:
        import os

        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    import json

    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
