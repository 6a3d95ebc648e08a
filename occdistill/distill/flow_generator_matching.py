"""Flow generator matching (FGM, arXiv 2410.19310): the exact gradient of a velocity divergence.

Minimises `E || v_T - v_student ||²` over re-noised student samples, v_student the velocity field of
the student's own samples, which the auxiliary v_A learns. With `d = v_T(x_t, t) - v_A(x_t, t)` and
`w = x̂ - e`,

    L = E[ || d ||² + 2 d · (v_A - w) ],   nothing detached, the auxiliary's weights held still

The first term alone is blind to a wrong mean; the second is how the auxiliary would follow the
student. It is `SiD` with alpha = 1/2 and no weight: `2 E[ d · (v_T - w) - ½ ||d||² ]`.

Cost: that of `SiD`.
"""

from __future__ import annotations

from typing import ClassVar

from occdistill.distill.sid import SiD


class FlowGeneratorMatching(SiD):
    """The loss above, in the form of `SiD`.

    Args:
        **kwargs: see `DistributionMatching`; ratio defaults to 1.
    """

    fixed: ClassVar = {"alpha": 0.5, "weight": "velocity"}

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **self.fixed, **kwargs)
