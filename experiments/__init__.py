"""Programs. Run them from the repository's root: `python -m experiments.train --help`."""
