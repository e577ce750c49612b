"""What a run shows: the summary as data, and renderings of that data."""
