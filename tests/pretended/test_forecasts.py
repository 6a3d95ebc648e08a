"""Forecasters, streams and rows on a GPU: the CPU's voxels, and stages that nothing waits in."""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from occdistill.autoencoder.light import Light, LightDecoder, LightEncoder, Lightened
from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.autoencoder.vae import VAE
from occdistill.data.occ3d import FREE, Grid
from occdistill.evaluation.confusion import Confusion
from occdistill.evaluation.rows import (
    ClipBatch,
    ceiling_row,
    copy_last_row,
    ego_warp_row,
    forecast_row,
)
from occdistill.evaluation.shared import PastLatents
from occdistill.evaluation.views import VIEWS, look
from occdistill.flow.networks.occfm import OccFMTransition
from occdistill.flow.networks.small import SpaceTimeUNet
from occdistill.latents.codec import Codec
from occdistill.runtime.forecaster import Forecaster
from occdistill.runtime.latency import measure
from occdistill.runtime.stream import RollingForecaster
from tests.runtime.fakes import drive

PAST, FUTURE, BATCH, NFE = 4, 2, 2, 2


def alive(network):
    """With no layer at zero."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def small():
    shape = (16, 16, 8)
    vae = VAE(shape, channels=8, width=(16,), blocks=(1,), decoder_width=16)
    network = SpaceTimeUNet((8, 8, 8), PAST, FUTURE, align=2, trajectory=PAST + FUTURE, width=16)
    grid = Grid(shape, 0.8, (-6.4, -6.4, -1.0))
    return Codec(vae, grid, future=FUTURE, align=(0, 1), carry=True), network


def light():
    codec, network = small()
    sizes = ((8, 8, 8), (16, 16, 8))
    parts = Light(
        LightDecoder(*sizes, width=(16,), blocks=(1,)),
        LightEncoder(*sizes, width=(16,), blocks=(1,)),
    )
    vae = Lightened(codec.vae, parts.decoder, parts.encoder)
    return Codec(vae, codec.grid, future=FUTURE, align=(0, 1), carry=True), network


def occfm():
    shape = (40, 40, 4)
    vae = OccFMVAE(channels=4, grid_shape=shape, width=(32, 32, 32), depths=(2, 2))
    network = OccFMTransition(
        latent_shape=(4, 10, 10), past=PAST, future=FUTURE, history=2,
        trajectory_length=PAST + FUTURE, width=16,
    )  # fmt: skip
    return Codec(vae, Grid(shape, 0.8, (-16.0, -16.0, -1.0)), future=FUTURE), network


def models(make):
    torch.manual_seed(0)
    codec, network = make()
    return codec, alive(network)


def clip(shape):
    generator = torch.Generator().manual_seed(1)
    past = torch.randint(0, 18, (BATCH, PAST, *shape), generator=generator).to(torch.uint8)
    past[..., shape[2] // 2 :] = FREE
    poses = torch.from_numpy(drive(PAST + FUTURE, 0.8)).float().expand(BATCH, -1, -1, -1)
    return past, poses, torch.randn(BATCH, PAST + FUTURE, 2, generator=generator)


def pair(make, backend="eager", **options):
    """The same models on the CPU and on the GPU."""
    yield Forecaster(*models(make), **options)
    yield Forecaster(*models(make), device="cuda", backend=backend, **options)


@cache
def of_the_cpu(make):
    """Noise, and what the CPU forecasts from it."""
    here = Forecaster(*models(make), nfe=NFE, guidance=2.0, backend="plain")
    noise = here.noise(BATCH, torch.Generator().manual_seed(0))
    condition = here.condition(*clip(here.grid.shape))
    return noise, here.decode(here.generate(condition, noise))


@pytest.mark.parametrize(
    ("make", "backend", "dtype"),
    [
        *product([small], ["plain", "eager", "cuda-graphs"], [torch.float32, torch.float16]),
        (light, "eager", torch.float32),
        (occfm, "eager", torch.float32),
        (occfm, "eager", torch.float16),
        (occfm, "cuda-graphs", torch.float32),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_forecast_is_the_cpus_and_nothing_waits_inside_a_stage(gpu, make, backend, dtype):
    """A wait stops the host from running ahead, and a CUDA graph can't be recorded over it."""
    noise, expected = of_the_cpu(make)
    options = dict(nfe=NFE, guidance=2.0, dtype=dtype, backend=backend)
    there = Forecaster(*models(make), device="cuda", **options)
    past, poses, trajectory = clip(there.grid.shape)
    condition = there.condition(past, poses, trajectory)
    found = there.decode(there.generate(condition, there.here(noise)))
    assert found.is_cuda and found.dtype == torch.uint8
    room = 1e-3 if dtype == torch.float32 else 0.02
    assert float((found.cpu() != expected).float().mean()) <= room
    newest, noise = there.here(past[:, -1]), there.here(noise)
    there.encode(newest)  # what is made once is made by now
    with gpu.nothing_waits():
        there.encode(newest)
        again = there.decode(there.generate(condition, noise))
    assert torch.equal(again, found)


def test_noise_of_the_gpus_own_gives_several_futures(gpu):
    (_, there) = pair(small)
    past, poses, _ = clip(there.grid.shape)
    assert there(past, poses, samples=2).shape[:2] == (BATCH, 2)
    assert there.spread(past, poses, samples=2).entropy.is_cuda


def test_a_stream_on_the_gpu_forecasts_the_cpus(gpu):
    futures = []
    past = clip((16, 16, 8))[0][0]
    poses = drive(PAST + FUTURE + 1, 0.8)
    for forecaster in pair(small):
        stream = RollingForecaster(forecaster, PAST)
        stream.warm_up()
        for i, voxels in enumerate(past):
            stream.push(voxels, poses[i])
        future = stream.forecast(poses[PAST:], generator=torch.Generator().manual_seed(0))
        futures.append(future.cpu())
    assert float((futures[0] != futures[1]).float().mean()) <= 1e-3


def test_rows_are_counted_as_on_the_cpu(gpu):
    here, there = pair(small)
    past, poses, trajectory = clip(here.grid.shape)
    item = dict(past=past, future=past[:, :FUTURE].clone(), poses=poses, trajectory=trajectory)
    item["index"] = torch.arange(BATCH)
    for name in ("mask_camera", "mask_lidar"):
        item[name] = (past[:, -FUTURE:] % 2).contiguous()

    def counts(forecaster, device):
        grid, batch = forecaster.grid, ClipBatch.of(item, device, 0)
        rows = [
            forecast_row("student", forecaster, share=PastLatents()),
            copy_last_row(FUTURE),
            ego_warp_row(grid, FUTURE),
            ego_warp_row(grid, FUTURE, extrapolated=True),
            ego_warp_row(grid, FUTURE, carry=True),
            ceiling_row(forecaster.codec),
        ]
        counted = []
        for row in rows:
            pred = row.predict(batch)
            assert pred.device.type == device
            for view in VIEWS:
                confusion = Confusion(FUTURE)
                for b in range(BATCH):
                    confusion.update(*look(view, pred[b], batch.clip(b)))
                counted.append(confusion.counts)
        return np.stack(counted)

    one, other = counts(here, "cpu"), counts(there, "cuda")
    assert one.sum() > 0 and np.abs(one - other).sum() <= 2e-3 * one.sum()


@pytest.mark.parametrize("backend", ["eager", "cuda-graphs"])
def test_a_forecast_is_timed_after_it_was_scored(gpu, backend):
    """Scoring runs in inference mode, timing doesn't."""
    (_, there) = pair(small, backend)
    given = clip(there.grid.shape)
    with torch.inference_mode():
        there(*given[:2], trajectory=given[2])
    times = measure(there, *given, repeats=2, warmup=1)
    assert times["end_to_end"]["p50_ms"] >= times["generate"]["p50_ms"] > 0
