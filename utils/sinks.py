"""Where else the rows of `progress.txt` go: TensorBoard and Weights & Biases. Both are optional and imported here only.

A sink has `row`, `film` and `close`; the columns stand in groups: `rollout/ eval/ train/ time/`.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from utils.columns import STEPS, group
from utils.video import to_gif


class Sink(Protocol):
    """Takes each row of `progress.txt`."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row."""

    def film(self, path: Path, steps: int) -> None:
        """Take a video file of the policy after so many steps."""

    def close(self) -> None:
        """Finish."""


class TensorBoard:
    """Event files in the run's `tensorboard/`, with the settings as a table under Text."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], steps: int) -> None:
        """Args: folder: the run's. settings: what it is run with. steps: it goes on from there: later rows go."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=steps + 1)
        rows = [f"| {name} | `{json.dumps(value)}` |" for name, value in settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        for name, value in grouped(row).items():
            self._writer.add_scalar(name, value, row[STEPS])
        self._writer.flush()

    def film(self, path: Path, steps: int) -> None:
        """Show it under Images, as a GIF: TensorBoard shows no video files."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        gif, width, height = to_gif(path)
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="rollout/video", image=image)]), steps)
        self._writer.flush()

    def close(self) -> None:
        """Finish."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases in the run's `wandb/`; offline, `wandb sync` sends it later."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], mode: str) -> None:
        """Args: folder: the run's. settings: what it is run with. mode: offline or online."""
        import wandb

        self._wandb, place = wandb, folder / "wandb" / "id"
        if not place.exists():  # a name of its own, whatever other folders are called
            place.parent.mkdir(exist_ok=True)
            place.write_text(f"{folder.name}-{secrets.token_hex(4)}")
        self._run = wandb.init(
            dir=str(folder),
            mode=mode,
            project=folder.parent.name,
            name=folder.name,
            id=place.read_text(),
            resume="allow",
            config=dict(settings),
        )

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a row."""
        self._run.log(grouped(row), step=row[STEPS])

    def film(self, path: Path, steps: int) -> None:
        """Take a video."""
        self._run.log({"rollout/video": self._wandb.Video(str(path), format=path.suffix[1:])}, step=steps)

    def close(self) -> None:
        """Finish."""
        self._run.finish()


def grouped(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row under their groups' names."""
    finite = {n: v for n, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
    return {f"{group(name)}/{name}": value for name, value in finite.items()}
