"""What the engine reports: sentences for the log, events, troubles, and the reasons of waits."""
