"""Commands that a person runs: `python -m scripts.NAME`. Nothing imports them."""
