"""The mean-flow distance `E || u_A - u_T ||²` while a student is trained (MFD, Fig. 7)."""

from __future__ import annotations

import torch

from occdistill.distill.mfd import MFD
from occdistill.seeds import number, torch_generator
from occdistill.studies import toy
from occdistill.studies.result import Result, canvas


def curve(guidance: float, updates: int, ratio: int, quick: bool, seed: int) -> list[float]:
    """The distance at each student update, the first one before the auxiliary has learned."""
    torch.manual_seed(number(seed))
    method = MFD(toy.teacher(quick), toy.SHAPE, guidance=guidance, ratio=ratio)
    first = toy.make_batch(256, torch_generator(seed, toy.LOSSES))
    with torch.no_grad():
        distances = [float(method.losses("student", first, 0).logs["gap"])]

    def observe(name: str, logs: dict[str, float]) -> None:
        if name == "student":
            distances.append(logs["gap"])

    toy.fit(method, updates, lr=toy.LEARNING_RATES, seed=seed, observe=observe)
    return distances


def study(quick: bool = False, seed: int = 0) -> Result:
    """Curves without and with guidance."""
    updates, ratio = (6, 2) if quick else (500, 10)
    curves = {
        f"guidance {guidance:g}": curve(guidance, updates, ratio, quick, seed)
        for guidance in (1.0, 2.0)
    }
    figure, axis = canvas()
    smooth = {name: _smoothed(line) for name, line in curves.items()}
    for name, line in smooth.items():
        axis.semilogy(line, label=name)
    axis.set_ylim(bottom=0.01)
    axis.set_xlabel("student updates")
    axis.set_ylabel("E || u_A - u_T ||²")
    axis.legend()
    plain, guided = curves.values()
    end = max(1, updates // 10)
    last = {name: sum(line[-end:]) / end for name, line in curves.items()}
    caption = (
        f"Without guidance the distance is {plain[0]:.2g} before the auxiliary has learned (it is "
        f"the teacher itself), rises to {max(plain):.2f} at update {plain.index(max(plain))}, and "
        f"falls to {last['guidance 1']:.3f}: the three phases of the paper. With guidance 2 it "
        f"starts at {guided[0]:.2f}, since teacher and auxiliary then differ from the first update, "
        f"and ends at {last['guidance 2']:.3f}: a floor that no student can pass under, because a "
        "guided velocity is the flow of no data law. The distance does not measure quality alone."
    )
    settings = {"updates": updates, "ratio": ratio, "seed": seed}
    return Result("Mean-flow distance (Fig. 7)", caption, figure, {"curves": curves}, settings)


def _smoothed(line: list[float], decay: float = 0.9) -> list[float]:
    """Exponential average of what follows the first value, for the picture."""
    result = line[:2]
    for value in line[2:]:
        result.append(decay * result[-1] + (1 - decay) * value)
    return result
