"""One file for each thing that is measured; `run` gives what results.json holds under the section's name."""
