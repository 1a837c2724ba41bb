"""Whether an artifact calls the classes what the original calls them. Its numbers can be right and its labels wrong."""

from __future__ import annotations

from collections.abc import Sequence


def mislabelled(original: Sequence[str], artifact: Sequence[str]) -> str | None:
    """What is wrong with an artifact's labels, as a sentence; None where nothing is, or one side has no labels.

    A label that the original has twice may be followed by its number in the artifact (``converters/coreml.py``).
    """
    if not original or not artifact:
        return None
    if len(original) != len(artifact):
        return f"it has {len(artifact)} labels and the original {len(original)}"
    pairs = enumerate(zip(original, artifact, strict=True))
    wrong = [(i, ours, its) for i, (ours, its) in pairs if its not in (ours, f"{ours} ({i})")]
    if not wrong:
        return None
    place, ours, its = wrong[0]
    return (
        f"it calls {len(wrong)} of {len(original)} classes by other labels than the original does: class {place} is "
        f"{its!r} and should be {ours!r}"
    )
