"""Our artifacts beside those of the converters' own minimal scripts: ``make bench``."""
