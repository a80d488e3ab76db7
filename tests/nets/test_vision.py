"""The cells of the visual system, against closed forms."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neocog import nets
from neocog.errors import NetError
from neocog.nets.vision import (
    ORIENTATIONS,
    WAVELENGTHS,
    ComplexCells,
    ContrastGain,
    EarlyVision,
    FrontEnd,
    HypercomplexCells,
    Retina,
    SimpleCells,
    VisualSystem,
    front_end,
    gabor,
    visual_system,
)

SIDE = 49  # the largest filters are 47
MIDDLE = SIDE // 2


def grating(angle: float, wavelength: float, phase: float = 0.0, contrast: float = 1.0) -> Tensor:
    """Return (1, 1, SIDE, SIDE): a cosine that varies along `angle`, with `phase` at the middle; mean 0.5."""
    m = torch.arange(SIDE, dtype=torch.float64) - MIDDLE
    wave = 2 * math.pi * (m * math.cos(angle) + m[:, None] * math.sin(angle)) / wavelength
    return (0.5 + 0.5 * contrast * torch.cos(wave + phase))[None, None]


def bar(length: int, width: int = 2) -> Tensor:
    """Return (1, 1, SIDE, SIDE): a bright upright bar in the middle."""
    picture = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    top = MIDDLE - length // 2
    picture[..., max(0, top) : top + length, MIDDLE : MIDDLE + width] = 1
    return picture


def at_middle(maps: Tensor) -> Tensor:
    return maps[0, :, MIDDLE, MIDDLE]


ALL = ("retina", "simple", "complex", "hypercomplex")


@cache
def built(layers: tuple[str, ...]) -> VisualSystem:
    """The stages with half the scales, in float64."""
    return visual_system(
        layers, 1, **({"simple": {"wavelengths": WAVELENGTHS[:2]}} if "simple" in layers else {})
    ).double()


@pytest.mark.parametrize("layers", [ALL[:1], ALL[1:2], ALL[1:3], ALL[1:], ALL])
@settings(max_examples=30)
@given(light=st.floats(0, 255))
def test_uniform_light_gives_no_response(layers: tuple[str, ...], light: float) -> None:
    cells = built(layers)
    out = cells(torch.full((1, 1, 12, 12), light, dtype=torch.float64))
    assert out.abs().max() <= 1e-6 * light  # weights are rounded to float32


@settings(max_examples=30)
@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 1000))
def test_response_is_linear_in_contrast_and_blind_to_brightness(contrast: float, light: float, seed: int) -> None:
    x = torch.rand(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for layers in (("retina",), ALL[:3], ALL[1:]):
        cells = built(layers)
        once, more = cells(x), cells(contrast * x + light)
        torch.testing.assert_close(more, contrast * once, rtol=1e-4, atol=1e-6 * (contrast + abs(light)))
    assert once.max() > 0


def test_retina_is_a_difference_of_gaussians() -> None:
    cells = Retina(1, sigma_centre=1.5, sigma_surround=3.0, rectify=False).double()
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    on, off = cells(point)[0]
    assert torch.equal(on, -off)
    for y, x in ((0, 0), (0, 3), (2, -4), (7, 1)):
        distance = x * x + y * y
        expected = sum(
            sign * math.exp(-distance / (2 * s * s)) / (2 * math.pi * s * s) for sign, s in ((1, 1.5), (-1, 3.0))
        )
        assert on[20 + y, 20 + x].item() == pytest.approx(expected, abs=3e-5)  # a part in 10^4 lies beyond 4 sigma
    assert on[20, 20] > 0 > on[20, 25]  # centre, surround


def test_retina_has_an_on_and_an_off_pathway() -> None:
    cells = Retina(3).double()
    assert (cells.in_channels, cells.channels) == (3, 6)
    bright = torch.zeros(1, 3, 21, 21, dtype=torch.float64)
    bright[:, 1, 10, 10] = 1
    out, inverted = cells(bright)[0], cells(1 - bright)[0]
    assert out[1, 10, 10] > 0 == out[4, 10, 10]  # the green on-centre cell and off-centre cell
    assert out.min() == 0
    assert not out[[0, 2, 3, 5]].any()  # other colours
    torch.testing.assert_close(inverted[4], out[1], atol=1e-7, rtol=0)
    with pytest.raises(NetError, match="the surround must be wider than the centre"):
        Retina(1, 2.0, 1.0)


def test_gabor_is_the_formula() -> None:
    sigma, angle, wavelength = 2.5, 0.7, 6.0
    even, odd = gabor(sigma, angle, wavelength)
    assert even.shape == odd.shape == (21, 21)  # +- 4 sigma
    for m, n in ((0, 0), (3, -2), (-10, 10), (1, 7)):
        wave = 2 * math.pi * (m * math.cos(angle) + n * math.sin(angle)) / wavelength
        size = math.exp(-(m * m + n * n) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
        assert even[n + 10, m + 10].item() == pytest.approx(size * math.cos(wave), abs=1e-12)
        assert odd[n + 10, m + 10].item() == pytest.approx(size * math.sin(wave), abs=1e-12)


def test_bank_is_eight_orientations_by_four_scales() -> None:
    cells = SimpleCells(1)
    assert (len(cells.angles), len(cells.wavelengths)) == (ORIENTATIONS, len(WAVELENGTHS)) == (8, 4)
    assert cells(torch.rand(2, 1, 20, 23)).shape == (2, cells.channels, 20, 23) == (2, 64, 20, 23)
    for sigma, conv in zip(cells.sigmas, cells.scales, strict=True):
        filters = conv.weight.double()
        assert filters.shape == (16, 1, *[2 * math.ceil(4 * sigma) + 1] * 2)
        assert filters.sum((1, 2, 3)).abs().max() < 1e-6  # uniform light
        even, odd = filters[:8, 0], filters[8:, 0]
        torch.testing.assert_close(even, even.flip(1, 2))  # line detectors
        torch.testing.assert_close(odd, -odd.flip(1, 2))  # edge detectors


def test_filters_pass_their_own_frequency_best() -> None:
    """The peak of the Fourier transform lies at 1 / wavelength, in the direction of the angle."""
    # a broad envelope; a narrow one whose mean is taken off has its peak a little higher
    cells = SimpleCells(1, sigmas=[1.2 * wavelength for wavelength in WAVELENGTHS])
    frequencies = torch.fft.fftfreq(256, dtype=torch.float64)
    for wavelength, conv in zip(cells.wavelengths, cells.scales, strict=True):
        for index, filters in enumerate(conv.weight.detach().double()[:, 0]):
            power = torch.fft.fft2(filters, s=(256, 256)).abs()
            row, column = divmod(int(power.argmax()), 256)
            fy, fx = frequencies[row].item(), frequencies[column].item()
            assert math.hypot(fx, fy) == pytest.approx(1 / wavelength, abs=1 / 256)
            angle = math.atan2(fy, fx) % math.pi
            apart = abs(angle - cells.angles[index % 8])
            assert min(apart, math.pi - apart) < math.radians(4)


def test_receptive_field_is_four_sigma_to_either_side() -> None:
    cells = SimpleCells(1, orientations=3, wavelengths=[6.0], sigmas=[2.0]).double()
    x = torch.rand(1, 1, 41, 41, dtype=torch.float64, requires_grad=True)
    cells(x)[0, :, 20, 20].square().sum().backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (20 - 8, 20 + 8)


@pytest.mark.parametrize("scale", range(4))
def test_each_cell_prefers_its_own_orientation(scale: int) -> None:
    simple, energy = SimpleCells(1).double(), ComplexCells(64, pool=1)
    wavelength = WAVELENGTHS[scale]
    for k in range(8):
        response = at_middle(energy(simple(grating(math.pi * k / 8, wavelength)))).reshape(4, 8)[scale]
        assert int(response.argmax()) == k
        across = response[(k + 4) % 8]
        assert across < 0.05 * response[k]  # at right angles: next to nothing
        # the tuning curve falls to either side
        ring = response.roll(-k)
        assert (ring[:4].diff() < 0).all() and (ring[4:].diff() > 0).all()


def test_each_scale_prefers_its_own_wavelength() -> None:
    simple, energy = SimpleCells(1).double(), ComplexCells(64, pool=1)
    for scale in range(4):
        response = [
            at_middle(energy(simple(grating(0, wavelength)))).reshape(4, 8)[scale, 0] for wavelength in WAVELENGTHS
        ]
        assert int(torch.stack(response).argmax()) == scale


@given(st.floats(0, 2 * math.pi), st.integers(0, 7), st.integers(0, 3))
def test_energy_ignores_phase_and_simple_cells_do_not(phase: float, orientation: int, scale: int) -> None:
    angle, wavelength = math.pi * orientation / 8, WAVELENGTHS[scale]
    simple, energy = SimpleCells(1, wavelengths=[wavelength]), ComplexCells(16, pool=1)
    here = simple(grating(angle, wavelength, phase).float())
    complex_cell = at_middle(energy(here))[orientation].item()
    usual = at_middle(energy(simple(grating(angle, wavelength).float())))[orientation].item()
    # even and odd filters differ by what takes the mean off, and by a wave of twice the frequency: 2 % of the energy
    assert complex_cell == pytest.approx(usual, rel=0.03)
    even, odd = at_middle(here).reshape(2, 8)[:, orientation].tolist()
    assert even == pytest.approx(usual * math.cos(phase), abs=0.04 * usual)
    assert odd == pytest.approx(-usual * math.sin(phase), abs=0.04 * usual)


def test_line_and_edge_detectors() -> None:
    """At a line the even cell answers and the odd one is silent; at an edge it is the other way about."""
    cells = SimpleCells(1, wavelengths=[8.0]).double()
    line = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)
    line[..., MIDDLE - 1 : MIDDLE + 2] = 1
    edge = torch.zeros_like(line)
    edge[..., MIDDLE] = 0.5
    edge[..., MIDDLE + 1 :] = 1
    at_line, at_edge = (at_middle(cells(x)).reshape(2, 8)[:, 0].tolist() for x in (line, edge))
    assert at_line[0] > 0.1 and abs(at_line[1]) < 1e-6
    assert at_edge[1] > 0.1 and abs(at_edge[0]) < 1e-6
    assert SimpleCells(1, rectify=True)(line.float()).min() == 0


@pytest.mark.parametrize("how", ["max", "average", "energy"])
def test_pooling_over_positions_bears_a_shift(how: str) -> None:
    simple = SimpleCells(1, wavelengths=[4.0]).double()
    alone = ComplexCells(16, pool=1)(simple(bar(20)))
    pooling = ComplexCells(16, pool=7, how=how)
    pooled = pooling(simple(bar(20)))
    assert pooled.shape == alone.shape
    moved = simple(bar(20).roll(2, 3))

    def alike(a: Tensor, b: Tensor) -> float:
        return F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()

    assert alike(pooled, pooling(moved)) > alike(alone, ComplexCells(16, pool=1)(moved)) + 0.05
    window = alone[0, 0, 7:14, 9:16]
    expected = {"max": window.max(), "average": window.mean(), "energy": window.square().mean().sqrt()}[how]
    assert pooled[0, 0, 10, 12].item() == pytest.approx(expected.item())
    assert ComplexCells(16, pool=3, stride=2, how=how)(simple(bar(20))).shape == (1, 8, 25, 25)


def test_complex_cells_keep_channels_apart() -> None:
    """Three channels: even and odd maps of the same channel, scale and orientation are joined, and no others."""
    colour = visual_system(("simple", "complex"), 3)
    x = torch.rand(1, 3, 30, 30)
    one = visual_system(("simple", "complex"), 1)
    torch.testing.assert_close(colour(x), torch.cat([one(x[:, c : c + 1]) for c in range(3)], 1))
    with pytest.raises(NetError, match="sets of 32 even and 32 odd"):
        ComplexCells(63, per_phase=32)


@pytest.mark.parametrize("scale", [0, 1])
def test_end_stopping(scale: int) -> None:
    """The answer to a bar grows until the bar fills the field, and falls when it goes on; a complex cell's does not."""
    wavelength = WAVELENGTHS[scale]
    cells = visual_system(ALL[1:], 1, simple={"wavelengths": [wavelength], "orientations": 2})
    lengths = range(2, SIDE - 5, 2)
    energy = cells[1](cells[0](torch.cat([bar(length) for length in lengths]).float()))
    before, after = (maps[:, 0, MIDDLE, MIDDLE].tolist() for maps in (energy, cells[2](energy)))  # the upright cell
    best = lengths[after.index(max(after))]
    assert wavelength / 2 < best < 4 * wavelength
    assert after[-1] < 0.1 * max(after)
    peak = after.index(max(after))
    assert all(b <= a + 0.01 * max(after) for a, b in zip(after[peak:], after[peak + 1 :], strict=False))
    assert before[-1] > 0.95 * max(before)


def test_end_stopped_cells_answer_at_the_ends_of_a_line() -> None:
    cells = visual_system(ALL[1:], 1, simple={"wavelengths": [4.0], "orientations": 2})
    out = cells(bar(33).float())[0, 0]
    row = int(out[:, MIDDLE - 3 : MIDDLE + 4].amax(1).argmax())
    assert abs(abs(row - MIDDLE) - 16) <= 4  # half the length
    assert out[MIDDLE, MIDDLE] < 0.1 * out.max()


@pytest.mark.parametrize("k", range(8))
def test_end_stopping_has_the_orientation_of_its_cell(k: int) -> None:
    """Along a grating, whose lines go on for ever, every end-stopped cell of its orientation is silent."""
    cells = visual_system(ALL[1:], 1, simple={"wavelengths": [4.0]})
    energy = cells[1](cells[0](grating(math.pi * k / 8, 4.0).float()))
    excited, stopped = (at_middle(x)[k] for x in (energy, cells[2](energy)))
    assert stopped < 0.05 * excited


def test_without_inhibition_nothing_is_stopped() -> None:
    cells = HypercomplexCells(32, gain=0.0).double()
    energy = torch.rand(1, 32, 33, 33, dtype=torch.float64)
    uniform = torch.ones_like(energy)
    torch.testing.assert_close(cells(uniform), uniform, atol=1e-6, rtol=0)
    assert cells(energy).shape == energy.shape


def test_stages_fit_together_or_say_why_not() -> None:
    with pytest.raises(NetError, match="in this order and once each"):
        visual_system(("simple", "retina"))
    with pytest.raises(NetError, match="in this order"):
        visual_system(("simple", "rods"))
    with pytest.raises(NetError, match="complex cells read simple ones"):
        visual_system(("retina", "complex"))
    with pytest.raises(NetError, match="options for simple, but the layers are retina"):
        visual_system(("retina",), 1, simple={})
    with pytest.raises(NetError, match="Retina gives 2 maps, but SimpleCells behind it reads 3"):
        VisualSystem(Retina(1), SimpleCells(3))
    with pytest.raises(NetError, match="at least one stage"):
        VisualSystem()
    with pytest.raises(NetError, match="wavelengths above 2 pixels"):
        SimpleCells(1, wavelengths=[2.0])
    with pytest.raises(NetError, match="one sigma above 0 for each of 2"):
        SimpleCells(1, wavelengths=[4.0, 8.0], sigmas=[1.0])
    with pytest.raises(NetError, match="an odd window"):
        ComplexCells(64, pool=2)
    with pytest.raises(NetError, match="a multiple of 8 orientations x 4 scales"):
        HypercomplexCells(31)
    fewer = visual_system(ALL, 1, simple={"orientations": 4, "wavelengths": [4.0, 8.0]}, complex={"pool": 5})
    assert (fewer.in_channels, fewer.channels) == (1, 2 * 8)
    assert fewer(torch.rand(2, 1, 20, 20)).shape == (2, 16, 20, 20)


@pytest.mark.parametrize("layers", [("retina",), ALL[:3], ALL])
def test_a_front_end_fits_any_net_and_does_not_learn(layers: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net = front_end("cifar_resnet20", layers, 3, classes=5)
    x = torch.rand(2, 3, 32, 32)
    assert net.net.spec["in_channels"] == net.channels == net.front.channels
    F.cross_entropy(net(x), torch.tensor([1, 4])).backward()
    trained = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in net.named_parameters() if name.startswith("net.")}
    assert any(name.startswith("front.") for name in net.state_dict())
    torch.testing.assert_close(nets.head_of(net)(net.forward_features(x)), net(x))
    with torch.device("meta"):
        again = front_end("cifar_resnet20", layers, 3, classes=5)
    again.load_state_dict(net.state_dict(), strict=True, assign=True)
    torch.testing.assert_close(again.eval()(x), net.eval()(x))
    nets.change_head(net, 9)
    assert net(x).shape == (2, 9)


def test_a_front_end_for_a_finished_net() -> None:
    trunk = nets.build("lenet5", in_channels=6)
    assert isinstance(front_end(trunk, Retina(3)), FrontEnd)
    with pytest.raises(NetError, match="the cells give 2 maps, but the net reads 6 channels; build it with in_chan"):
        front_end(trunk, ("retina",), 1)
    with pytest.raises(NetError, match="options are for a net given by its name"):
        front_end(trunk, Retina(3), classes=3)
    plain = nn.Conv2d(2, 4, 3)  # not of this zoo
    assert front_end(plain, ("retina",), 1)(torch.rand(1, 1, 9, 9)).shape == (1, 4, 7, 7)


def test_contrast_gain() -> None:
    gain, x = ContrastGain(), torch.rand(2, 3, 5, 5) * 0.01
    torch.testing.assert_close(gain(x).square().mean((1, 2, 3)), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(gain(7 * x), gain(x), rtol=1e-3, atol=0)
    assert not gain(torch.zeros(1, 3, 5, 5)).any()
    raw = FrontEnd(Retina(1), nn.Identity(), gain=False)
    picture = torch.rand(1, 1, 9, 9)
    assert torch.equal(raw(picture), raw.front(picture))


def test_early_vision_takes_other_trunks_and_stages() -> None:
    net = nets.build(
        "early_vision", classes=3, in_channels=3, trunk="cifar_resnet20", layers=["retina"], trunk_options={}
    )
    assert isinstance(net, EarlyVision)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(NetError, match="must be a net that labels pictures, got 'siamese'"):
        nets.build("early_vision", trunk="siamese")
