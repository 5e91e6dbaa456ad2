"""The library of `utils.plot`, `utils.compare` and `utils.report`: it reads runs, and no running job imports it."""
