"""Read files of a run folder that a stranger may have made, and say what could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils import files

LARGEST_LOG = 256 << 20  # bytes; 100,000 rows of 35 columns are about 60 MB


def object_and_note(path: Path) -> tuple[dict[str, Any], str]:
    """Return the object in a JSON file, and why it could not be read ("" where it could, or where there is no file)."""
    try:
        return files.read_object(path), ""
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"{path.name} not read: {error.strerror}"
    except ValueError as error:
        return {}, f"{path.name} not read: {error}"


def object_or_empty(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} where there is none or it cannot be read."""
    return object_and_note(path)[0]
