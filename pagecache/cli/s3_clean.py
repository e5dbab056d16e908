"""The command `pagecache s3-clean`: options, help and exit status. The work is done in `pagecache.backends.s3`."""

from typing import Any

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json


@click.command("s3-clean", short_help="Remove what ended programs have left in a bucket")
@click.argument("url", metavar="URL")
@click.option(
    "--older-than",
    metavar="TIME",
    default="24h",
    show_default=True,
    help="Age of what is removed: 90s, 1.5h; 0s: also uploads of running programs.",
)
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def s3_clean(url: str, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove what ended programs have left in a bucket, and what takes space there.

    URL is that of the volume: s3://BUCKET/PREFIX?endpoint=URL. All unfinished uploads to names below the prefix that
    are older than the time are ended, whichever program began them; a running program whose upload is ended sends its
    object again. Objects of that age below PREFIX/.pagecache/ are deleted: keys of trials. Nothing else is touched.
    Exit status: 0 done, 1 the server refused a request, 2 wrong usage.
    """
    from pagecache.backends.url import backend_from_url, without_user
    from pagecache.quantities import printable
    from pagecache.stress.plan import seconds

    try:
        age = seconds(older_than, "--older-than", or_zero=True)
        backend: Any = backend_from_url(url)
        if not hasattr(backend, "bucket"):
            raise ValueError(f"{without_user(url)!r}: it is not of the form s3://BUCKET/PREFIX?endpoint=URL")
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
        click.echo(printable(name))
    click.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)}")
