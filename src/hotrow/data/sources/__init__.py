"""Logs that ``hotrow prepare`` reads, one file each."""
