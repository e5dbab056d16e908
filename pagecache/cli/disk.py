"""The command `pagecache disk`: options, help and exit status. The work is done in `pagecache.disk.contents`."""

import re
from dataclasses import asdict

import click

from pagecache.cli.usage import WrongUsage, interrupted, print_json


@click.command(short_help="Show and verify what a disk tier keeps")
@click.argument("path", metavar="PATH")
@click.option("--check", is_flag=True, help="Verify every checksum; this reads everything.")
@click.option("--export", metavar="DIR", help="Write the unsaved files to a new directory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def disk(path: str, check: bool, export: str | None, as_json: bool) -> None:
    """Show what the disk tier in the directory PATH keeps, of which stores, and which files are not saved in them. No
    process may use it meanwhile.

    Exit status: 0 nothing is unsaved and nothing damaged, 1 otherwise, 2 wrong usage.
    """
    from pagecache.disk.contents import contents
    from pagecache.quantities import printable, size_text

    try:
        found = contents(path, check=check, export=export)
    except (OSError, ValueError) as error:
        raise WrongUsage(re.sub(r"^(\[Errno \d+\] )?disk: ", r"\1", str(error))) from None
    except KeyboardInterrupt:
        interrupted("nothing was changed")
    damaged = sum(held.damaged for held in found.volumes.values())
    damaged += sum(length for file in found.files for _, length in file.damaged)
    if as_json:
        print_json({"path": path, "checked": check, **asdict(found), "damaged": damaged})
    else:
        click.echo(f"{size_text(found.size)} in {path}, unsaved: {found.unsaved} bytes")
        for name, held in found.volumes.items():
            state = f", {held.damaged} bytes damaged" if held.damaged else ", all verified" if check else ""
            click.echo(f"  {printable(name)}: {held.objects} objects, {size_text(held.bytes)}{state}")
        for file in found.files:
            lost = sum(length for _, length in file.damaged)
            more = f", {lost} bytes damaged" if lost else ""
            where = f", exported to {printable(file.path)}" if file.path is not None else ""
            what = f"{file.bytes} bytes unsaved of {file.size}{more}{where}"
            click.echo(f"  {printable(file.volume)}: {printable(file.key)}: {what}")
        if found.files and export is None:
            click.echo("  attach(url, volume_id=name) saves the files of that name, at any URL; --export copies them")
        for trouble in found.troubles:
            click.echo(f"  {trouble}")
    if damaged or found.files or found.troubles:
        raise SystemExit(1)
