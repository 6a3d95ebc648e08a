"""The one attention: against its formula, and for more sequences than a GPU's kernel takes."""

import torch

from occdistill import attention


def test_attention_is_its_formula_for_any_number_of_sequences(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(7, 2, 5, 4, generator=generator) for _ in range(3))
    bias = torch.randn(1, 2, 5, 5, generator=generator)
    wanted = (q @ k.transpose(-1, -2) / 2 + bias).softmax(-1) @ v
    torch.testing.assert_close(attention.attend(q, k, v, bias), wanted)
    sizes = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def limited(q, *rest, **options):
        sizes.append(len(q))
        return fused(q, *rest, **options)

    monkeypatch.setattr(attention, "MOST_SEQUENCES", 3)
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", limited)
    torch.testing.assert_close(attention.attend(q, k, v, bias), wanted)
    assert sizes == [3, 3, 1]
