import pytest
import torch
from torch.nn import functional as F

from occdistill.runtime.roofline import ceiling, work_of


def test_a_matrix_product_reads_two_and_writes_one():
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    work = work_of(lambda: a @ b)
    assert work.flops == 2 * 10 * 20 * 30
    assert work.bytes == 4 * (200 + 600 + 300)


def test_a_convolution_counts_every_tap():
    x, w = torch.ones(2, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert work_of(lambda: F.conv2d(x, w, padding=1)).flops == 2 * 2 * 64 * 5 * 27


def test_attention_is_two_products_per_head():
    q, k, v = (torch.ones(2, 4, 32, 16) for _ in range(3))
    work = work_of(lambda: F.scaled_dot_product_attention(q, k, v))
    assert work.flops == 2 * 4 * (2 * 32 * 32 * 16) * 2


def test_views_are_free_and_an_expanded_tensor_is_read_once():
    x = torch.ones(100)
    assert work_of(lambda: x.view(10, 10).t()[2:]).bytes == 0
    assert work_of(lambda: x.expand(50, 100) + 1).bytes == 4 * (100 + 50 * 100)
    assert work_of(lambda: x.add_(1)).bytes == 4 * 200


def test_copying_counts_both_ways():
    x = torch.ones(1000, dtype=torch.uint8)
    assert work_of(lambda: x.clone()).bytes == 2000


@pytest.mark.slow
def test_no_product_is_faster_than_the_ceiling():
    import time

    measured = ceiling(seconds=0.5)
    a = torch.randn(512, 512)
    start = time.perf_counter()
    a @ a
    assert 2e-9 * 512**3 / (time.perf_counter() - start) < 1.5 * measured.gflops
    assert 0.1 < measured.gbytes_per_s < 1e5
