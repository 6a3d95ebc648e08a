"""A checkpoint file laid out as OccFM's training lays it out."""

from pathlib import Path

import torch

from occdistill.autoencoder.occfm import averaged_relative_index
from occdistill.occfm.mapping import to_published


def published_file(path: Path, *networks: torch.nn.Module, averaged: bool = True) -> Path:
    """Write a checkpoint as OccFM's training does.

    The averaged set differs from the plain one by 1 in every learned tensor, and has the altered
    index table.
    """
    plain = to_published(*networks)
    ema = {
        f"module.{key}": averaged_relative_index()
        if key.endswith("relative_position_index")
        else value + 1
        if value.is_floating_point() and not key.endswith(("embed", "embedding", "mask", "table"))
        else value
        for key, value in plain.items()
    }
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(
        {
            "state_dict": {f"module.{key}": value for key, value in plain.items()},
            "ema_model": {"n_averaged": torch.tensor(5), **ema} if averaged else None,
            "optimizer_states": [optimizer.state_dict()],
            "epoch": 199,
            "scaler_state_dict": {"scale": 10.0, "growth_factor": 2.0, "_growth_tracker": 3},
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda _: 1.0
            ).state_dict(),
        },
        path,
    )
    return path
