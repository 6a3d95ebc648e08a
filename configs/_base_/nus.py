"""nuScenes with Occ3D labels, and OccFM's full-size networks.

Windows are OccFM's: twelve keyframes, of which the networks see the third to sixth (`history=4`).
"""

from occdistill.autoencoder.light import LightDecoder, LightEncoder
from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.flow.networks.occfm import OccFMTransition

data = dict(
    dataroot="data/nuscenes", version="v1.0-trainval", train_split="train", val_split="val",
    past=6, future=6,
)  # fmt: skip
vae = dict(type=OccFMVAE, channels=16)
# 54 GFLOP for six decoded frames instead of 393, and 7 to encode one instead of 227
light_decoder = dict(type=LightDecoder, width=(96, 256), blocks=(1, 4))
light_encoder = dict(type=LightEncoder, width=(64, 256), blocks=(1, 4))
# 12 entries of the trajectory: past and future
network = dict(type=OccFMTransition, latent_shape=(16, 50, 50), trajectory_length=12, history=4)
# 40 GFLOP an evaluation instead of 287
light_network = dict(
    type=OccFMTransition, latent_shape=(16, 50, 50), trajectory_length=12, history=4, width=24,
    fine_pixels=False,
)  # fmt: skip
conditioning = dict(kind="gt")
guidance = 2.0
sampler = dict(steps=10, shift=3.0)
advice = dict(
    data="put nuScenes (v1.0-trainval/) and Occ3D's gts/ there, see data/README.md; "
    "`python tools/doctor.py data/nuscenes` says what is missing",
    vae="download OccFM's world model and run "
    "`python tools/import_occfm.py weights FILE.ckpt --variant occfm_fut`",
    teacher="download OccFM's world model and run "
    "`python tools/import_occfm.py weights FILE.ckpt --variant occfm_fut`",
)
