"""The command `pagecache disk`: options, help and exit status. The work is done in `pagecache.disk.contents`."""

from dataclasses import asdict

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json


@click.command(short_help="Show and verify what a disk tier keeps")
@click.argument("path", metavar="PATH")
@click.option("--check", is_flag=True, help="Verify every checksum; this reads everything.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def disk(path: str, check: bool, as_json: bool) -> None:
    """Show what the disk tier in the directory PATH keeps, and of which stores. No process may use it meanwhile.

    Exit status: 0 nothing is unsaved and nothing damaged, 1 otherwise, 2 wrong usage.
    """
    from pagecache.disk.contents import contents
    from pagecache.quantities import printable, size_text

    try:
        found = contents(path, check=check)
    except (OSError, ValueError) as error:
        raise WrongUsage(str(error)) from None
    except KeyboardInterrupt:
        interrupted("nothing was changed")
    damaged = sum(held.damaged for held in found.volumes.values())
    if as_json:
        print_json({"path": path, "checked": check, **asdict(found), "damaged": damaged})
    else:
        click.echo(f"{size_text(found.size)} in {path}, unsaved: {found.unsaved} bytes")
        for name, held in found.volumes.items():
            state = f", {held.damaged} bytes damaged" if held.damaged else ", all verified" if check else ""
            click.echo(f"  {printable(name)}: {held.objects} objects, {size_text(held.bytes)}{state}")
    if damaged or found.unsaved:
        raise SystemExit(1)
