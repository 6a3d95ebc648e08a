"""One place from above: fans of plans from four planners, and the occupancy that follows from each.

All share the ego car's past, the noise and the student of occupancy that is given a plan; only who
draws the plans differs. The place is where the teacher's ten steps are most open: where the entropy
of braking, left, straight on and right is greatest, and no plan leaves the picture.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from occdistill import places
from occdistill.build.builders import build_transform
from occdistill.build.pretrained import checkpoint_config, checkpoint_path, planner, pretrained
from occdistill.build.showing import ShownClip, from_packets
from occdistill.data.occ3d import CLASS_NAMES, FREE, Grid
from occdistill.data.plans import places as places_of
from occdistill.data.plans import steps_between
from occdistill.data.poses import invert
from occdistill.data.resample import warp
from occdistill.distill.base import frozen
from occdistill.evaluation.measures.plans import MODES, mode_shares
from occdistill.evaluation.unseen import outside
from occdistill.runtime.planner import Planner
from occdistill.runtime.sources import synthetic
from occdistill.seeds import torch_generator
from occdistill.studies.plans.runs import distil, make_method
from occdistill.studies.plans.windows import Plans
from occdistill.studies.result import Result, canvas
from occdistill.visualization.bev import picture

WEAKEST = "LADD"  # by energy score in Table 1 on plans, docs/plans.md
RATE = 3e-4  # what the search of that table chose for it
GROUND = tuple(map(CLASS_NAMES.index, ("driveable_surface", "other_flat", "sidewalk", "terrain")))


def study(quick: bool = False, seed: int = 0) -> Result:
    """Draw it.

    Args:
        quick: fewer streets, plans and updates, for tests.
        seed: of the streets, the noise and the weakest rival.
    """
    streets, count, towns, updates = (1, 2, 1, 2) if quick else (8, 16, 2, 300)
    forecaster = pretrained("demo")
    grid, past = forecaster.grid, forecaster.past
    planners = _planners(towns, updates, seed)
    noise = torch.randn(
        count, *planners["teacher, 10 steps"].shape, generator=torch_generator(seed)
    )
    clip = _most_open(planners["teacher, 10 steps"], noise, streets, past, grid.upper[0], seed)
    poses = clip.poses[None, :past].repeat(count, 1, 1, 1)
    last = steps_between(poses)[:1, -1, :2].norm(dim=-1)
    figure, axes = canvas(len(planners), 2)
    y, x = grid.upper[1], grid.upper[0]
    extent = (-y, y, grid.origin[0], x)
    values: dict[str, dict[str, float]] = {}
    for column, (name, one) in zip(axes.T, planners.items()):
        ways = one(poses, noise)
        voxels = clip.past[None].expand(count, -1, -1, -1, -1)
        futures = forecaster(voxels, poses, ways, generator=torch_generator(seed, 1))
        share = occupancy(futures[:, -1], ways[:, -1], grid)
        fan = _places(ways)
        column[0].imshow(picture(clip.past[-1].numpy(), grid, (400, 400)), extent=extent)
        column[0].plot(-fan[..., 1].T, fan[..., 0].T, color="w", linewidth=1.1, alpha=0.8)
        true = _places(clip.poses[None, past:])[0]
        column[0].plot(-true[:, 1], true[:, 0], color="k", linewidth=2)
        column[0].set_title(name, fontsize=9)
        shown = column[1].imshow(share[::-1, ::-1], extent=extent, cmap="magma", vmin=0, vmax=1)
        for axis in column:
            axis.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], facecolor="0.6")
        shares = dict(zip(MODES, mode_shares(fan[None], last)[0].tolist()))
        doubt = float(((share > 0.1) & (share < 0.9)).sum() / np.isfinite(share).sum())
        values[name] = {**shares, "doubtful": doubt}
    figure.colorbar(shown, ax=axes.ravel().tolist(), fraction=0.015, label="filled at 3 s")
    told = "; ".join(
        f"{name}: {', '.join(f'{m} {100 * found[m]:.0f} %' for m in MODES)}, "
        f"{100 * found['doubtful']:.0f} % of the columns in doubt"
        for name, found in values.items()
    )
    caption = (
        f"{clip.name}: {count} plans each (black: what was driven), and the share of the {count} "
        "futures after them that fill a column above the ground 3 s ahead, seen from where the car "
        f"is now; grey: no future's grid reaches there; in doubt: between 10 and 90 %. {told}."
    )
    settings = dict(seed=seed, streets=streets, plans=count, towns=towns, updates=updates)
    return Result("A junction, and what follows from its plans", caption, figure, values, settings)


def _planners(towns: int, updates: int, seed: int) -> dict[str, Planner]:
    """The shipped ones, and the weakest rival, distilled from the same teacher as in the table."""
    teacher = planner(places.WEIGHTS / "plan.pth")
    field = frozen(teacher.field)
    torch.manual_seed(seed)
    data = Plans.of_world("train", towns, seed)
    rival = distil(make_method(WEAKEST, field), data, field, updates, RATE, seed)
    return {
        "teacher, 10 steps": teacher,
        "teacher, 1 step": Planner(field, 1),
        "MFD, 1 step": planner(places.WEIGHTS / "plan_student.pth"),
        f"{WEAKEST}, 1 step": Planner(rival, 1),
    }


def _most_open(
    teacher: Planner, noise: Tensor, streets: int, past: int, reach: float, seed: int
) -> ShownClip:
    """Of the windows of some drives whose plans go less than `reach` metres, the most open one; only
    its own frames are scanned.
    """
    config = checkpoint_config(checkpoint_path("demo"))
    frames = list(synthetic(build_transform(config), seed, scenes=streets))
    future, best, most = noise.shape[1], 0, -1.0
    poses = np.stack([frame.ego_to_global for frame in frames])
    times = np.array([frame.time for frame in frames])
    for start in range(len(frames) - past - future + 1):
        window = slice(start, start + past + future)
        if np.ptp(times[window]) > 0.5 * (past + future):  # from one drive into the next
            continue
        known = torch.from_numpy(invert(poses[start + past - 1]) @ poses[start : start + past])
        known = known.float()[None].repeat(len(noise), 1, 1, 1)
        last = steps_between(known)[:1, -1, :2].norm(dim=-1)
        fan = _places(teacher(known, noise))
        if fan[..., :2].norm(dim=-1).max() > reach:
            continue
        entropy = float(torch.special.entr(mode_shares(fan[None], last)).sum())
        if entropy > most:
            best, most = start, entropy
    window = frames[best : best + past + future]
    return from_packets(window, past)


def _places(ways: Tensor) -> Tensor:
    """Places `(K, F, 3)` of poses `(K, F, 4, 4)` to the newest past frame."""
    now = torch.eye(4).to(ways).expand(len(ways), 1, 4, 4)
    return places_of(steps_between(torch.cat([now, ways], 1)))


def occupancy(futures: Tensor, ways: Tensor, grid: Grid) -> np.ndarray:
    """The share of futures that fill a column above the ground, seen from the newest past frame.

    Args:
        futures: class ids uint8 `(K, X, Y, Z)`, each in its own ego frame.
        ways: these frames to the newest past one, `(K, 4, 4)`.
        grid: of all.

    Returns:
        `(X, Y)`, of the futures whose grid reaches there; NaN where none does.
    """
    from_newest = invert(ways.double())
    seen = warp(futures, from_newest, grid)
    reached = ~outside(from_newest, grid).all(-1)
    filled = (seen != FREE) & ~torch.isin(seen, torch.tensor(GROUND, dtype=seen.dtype))
    count = reached.sum(0).numpy()
    share = (filled.any(-1) & reached).sum(0).numpy()
    return np.divide(share, count, out=np.full(count.shape, np.nan), where=count > 0)
