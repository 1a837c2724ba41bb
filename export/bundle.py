"""The folder that an export leaves: artifacts, manifest, golden vectors, checksums. docs/bundle.md describes it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout
from pydantic import ValidationError

from lvexport import files
from lvexport.errors import BundleError, OutputError
from lvexport.manifest import ArtifactInfo, Manifest

MANIFEST = "manifest.json"
GOLDEN = "golden.safetensors"
CHECKSUMS = "SHA256SUMS"
LOCK_SECONDS = 2.0  # how long another run on the same bundle is waited for


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. ``results`` are the artifacts that were asked for, in that order; by default all.

    ``logs``: what the processes printed whose work failed, by the artifact's target and recipe.
    """

    path: Path
    manifest: Manifest
    requested: tuple[ArtifactInfo, ...] | None = None
    logs: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> tuple[ArtifactInfo, ...]:
        return self.manifest.artifacts if self.requested is None else self.requested

    @property
    def exit_code(self) -> int:
        """3 where an artifact could not be made or run, else 1 where a verdict failed, else 0."""
        return exit_code(self.results)


def exit_code(artifacts: tuple[ArtifactInfo, ...]) -> int:
    """What a command that ends with these artifacts exits with (design: 0, 1 or 3)."""
    states = {artifact.status for artifact in artifacts}
    if states & {"error", "not-run"}:
        return 3
    return 1 if "failed" in states else 0


def read(path: Path) -> Bundle:
    """Open a bundle. Raises BundleError where the folder is none."""
    manifest = path / MANIFEST
    try:
        return Bundle(path, Manifest.model_validate_json(manifest.read_bytes()))
    except FileNotFoundError:
        raise BundleError(
            f"{path} is not a bundle: it has no {MANIFEST}. A bundle is the folder that lvexport MODEL --to … leaves."
        ) from None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{manifest} cannot be read ({reason}). Make the bundle again with lvexport MODEL --to …"
        ) from error


def checksums(folder: Path) -> str:
    """The text of SHA256SUMS, as ``sha256sum --check`` reads it: every file of the bundle but itself."""
    lines = (
        f"{files.file_digest(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in files.files_under(folder)
        if path.name != CHECKSUMS
    )
    return "".join(lines)


def checksums_hold(folder: Path) -> bool:
    """Whether SHA256SUMS is what it would be if it were written now."""
    path = folder / CHECKSUMS
    return path.exists() and path.read_text() == checksums(folder)


def recorded_checksums(folder: Path) -> dict[str, str]:
    """Path → digest, as SHA256SUMS has them; empty where the file is missing."""
    try:
        text = (folder / CHECKSUMS).read_text()
    except OSError:
        return {}
    pairs = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {name: value for value, name in pairs}


def publish(final: Path, manifest: Manifest, new: Mapping[str, Path]) -> None:
    """Give the bundle these files (name → where it was made) and this manifest, all in one step.

    Everything else that is in the folder stays, except artifacts of earlier runs that the manifest no longer names.
    """
    prepared = final.with_name(f".{final.name}.{os.getpid()}.new")
    files.remove(prepared)
    prepared.mkdir()
    named = files_of(manifest)
    stale = files_of(read(final).manifest) - named if (final / MANIFEST).exists() else set()
    if final.exists():
        for entry in sorted(final.iterdir()):
            if entry.name not in {MANIFEST, CHECKSUMS, *new, *stale}:
                files.clone(entry, prepared / entry.name)
    for name, path in new.items():
        files.clone(path, prepared / name)
        files.make_readable(prepared / name)
    (prepared / MANIFEST).write_text(document(manifest))
    (prepared / CHECKSUMS).write_text(checksums(prepared))
    files.put_in_place(prepared, final)


def files_of(manifest: Manifest) -> set[str]:
    """Artifacts that are there, what goes with them, and the picture of their fronts."""
    pictures = set() if manifest.front is None else {manifest.front.path}
    return pictures | {name for a in manifest.artifacts if a.path for name in (a.path, *a.beside)}


def document(manifest: Manifest) -> str:
    """The manifest as it is written and printed."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in the folder, which is created where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The output folder {folder} cannot be written ({error.strerror}). Choose another with --output DIR."
        ) from error


@contextmanager
def workspace(final: Path) -> Iterator[Path]:
    """A scratch folder on the bundle's own file system, for one run at a time; gone afterwards.

    What a killed run left beside the bundle is cleared away first. Raises OutputError where nothing can be written.
    """
    check_writable(final.parent)
    with _locked(final):
        files.recover(final)
        for left in final.parent.glob(f".{final.name}.*"):
            files.remove(left)
        work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".work", dir=final.parent))
        try:
            yield work
        finally:
            files.remove(work)


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Keep other runs off this bundle. The lock lies outside of it, for the bundle itself is replaced."""
    name = f"lvexport-{hashlib.sha256(str(final.resolve()).encode()).hexdigest()[:16]}.lock"
    try:
        with FileLock(_lock_folder() / name, timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise OutputError(
            f"Another lvexport is at work on {final}. Wait until it has finished, or choose another folder with "
            "--output DIR."
        ) from None


def _lock_folder() -> Path:
    """The user's cache, or where that cannot be written the system's folder for temporary files."""
    folder = Path(platformdirs.user_cache_dir("lvexport")) / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.gettempdir())
