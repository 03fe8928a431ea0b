"""Images from images: pairs made of photographs, PSNR and SSIM against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.task_support import cut, info, measured

from stillhouse import StillhouseError
from stillhouse.config.structure import structure
from stillhouse.tasks.images import Colourisation, Denoising, ImageToImage, SuperResolution

DATA = info(0, "none", (3, 16, 20))


def psnr(x: np.ndarray, y: np.ndarray) -> float:
    """Peak signal to noise ratio of images 0 to 1, in decibels."""
    return -10 * np.log10(np.mean((x - y) ** 2))


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004: a Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, channel by channel."""

    def mean(a: np.ndarray) -> np.ndarray:
        return np.stack([gaussian_filter(c, 1.5, truncate=5 / 1.5, mode="mirror") for c in a])

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_metrics_are_the_means_over_the_images(kind):
    torch.manual_seed(0)
    target = torch.rand(5, 3, 16, 20)
    output = target + 0.2 * torch.randn(5, 3, 16, 20) * torch.arange(1, 6)[:, None, None, None] / 5
    found = measured(ImageToImage(kind=kind), DATA, *cut([2, 2, 1], output, target))
    x, y = output.double().clamp(0, 1).numpy(), target.double().numpy()
    assert found["psnr"] == pytest.approx(np.mean([psnr(a, b) for a, b in zip(x, y, strict=True)]), rel=1e-5)
    assert found["ssim"] == pytest.approx(np.mean([ssim(a, b) for a, b in zip(x, y, strict=True)]), rel=1e-4)
    error = output.double().numpy() - y  # the loss sees what the metrics cut off
    assert found["loss"] == pytest.approx(np.mean(np.abs(error) if kind == "l1" else error**2), rel=1e-5)


def test_colourisation_takes_the_luminance_and_gives_the_colours():
    image = torch.rand(3, 8, 9)
    grey, target = Colourisation().sample(image, None)
    red, green, blue = image.double()
    assert grey.shape == (1, 8, 9)
    torch.testing.assert_close(grey[0].double(), 0.299 * red + 0.587 * green + 0.114 * blue, rtol=0, atol=2e-4)
    assert torch.equal(target, image)
    three, _ = Colourisation(input_channels=3).sample(image, 5)
    assert torch.equal(three, grey.expand(3, -1, -1))
    assert Colourisation().outputs(info(0, "none", (1, 8, 9))) == 3
    with pytest.raises(StillhouseError, match="needs images of 3 channels"):
        Colourisation().sample(torch.rand(1, 8, 9), None)


def test_noise_has_its_sigma_and_follows_the_global_generator():
    image = torch.full((1, 200, 200), 0.5)
    torch.manual_seed(3)
    noisy, target = Denoising(sigma=50.0).sample(image, None)
    torch.manual_seed(3)
    again, _ = Denoising(sigma=50.0).sample(image, None)
    other, _ = Denoising(sigma=50.0).sample(image, None)
    noise = (noisy - target).double()
    assert float(noise.std()) == pytest.approx(50 / 255, rel=0.02)
    assert abs(float(noise.mean())) < 0.005
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    levels = [float((Denoising(sigma=(10, 40)).sample(image, None)[0] - image).std()) * 255 for _ in range(60)]
    assert 9 < min(levels) < 15
    assert 35 < max(levels) < 41


def test_super_resolution_averages_before_it_leaves_pixels_out():
    stripes = torch.zeros(1, 12, 12)
    stripes[:, :, ::2] = 1  # a stripe a pixel wide is grey at half the size, not black or white
    small, target = SuperResolution(upscale=False).sample(stripes, None)
    assert small.shape == (1, 6, 6)
    torch.testing.assert_close(small, torch.full((1, 6, 6), 0.5), rtol=0, atol=0.1)
    assert torch.equal(target, stripes)


@pytest.mark.parametrize(("upscale", "shape"), [(True, (3, 15, 18)), (False, (3, 5, 6))])
def test_super_resolution_cuts_what_the_factor_leaves_over(upscale, shape):
    image = torch.rand(3, 17, 20)
    small, target = SuperResolution(factor=3, upscale=upscale).sample(image, None)
    assert small.shape == shape
    assert torch.equal(target, image[:, :15, :18])
    assert 0 <= float(small.min()) <= float(small.max()) <= 1


def test_a_smooth_picture_comes_back_from_its_reduction():
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 40), indexing="ij")
    image = (0.5 + 0.3 * torch.sin(3 * y + 2 * x))[None]
    back, target = SuperResolution(factor=2).sample(image, None)
    assert float((back - target).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("task", "output", "target", "says"),
    [
        (ImageToImage(), (2, 3, 8, 10), (2, 3, 16, 20), "upsampling"),
        (ImageToImage(), (2, 1, 16, 20), (2, 3, 16, 20), "num_classes = 3"),
        (ImageToImage(), (2, 3), (2, 3, 16, 20), "decoder"),
        (ImageToImage(), (2, 3, 5, 5), (2, 3, 5, 5), "SSIM"),
        (SuperResolution(upscale=False), (2, 3, 8, 10), (2, 3, 16, 20), "enlarges 2 times.*upscale = true"),
    ],
)
def test_what_cannot_serve_is_refused(task, output, target, says):
    with pytest.raises(StillhouseError, match=says):
        task.check(torch.zeros(output), torch.zeros(target), DATA)


@pytest.mark.parametrize(
    ("task", "args", "where"),
    [
        (SuperResolution, {"factor": 1}, "task.args.factor"),
        (Denoising, {"sigma": [3.0, 2.0]}, "task.args.sigma"),
        (Denoising, {"sigma": 0.0}, "task.args.sigma"),
        (Colourisation, {"input_channels": 2}, "task.args.input_channels"),
        (Colourisation, {"channels": 2}, "task.args.channels"),
    ],
)
def test_wrong_options_are_faults_with_their_key(task, args, where):
    with pytest.raises(StillhouseError) as caught:
        structure(args, task, "task.args")
    assert [f.where for f in caught.value.faults] == [where]


def test_an_image_to_predict_from_becomes_such_an_input_as_training_had():
    image = torch.rand(3, 6, 8)
    assert torch.equal(Denoising().input_of(image), image)
    assert torch.equal(SuperResolution(upscale=False).input_of(image), image)
    assert SuperResolution(factor=3).input_of(image).shape == (3, 18, 24)
    assert torch.equal(Colourisation().input_of(image), Colourisation().sample(image, None)[0])
    assert torch.equal(Colourisation().input_of(image[:1]), image[:1])
    assert Colourisation(input_channels=3).input_of(image[:1]).shape == (3, 6, 8)


def test_the_target_decides_how_many_channels_a_pair_needs():
    pairs = info(0, "image", (3, 16, 20), target_shape=(1, 16, 20))
    assert ImageToImage().outputs(pairs) == 1
    with pytest.raises(StillhouseError, match="num_classes = 1"):
        ImageToImage().check(torch.zeros(2, 3, 16, 20), torch.zeros(2, 1, 16, 20), pairs)


def test_prediction_and_pictures():
    task = Denoising()
    output = torch.stack([torch.full((8, 10), v) for v in (0.25, 0.5, 2.0)])
    assert task.prediction(DATA, output) == {"output_size": [8, 10], "mean": [0.25, 0.5, 1.0]}
    assert task.picture(DATA, torch.rand(1, 8, 10), output).mode == "RGB"
    drawn = task.figures(DATA, torch.rand(3, 3, 4, 5), torch.rand(3, 3, 8, 10), torch.rand(3, 3, 8, 10))["samples"]
    titles = [a.get_title().split(" ")[0] for a in drawn.axes]
    assert titles == ["input", "target", "student", "error", *["", "", "", "error"] * 2]
