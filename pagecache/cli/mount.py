"""The command `pagecache mount`: options, help and exit status. The file system is `pagecache.fuse`."""

from typing import Any

import click

from pagecache.cli.usage import WrongUsage


@click.command(short_help="Mount a backend as a file system")
@click.argument("url")
@click.argument("directory")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and print progress on stderr.")
@click.option("-o", "words", metavar="WORD,...", multiple=True, help="Options of mount(8) (repeatable).")
@click.option("--capacity", metavar="SIZE", help="Capacity of the cache.  [default: 256MiB]")
@click.option(
    "--policy",
    metavar="adaptive|sticky",
    help="Data that stays when memory is short: read often, or read first.  [default: adaptive]",
)
@click.option("--disk", metavar="PATH", help="Keep data in this directory of a local disk, from mount to mount.")
@click.option("--disk-size", metavar="SIZE", help="Most bytes in that directory, at least 256MiB.  [default: 10GiB]")
@click.option(
    "--durability",
    metavar="backend|disk",
    help="Where fsync puts bytes before it returns: in the backend, or in --disk.  [default: backend]",
)
@click.option("--direct-io", is_flag=True, help="Keep no pages in the kernel: each read and write comes to the cache.")
@click.option("--kernel-cache", is_flag=True, help="Keep pages of unchanged files in the kernel from open to open.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--allow-other", is_flag=True, help="Let other users use the mount.")
@click.option("--uid", type=int, help="Owner of everything.  [default: as stored]")
@click.option("--gid", type=int, help="Group of everything.  [default: as stored]")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Seconds after which a program that waits for the backend gets EIO; 0: it waits.  [default: 60]",
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
def mount(
    url: str, directory: str, foreground: bool, words: tuple[str, ...], backend_options: tuple[str, ...], **options: Any
) -> None:
    """Mount the backend that URL names on DIRECTORY, as a file system.

    URL: dir:PATH, s3://BUCKET/PREFIX, fsspec:URL, memory:, or module:factory. Unmount with `fusermount3 -u DIRECTORY`,
    or end it with SIGTERM: everything is saved then. With --durability disk, bytes in --disk count as saved; the end
    says how many files have such, and the next mount saves them in the backend. Exit status: 0 mounted (in the
    foreground: everything was saved), 1 not mounted, or some bytes not saved (they are listed), 2 wrong usage.
    """
    from pagecache.fuse.daemon import detach
    from pagecache.fuse.mounting import mount_and_serve, options_from
    from pagecache.fuse.serving import why_cannot_serve

    if why := why_cannot_serve():
        raise WrongUsage(f"mounting: {why}")
    try:
        mount_options = options_from(url, directory, words, backend_options, options)
    except ValueError as error:
        raise WrongUsage(str(error)) from None

    def report(text: str) -> None:
        click.echo(f"pagecache mount: {text}", err=True)

    mount_and_serve(mount_options, None if foreground else detach(report), report)
