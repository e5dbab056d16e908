"""The command line: each command has one module with its options, its help and its exit status.

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

A command whose work serves nothing else is a package here, with `command.py` as that module: check_backend, demo, drain
and top. The others call `pagecache.bench`, `pagecache.fuse`, `pagecache.stress` and `pagecache.backends`.
"""

import click

from pagecache.cli import bench, mount, s3_clean, stress
from pagecache.cli.check_backend import command as check_backend_command
from pagecache.cli.demo import command as demo_command
from pagecache.cli.drain import command as drain_command
from pagecache.cli.top import command as top_command

# The names of commands are no names of this module: `pagecache.cli.top` is the package.
COMMANDS: list[click.Command] = [
    bench.bench,
    check_backend_command.check_backend,
    demo_command.demo,
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
