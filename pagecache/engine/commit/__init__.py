"""Commits and their after-effects: staged data, lost replies, tails, debts of a file, newer stored versions."""
