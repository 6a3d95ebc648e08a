"""Whatever a live packet or a checkpoint holds, there is a result or a reason, never anything else."""

import zipfile

import numpy as np
import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from occdistill import checkpoint as ckpt
from occdistill.errors import UserError
from occdistill.runtime.live import LiveRunner, Queue
from occdistill.runtime.sources import Packet
from tests.faults.test_live_frames import POSES, VOXELS, frame, live

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,  # the same ones every time
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.complex_numbers(),
)  # fmt: skip
NESTED = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3)
)
DTYPES = arrays.scalar_dtypes()
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(max_dims=4, max_side=5))
MATRICES = arrays.arrays(np.float64, (4, 4), elements=st.floats(allow_nan=True))
TENSORS = arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.int64, np.bool_]), arrays.array_shapes(max_side=4)
).map(torch.from_numpy)
ANYTHING = st.one_of(NESTED, ARRAYS, MATRICES, TENSORS)


def or_right(value):
    return st.one_of(st.just(value), ANYTHING)


PACKETS = st.one_of(
    ANYTHING,
    st.builds(
        Packet, or_right(VOXELS) | ANYTHING.map(lambda x: lambda: x), or_right(POSES[5]),
        st.one_of(st.floats(), ANYTHING), or_right(POSES[15:46:10]), or_right("a"),
        or_right(np.eye(4)),
    ),
)  # fmt: skip


@QUICK
@given(st.lists(PACKETS, max_size=6))
def test_any_packets_among_good_ones(packets):
    heard = []
    good = live(iter(()), past=1)
    runner = LiveRunner(
        good.rolling, Queue(100, good.queue.clock), listener=lambda p, f: heard.append(f)
    )
    for i, packet in enumerate([frame(0), *packets, frame(60)]):
        runner.queue.put(packet, float(i))
    runner.queue.close()
    counts = runner.run()["frames"]
    assert counts["bad"] + counts["filling"] + counts["forecasts"] == 2 + len(packets)
    assert counts["forecasts"] == len(heard) >= 1
    assert all(int(f.max()) < 18 and f.dtype == torch.uint8 for f in heard)
    assert all(np.isfinite(f.time) for f in runner.rolling.frames)


def outcome(path):
    try:
        state = ckpt.load(path)
    except UserError as error:
        assert 10 < len(str(error)) < 3000 and "\n" not in str(error)
        return None
    assert all(torch.isfinite(value).all() for value in ckpt.weights(state).values())
    return state


@QUICK
@given(st.data())
def test_any_change_of_a_file_of_weights(tmp_path, data):
    path, weights = tmp_path / "a.pth", torch.arange(200.0)
    ckpt.save(path, {"kind": "vae", "model": {"w": weights}, "meta": {"step": 1}})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        else:
            content[place : place + data.draw(st.integers(0, 200))] = data.draw(
                st.binary(max_size=20)
            )
        content = content or bytearray(b"x")
    path.write_bytes(content)
    state = outcome(path)  # the padding and the times in a zip say nothing: they may change
    assert state is None or torch.equal(state["model"]["w"], weights)


FIELDS = st.dictionaries(
    st.sampled_from(["kind", "model", "ema", "fingerprints", "meta", "training", "other"]),
    st.one_of(NESTED, TENSORS, st.dictionaries(st.text(max_size=3), TENSORS, max_size=3)),
)


@QUICK
@given(FIELDS | NESTED | TENSORS)
def test_any_content_of_a_file_of_weights(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    outcome(tmp_path / "a.pth")


@QUICK
@given(st.binary(max_size=300))
def test_any_bytes_for_the_list_of_tensors(tmp_path, pickled):
    path = tmp_path / "a.pth"
    torch.save({"kind": "vae", "model": {"w": torch.ones(3)}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else old)
    assert outcome(path) is None
