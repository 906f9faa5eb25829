"""The kinds of work. Each module has ``TITLE``, ``ROWS``, ``STEPS`` and ``measure(lab)``."""
