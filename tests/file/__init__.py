"""Acceptance tests of the public interface: the behaviour that a program using pagecache may rely on."""
