"""The course: one source per lesson in `source/`, from which the notebooks in `en/` and `zh/` are made."""
