"""One file for each section; `run` returns the section's part of results.json."""
