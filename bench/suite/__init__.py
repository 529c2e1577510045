"""What bench/run.sh measures, and how it is told."""
