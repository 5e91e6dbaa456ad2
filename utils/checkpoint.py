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

from utils.files import exchange, read_file, remove, sync_folder, write_synced

FILES = ("state.safetensors", "meta.json")
META_BYTES = 1 << 24  # numbers and texts; anything larger is not a file of ours


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
        raise OSError(f"checkpoint needs {need >> 10:,} KiB free in {root}, there are {free >> 10:,}")
    try:
        temp.mkdir()
        for name, data in payload.items():
            write_synced(temp / name, data)
        manifest = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in payload.items()
        }
        write_synced(temp / "MANIFEST.json", json.dumps({"version": 1, "step": step, "files": manifest}).encode())
        sync_folder(temp)
        if final.exists() and not exchange(temp, final):  # a resumed run reaches the same step again
            remove(final)
        if temp.exists() and not final.exists():
            temp.rename(final)
        sync_folder(root)
    finally:
        remove(temp)
    _retain(root, final, keep)
    return final


def _retain(root: Path, final: Path, keep: int) -> None:
    """Keep `final`, just written, and the newest others that verify; set aside what is damaged among them."""
    others = [folder for folder in sorted(root.glob("step_*"), reverse=True) if folder != final]
    kept = 1
    for folder in others if len(others) >= keep else []:
        if kept < keep:
            try:
                verify(folder)
                kept += 1
            except Damaged:
                set_aside(folder)
        else:
            remove(folder)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it neither counts nor is found any more; return its new place."""
    aside = folder.with_name(f"damaged-{folder.name}")
    while aside.exists() or aside.is_symlink():
        aside = aside.with_name(aside.name + "+")
    return folder.rename(aside)


def clean_temporary(root: Path) -> None:
    """Remove what interrupted savings left."""
    for leftover in root.glob(".tmp-*"):
        remove(leftover)


def verify(folder: Path) -> None:
    """Check a checkpoint against its manifest.

    Raises:
        Damaged: the manifest is missing or unreadable, or a file is missing, cut or changed.
    """
    try:
        manifest = json.loads(read_file(folder / "MANIFEST.json", META_BYTES))
        entries = {
            name: (int(manifest["files"][name]["bytes"]), str(manifest["files"][name]["sha256"])) for name in FILES
        }
        named = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise Damaged(f"{folder / 'MANIFEST.json'}: missing or unreadable ({error})") from None
    if folder.name != f"step_{named:010d}":
        raise Damaged(f"{folder / 'MANIFEST.json'}: belongs to step {named}")
    for name, (size, digest) in entries.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
            raise Damaged(f"{path}: missing or not {size} bytes long")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise Damaged(f"{path}: its SHA-256 is not the manifest's")


Loaded = tuple[dict[str, torch.Tensor], dict[str, Any]]


def load_newest(root: Path, limit: int | None = None) -> tuple[Path | None, Loaded | None, list[tuple[Path, str]]]:
    """Return the newest checkpoint that verifies and can be read, what is in it, and the newer ones with their faults.

    Args:
        root: the run's `checkpoints` folder.
        limit: bytes of tensors that this run's checkpoints can have at most.
    """
    rejected: list[tuple[Path, str]] = []
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            return folder, load_checkpoint(folder, limit), rejected
        except Damaged as error:
            rejected.append((folder, str(error)))
    return None, None, rejected


def load_checkpoint(folder: Path, limit: int | None = None) -> Loaded:
    """Return the tensors and the meta data of a verified checkpoint.

    Raises:
        Damaged: it does not verify, cannot be read, or has more than `limit` bytes of tensors.
    """
    verify(folder)
    size = (folder / "state.safetensors").stat().st_size
    if limit is not None and size > limit:
        raise Damaged(f"{folder / 'state.safetensors'}: {size} bytes, this run's have at most {limit}")
    meta = read_meta(folder)
    try:
        return load_file(folder / "state.safetensors"), meta
    except (SafetensorError, ValueError, OSError, RuntimeError, TypeError, OverflowError, KeyError) as error:
        raise Damaged(f"{folder / 'state.safetensors'}: {error}") from None


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the numbers and texts of a checkpoint. Raises Damaged."""
    try:
        meta = json.loads(read_file(folder / "meta.json", META_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{folder / 'meta.json'}: {error}") from None
    if not isinstance(meta, dict):
        raise Damaged(f"{folder / 'meta.json'}: not a JSON object")
    return meta
