"""The command line: each command has one module with its options, its help and its exit status.

Exit status: 0 fine, 1 a failure found or data not saved, 2 wrong usage, 130 interrupted. `--json` prints one JSON
document on stdout in place of a table for a person; progress and errors go to stderr. Nothing heavy is imported before
the command is known: `pagecache --help` needs only click.
"""

import click

from pagecache.cli import bench, disk, mount, s3_clean, stress
from pagecache.cli.check_backend import command as check_backend_command
from pagecache.cli.drain import command as drain_command
from pagecache.cli.top import command as top_command

# The names of commands are no names of this module: `pagecache.cli.top` is the package.
COMMANDS: list[click.Command] = [
    bench.bench,
    check_backend_command.check_backend,
    disk.disk,
    drain_command.drain,
    mount.mount,
    s3_clean.s3_clean,
    stress.stress,
    top_command.top,
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pagecache")
def main() -> None:
    """A write-back page cache for files, objects and anything with bytes."""


for _command in COMMANDS:
    main.add_command(_command)
