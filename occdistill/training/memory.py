"""What a training that needs more memory than there is can do, best first."""

from __future__ import annotations

from mmengine.config import Config

from occdistill.build.schema import arguments, resolve
from occdistill.build.settings import Settings

_NETWORKS = {"vae": "vae", "teacher": "network", "distill": "network"}  # that learn, by part


def less_memory(
    config: Config, part: str, settings: Settings, whole_batch: bool, processes: int = 1
) -> str:
    """The sentence for a training that ran out of memory.

    Args:
        config: of the training.
        part: what is trained.
        settings: of the part.
        whole_batch: see `Task`: its batch can't be taken in parts.
        processes: that share a batch.
    """
    key, share, ways = f"train_{part}", settings.batch_size // processes, []
    more = [n for n in range(settings.accumulate + 1, share + 1) if share % n == 0]
    if more and not whole_batch:
        ways.append(
            f"{key}.accumulate={more[0]}, which takes the batch in {more[0]} parts and makes the"
            " same update"
        )
    name = _NETWORKS.get(part)
    if part == "distill" and config.get("student_network") == "light":
        name = "light_network"
    given = config.get(name) or {} if name else {}
    if given and "recompute" in arguments(resolve(given["type"])) and not given.get("recompute"):
        ways.append(f"{name}.recompute=True, which stores less and computes it again")
    if not settings.amp:
        ways.append(f"{key}.amp=True, half precision on a GPU")
    if share > 1 and (whole_batch or not more):
        ways.append(f"a smaller {key}.batch_size, which is another training")
    ways.append("a GPU with more memory, or more of them")
    return (
        f"there is too little memory for this training: with --cfg-options, in this order, try"
        f" {'; '.join(ways)}; --resume goes on from its last checkpoint"
    )
