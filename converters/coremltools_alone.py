"""Imports coremltools without libraries that it looks for and that no conversion here needs: 2 of 5 seconds.

It imports whatever it finds of scikit-learn, whose models it also converts, of transformers, for its tests, and of
ExecuTorch, for programs in the dialect of that one (coremltools 9: ``_deps``, ``converters/mil/frontend/torch/load``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NOT_NEEDED = ("sklearn", "transformers", "executorch")


@contextmanager
def hidden(names: tuple[str, ...]) -> Iterator[None]:
    """Importing these fails inside, but for what has been imported already."""
    new = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(new))  # type: ignore[arg-type]  # None: an import raises ImportError
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]


with hidden(NOT_NEEDED):
    import coremltools as coremltools
