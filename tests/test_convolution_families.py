"""AlexNet, CPM, hourglass, HRNet, Lite-HRNet, MSPN, RSN: what they share with their relatives."""

import zlib

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision

from pose_nb.backbones import alexnet, cpm, hourglass, hrnet, litehrnet, mspn, rsn
from pose_nb.files import InputError
from pose_nb.tables import networks


def value(name, shape, gain):
    """Deterministic value of a state_dict entry, from its published name."""
    rng, last = np.random.default_rng(zlib.crc32(name.encode())), name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros((), dtype=torch.long)
    if last == "running_mean":
        x = rng.standard_normal(shape) * 0.1
    elif last == "running_var":
        x = rng.uniform(0.7, 1.3, shape)
    elif last == "bias":
        x = rng.standard_normal(shape) * 0.05
    elif len(shape) == 1:
        x = rng.uniform(0.6, 1, shape)
    else:
        x = rng.standard_normal(shape) * (gain * np.sqrt(2 / np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(x, np.float32))


def filled(network, gain):
    network.load_state_dict(
        {k: value(k, tuple(v.shape), gain) for k, v in network.state_dict().items()}, assign=True
    )
    return network.eval()


def test_alexnet_is_torchvisions():
    theirs = torchvision.models.alexnet(weights=None).eval()
    ours = alexnet.alexnet().eval()
    ours.load_state_dict(theirs.features.state_dict(prefix="features."))
    images = torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        assert torch.equal(ours(images)[0], theirs.features(images))


@pytest.mark.parametrize("variant", ("hrnet_w32", "hrnet_w48", "hrnetv2_w18"))
def test_hrnet_has_timms_names(variant):
    name = getattr(networks, variant)().imagenet.name
    assert timm.list_pretrained(name) == [name]
    with torch.device("meta"):
        theirs, ours = timm.create_model(name).state_dict(), getattr(hrnet, variant)().state_dict()
    assert all(theirs[k].shape == v.shape for k, v in ours.items())


def test_hrnet_is_timms():
    with torch.device("meta"):
        theirs, ours = timm.create_model("hrnet_w18"), hrnet.HRNet(18, outputs=4)
    theirs, ours = filled(theirs, 0.65), filled(ours, 0.65)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = F.relu(theirs.bn2(theirs.conv2(F.relu(theirs.bn1(theirs.conv1(images))))))
        for a, b in zip(ours(images), theirs.stages(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branches", (2, 3, 4))
def test_litehrnet_sums_as_its_weights_were_trained(branches):
    """Against a literal version with in-place additions; the arguments stay what they were."""
    torch.manual_seed(0)
    unit = litehrnet.LiteUnit([40 * 2**i for i in range(branches)]).double().eval()
    maps = [
        torch.randn(2, 40 * 2**i, 32 // 2**i, 24 // 2**i, dtype=torch.float64)
        for i in range(branches)
    ]
    before = [m.clone() for m in maps]
    with torch.no_grad():
        found, inside, expected = unit(maps), unit.layers(maps), []
        for i, row in enumerate(unit.fuse_layers):
            y = inside[0] if i == 0 else row[0](inside[0])
            for j in range(branches):
                y += inside[j] if i == j else row[j](inside[j])
            expected.append(y)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.relu(), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(maps, before))


def test_mspn_starts_from_one_resnet():
    torch.manual_seed(0)
    resnet, network = torchvision.models.resnet50(weights=None).eval(), mspn.mspn50(1).eval()
    answer = network.load_state_dict(mspn.from_resnet50(resnet.state_dict()), strict=False)
    assert (
        not answer.unexpected_keys
        and answer.missing_keys
        and all(".upsample." in k for k in answer.missing_keys)
    )
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = [
            x := layer(x) for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)
        ]
        found = network.multi_stage_mspn[0].downsample(network.top(images), None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with torch.device("meta"):
        four = mspn.mspn50(4)
    names = mspn.from_resnet50(resnet.state_dict(), 4)
    assert {k for k in four.state_dict() if ".upsample." not in k} == set(names)
    assert torchvision.models.get_weight(networks.mspn50_4().imagenet.name)


@pytest.mark.parametrize(
    "network, size, multiple",
    [
        (lambda: hourglass.hourglass52(), (256, 192), 128),
        (lambda: hrnet.hrnet_w32(), (240, 192), 32),
        (lambda: litehrnet.litehrnet18(), (256, 200), 32),
    ],
)
def test_sizes_that_do_not_fit_are_named(network, size, multiple):
    with torch.device("meta"):
        network = network()
        with pytest.raises(InputError, match=f"{size[1]}×{size[0]}.*{multiple}"):
            network(torch.zeros(1, 3, *size))


SMALL = {
    "alexnet": lambda: alexnet.alexnet(),
    "cpm": lambda: cpm.CPM(3, stages=3, width=8),
    "hourglass": lambda: hourglass.HourglassNet((16, 16, 24), (1, 1, 1)),
    "hrnet": lambda: hrnet.HRNet(8),
    "hrnetv2": lambda: hrnet.HRNet(8, 4, "bilinear"),
    "litehrnet": lambda: litehrnet.LiteHRNet((1, 1, 1)),
    "rsn": lambda: rsn.rsn50(2),
}


@pytest.mark.parametrize("name", SMALL)
def test_images_do_not_touch_each_other(name):
    torch.manual_seed(0)
    network, images = SMALL[name]().eval(), torch.randn(3, 3, 96, 64)
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5 * a.std().item())
