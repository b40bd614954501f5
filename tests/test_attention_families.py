"""ViT, PVT, Swin and HRFormer: sizes, masks and rates, beside what test_parity.py compares."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from pose_nb.backbones import hrformer, pvt, swin, vitpose
from pose_nb.files import InputError

SMALL = {
    "vit": lambda size: vitpose.ViT(24, 1, 3, size),
    "pvt": lambda size: pvt.PVT((16, 32), (1, 1), (1, 2), (2, 1), (2, 2), side=16),
    "swin": lambda size: swin.Swin(24, (2, 2), (2, 4)),
    "hrformer": lambda size: hrformer.HRFormer(8, 1, modules=(1, 1, 1), blocks=1),
}
STRIDES = {"vit": 16, "pvt": 8, "swin": 8, "hrformer": 4}


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_pictures_of_other_sizes(family, size):
    torch.manual_seed(0)
    network = SMALL[family](size).eval()
    with torch.no_grad():
        maps = network(torch.randn(2, 3, size[1], size[0]))[-1]
    stride = STRIDES[family]
    assert maps.shape == (2, network.channels[-1], size[1] // stride, size[0] // stride)
    assert maps.isfinite().all()


def test_wrong_sizes_are_named():
    with pytest.raises(InputError, match="64, 96.*192, 256"):
        vitpose.ViT(24, 1, 3)(torch.zeros(1, 3, 96, 64))
    with pytest.raises(InputError, match="200"):
        vitpose.vit_small((200, 256))
    with pytest.raises(InputError, match="100×64.*HRFormer.*32"):
        SMALL["hrformer"](None)(torch.zeros(1, 3, 64, 100))
    for entries in (193, 197):
        with pytest.raises(InputError, match=f"{entries}.*class token"):
            vitpose.resize_pos_embed(torch.zeros(1, entries, 6), (12, 16))
    with pytest.raises(InputError, match="180 entries"):
        vitpose.resize_pos_embed(torch.zeros(1, 180, 6), (12, 16))


PUBLISHED_RATES = {  # blocks one after the other, drop path of the last
    vitpose.vit_small: (12, 0.1),
    vitpose.vit_base: (12, 0.3),
    vitpose.vit_huge: (32, 0.55),
    pvt.pvt_small: (16, 0.1),
    swin.swin_tiny: (12, 0.2),
    swin.swin_base: (24, 0.3),
    swin.swin_large: (24, 0.5),
    hrformer.hrformer_small: (14, 0.1),
    hrformer.hrformer_base: (14, 0.2),
}


@pytest.mark.parametrize("build", PUBLISHED_RATES, ids=lambda build: build.__name__)
def test_drop_path_rises_to_the_published_rate(build):
    depth, last = PUBLISHED_RATES[build]
    with torch.device("meta"):
        network = build()
    rates = {round(m.drop_prob, 9) for m in network.modules() if isinstance(m, DropPath)}
    rates.add(0.0)  # timm's first block has an identity
    assert rates == {round(last * i / (depth - 1), 9) for i in range(depth)}


def test_a_window_knows_nothing_of_the_others():
    torch.manual_seed(0)
    attention = swin.WindowAttention(8, heads=2, size=2)
    nn.init.normal_(attention.relative_position_bias_table)
    tokens, mask = torch.randn(3, 5, 4, 8), torch.randn(5, 4, 4)
    changed = tokens.clone()
    changed[1, 2] = 0
    with torch.no_grad():
        for given in (None, mask):
            same = (attention(tokens, given) == attention(changed, given)).all((2, 3))
            assert (~same).nonzero().tolist() == [[1, 2]]


def test_the_index_table_is_part_of_the_files():
    index = torch.tensor(
        [[(i // 7 - j // 7 + 6) * 13 + i % 7 - j % 7 + 6 for j in range(49)] for i in range(49)]
    )
    for family in ("swin", "hrformer"):
        state = SMALL[family](None).state_dict()
        tables = [v for k, v in state.items() if k.endswith("relative_position_index")]
        assert tables and all(torch.equal(table, index) for table in tables)


def test_the_kept_mask_serves_what_comes_next():
    torch.manual_seed(0)
    network = SMALL["swin"](None).eval()
    first, other = torch.randn(1, 3, 64, 96), torch.randn(2, 3, 96, 32)
    with torch.inference_mode():
        result = network(first)[0]
        network(other)  # another size in between
    fresh = SMALL["swin"](None).eval()
    fresh.load_state_dict(network.state_dict())
    again = network(first)[0]
    assert torch.allclose(again, result, atol=1e-5)
    assert torch.allclose(fresh(first)[0], result, atol=1e-5)
    again.sum().backward()  # a mask made in inference mode would not do
    exact = network.double()(first.double())[0]
    assert exact.dtype == torch.float64 and torch.allclose(exact.float(), result, atol=1e-5)


def test_a_compiler_takes_a_shifted_block():
    torch.manual_seed(0)
    block, maps = swin.SwinBlock(8, 2, shift=3).eval(), torch.randn(1, 10, 9, 8)
    expected = block(maps)
    exported = torch.export.export(block, (maps,)).module()
    assert torch.allclose(exported(maps), expected, atol=1e-6)
