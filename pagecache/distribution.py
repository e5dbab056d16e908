"""The name and the version of the distribution, and the advice for a dependency that is not installed.

The package is imported as `pagecache`. The distribution has another name: `pagecache` on PyPI is another project.
"""

NAME = "libpagecache"
VERSION = "0.1.0"


def needs(what: str, extra: str) -> str:
    """Return a sentence that names the missing part and the extra that installs it."""
    return f"{what}: run pip install '.[{extra}]' in a checkout of {NAME}"
