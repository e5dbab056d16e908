"""CORE: the C library and its extension module; only `pagecache.native` imports from here."""
