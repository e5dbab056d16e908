"""Acceptance tests of the public interface: what a program that uses pagecache may rely on."""
