"""Checkpoints that are complete and verified, or invisible.

A checkpoint is a folder `step_XXXXXXXXXX` with `state.safetensors` (all tensors), `meta.json` (numbers and texts)
and `MANIFEST.json` (size and SHA-256 of the two). It is built in a `.tmp-` folder, each file is synced, the manifest
is written last, and one rename makes it visible. No pickle: a stranger's checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

FILES = ("state.safetensors", "meta.json")


class Damaged(ValueError):
    """A checkpoint that is not what its manifest says."""


def save_checkpoint(root: Path, step: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any], keep: int) -> Path:
    """Write one checkpoint and remove the oldest beyond `keep`.

    Args:
        root: the run's `checkpoints` folder.
        step: environment steps so far, part of the name.
        tensors: contiguous tensors by name.
        meta: what JSON can hold.
        keep: how many verified checkpoints stay, at least 2.

    Returns:
        the folder.

    Raises:
        OSError: disk full, folder gone, ... What was there before is untouched.
    """
    root.mkdir(exist_ok=True)
    final = root / f"step_{step:010d}"
    temp = root / f".tmp-{step:010d}-{os.getpid()}-{socket.gethostname()}"
    clean_temporary(root)
    payload = {"state.safetensors": save(tensors), "meta.json": json.dumps(meta, indent=1).encode()}
    need = 2 * sum(len(data) for data in payload.values())
    free = shutil.disk_usage(root).free
    if free < need:
        raise OSError(f"checkpoint needs {need / 2**20:.0f} MiB free in {root}, there are {free / 2**20:.0f}")
    try:
        temp.mkdir()
        for name, data in payload.items():
            _write_synced(temp / name, data)
        manifest = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in payload.items()
        }
        _write_synced(temp / "MANIFEST.json", json.dumps({"version": 1, "step": step, "files": manifest}).encode())
        _sync_folder(temp)
        if final.exists():  # a resumed run reaches the same step again
            shutil.rmtree(final)
        temp.rename(final)
        _sync_folder(root)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    for old in sorted(root.glob("step_*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def clean_temporary(root: Path) -> None:
    """Remove what interrupted savings left."""
    for leftover in root.glob(".tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest.

    Raises:
        Damaged: the manifest is missing or unreadable, or a file is missing, cut or changed.
    """
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_bytes())
        entries = {
            name: (int(manifest["files"][name]["bytes"]), str(manifest["files"][name]["sha256"])) for name in FILES
        }
        named = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / 'MANIFEST.json'}: missing or unreadable ({error})") from None
    if folder.name != f"step_{named:010d}":
        raise Damaged(f"{folder / 'MANIFEST.json'}: belongs to step {named}")
    for name, (size, digest) in entries.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise Damaged(f"{path}: missing or not {size} bytes long")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Damaged(f"{path}: its SHA-256 is not the manifest's")


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, or None, and what was wrong with the newer ones."""
    rejected: list[str] = []
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            verify(folder)
            return folder, rejected
        except Damaged as error:
            rejected.append(str(error))
    return None, rejected


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the meta data of a verified checkpoint.

    Raises:
        Damaged: it does not verify.
    """
    verify(folder)
    try:
        return load_file(folder / "state.safetensors"), json.loads((folder / "meta.json").read_bytes())
    except (SafetensorError, ValueError) as error:
        raise Damaged(f"{folder}: {error}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, whatever happens."""
    temp = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        _write_synced(temp, data)
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
