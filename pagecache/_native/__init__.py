"""The C core, and the extension made of it.

PAGECACHE_EXTENSION names a folder whose `_core` is imported in place of the one that was installed: the debug build of
`make debug-extension`, or that with planted bugs. Python's -E and -I ignore it as they do other variables.
"""

import os
import sys

if not sys.flags.ignore_environment and os.environ.get("PAGECACHE_EXTENSION"):
    __path__.insert(0, os.environ["PAGECACHE_EXTENSION"])
