"""Reports of the engine: sentences for the log, events, troubles, and the reasons of waits."""
