"""`python -m scripts.benchmark`: how fast each part is, as a ratio to a peer measured in turn in the same run."""
