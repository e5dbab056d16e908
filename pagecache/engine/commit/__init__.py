"""Commits and what they leave behind: staged data, lost answers, tails, debts of a file, newer stored versions."""
