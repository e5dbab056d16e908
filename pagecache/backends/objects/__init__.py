"""Stores of whole objects: objects become visible by a commit, which replaces one version by another.

Everything that makes requests is a coroutine, for blocking and asynchronous stores. Those of a blocking store never
suspend, so `run` carries them out on the calling thread.
"""
