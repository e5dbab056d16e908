"""Handles on cached objects: `CachedFile`, its direct variant, and views of its pages.

`cached.py` is the handle that `Volume.open` returns, `direct.py` the one that bypasses the cache, `view.py` exposes
pages without a copy, and `prefetch.py` fills ranges in advance. `pagecache.aio` has the same verbs for asyncio.
"""

from .cached import Advice, CachedFile
from .direct import DirectFile
from .view import View

__all__ = ["Advice", "CachedFile", "DirectFile", "View"]
