"""The measurements of bench/run.sh and their report."""
