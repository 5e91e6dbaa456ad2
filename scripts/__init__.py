"""Commands that a person runs: `python -m scripts.NAME`. Nothing imports them."""

import ppo  # noqa: F401  which sees that no file hides a package
