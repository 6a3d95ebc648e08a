"""What a config's `train_*` dicts may hold: the trainings, and the settings of each with ranges.

The only declaration of these: reading a config takes this file, training takes its objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from occdistill.errors import UserError
from occdistill.types import Count, Decay, Positive, Share, Weight, Whole


@dataclass(kw_only=True)
class Settings:
    """How long and how fast to train.

    Attributes:
        iterations: training steps; each runs the task's plan once (for MFD: ten updates of the
            auxiliary and one of the student).
        batch_size: samples of one update over all processes.
        accumulate: parts in which a process takes its samples, one after the other: the same
            update in the memory of a part.
        balance: steps over which samples are exchanged between batches, so that those of a batch
            take equally long and no process waits for another; see `training.exchange`. 1: within a
            batch, the same update; 0: not at all. Only losses that integrate an ODE have such
            samples.
        lr: learning rate, or one per net.
        final_lr: where the rate goes along a cosine until the end; None keeps it constant.
        weight_decay: decoupled, as in AdamW.
        warmup: updates of each net over which its rate rises linearly.
        clip: largest gradient norm; 0 for none.
        ema: decay of the moving average of the main net's weights; 0 for none.
        amp: float16 with loss scaling where there is a GPU.
        loss_scale: where that scaling starts. PyTorch's own start costs a few updates that
            overflow and don't count; OccFM's and MFD's trainings start at 10.
        seed: of weights, order and noise.
        log_interval: steps between two points of the curves.
        checkpoint_interval: steps between two files to resume from.
        val_interval: steps between two validations.
        val_clips: how many clips are validated on.
        keep: how many files to resume from are kept.
        compact: store the final weights in float16, half the size, for shipping.
        hand_over: the weights that the next training gets, the last ones or those that were best
            on validation.
        workers: processes that read data; None: some beside a GPU, none on a CPU.
    """

    iterations: Count
    batch_size: Count
    accumulate: Count = 1
    balance: Whole = 0
    lr: Positive | Mapping[str, Positive] = 1e-4
    final_lr: Weight | None = None
    weight_decay: Weight = 0.0
    warmup: Whole = 100
    clip: Weight = 1.0
    ema: Decay = 0.0
    amp: bool = True
    loss_scale: Positive = 2.0**16
    seed: Whole = 0
    log_interval: Count = 20
    checkpoint_interval: Count = 500
    val_interval: Count = 500
    val_clips: Count = 64
    keep: Count = 2
    compact: bool = False
    hand_over: Literal["last", "best"] = "last"
    workers: Whole | None = None

    def rate(self, net: str) -> float:
        """Learning rate of a net after its warm-up.

        Raises:
            UserError: there are rates by net, and none for this one.
        """
        if not isinstance(self.lr, Mapping):
            return self.lr
        if net not in self.lr:
            raise UserError(f"lr has rates for {', '.join(self.lr)}, but none for the net {net!r}")
        return self.lr[net]


@dataclass(kw_only=True)
class VaeSettings(Settings):
    """Of the autoencoder.

    Attributes:
        kl_weight: of the KL divergence per latent element.
        lovasz_weight: of the Lovász term.
        lovasz_voxels: voxels of a batch on which it is computed; 0 for all.
        class_balance: power of the inverse frequency that classes are weighted with; 0: equal.
    """

    kl_weight: Weight = 1e-3
    lovasz_weight: Weight = 1.0
    lovasz_voxels: Whole = 0
    class_balance: Weight = 0.0


@dataclass(kw_only=True)
class LightSettings(Settings):
    """Of the light decoder and encoder.

    Attributes:
        noise: largest standard deviation of the noise on latents, in standard deviations of them.
        lovasz_weight: of the Lovász term, which sees the truth.
        lovasz_voxels: voxels of a batch on which it is computed; 0 for all.
        latent_weight: of the encoder's squared error.
        feature_weight: of the features' squared error.
        class_balance: as for the autoencoder.
        mirror: whether half the samples are seen in the mirror.
    """

    noise: Weight = 0.3
    lovasz_weight: Weight = 0.5
    lovasz_voxels: Whole = 0
    latent_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    class_balance: Weight = 0.0
    mirror: bool = False


@dataclass(kw_only=True)
class LidarEncoderSettings(Settings):
    """Of the LiDAR encoder.

    Attributes:
        cross_entropy_weight: of the decoded latents' cross-entropy against the labels; 0 for none.
        class_balance: as for the autoencoder.
        plain: share of keyframes that aren't warped to where the ego will be.
    """

    cross_entropy_weight: Weight = 0.0
    class_balance: Weight = 0.0
    plain: Share = 0.25


@dataclass(kw_only=True)
class TeacherSettings(Settings):
    """Of the teacher.

    Attributes:
        condition_dropout: probability of training the null branch of guidance.
        times: law of t, arguments of `TimeLaw`; logit-normal by default.
        moving_weight: of the cells that something on the move may have reached, against 1 for the
            others.
        mirror: whether the clips are also seen in the mirror.
    """

    condition_dropout: Share = 0.2
    times: Mapping[str, Any] | None = None
    moving_weight: Weight = 1.0
    mirror: bool = False


@dataclass(kw_only=True)
class DistillSettings(Settings):
    """Of the student; what its loss is made of belongs to the config's `method`.

    Attributes:
        mirror: whether the clips are also seen in the mirror.
        stop_on_collapse: end the training where validation samples of the student differ in less
            than half as many voxels as the teacher's, and in no more than at the validation before.
    """

    mirror: bool = False
    stop_on_collapse: bool = False


# by the key of a config; `occdistill.training` has a module of each one's name
PARTS: dict[str, type[Settings]] = {
    "train_vae": VaeSettings,
    "train_light": LightSettings,
    "train_lidar_encoder": LidarEncoderSettings,
    "train_teacher": TeacherSettings,
    "train_plan": TeacherSettings,
    "train_distill": DistillSettings,
}
