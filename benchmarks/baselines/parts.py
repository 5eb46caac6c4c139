"""Parts that several adversarial rivals share: generator, discriminator, losses, image pool, learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Layers(NamedTuple):
    """The layers of one number of spatial dimensions."""

    convolution: Callable[..., nn.Module]
    transposed: Callable[..., nn.Module]
    reflection: Callable[[int], nn.Module]
    instance_norm: Callable[[int], nn.Module]
    batch_norm: Callable[[int], nn.Module]


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.ReflectionPad2d, nn.InstanceNorm2d, nn.BatchNorm2d),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.ReflectionPad3d, nn.InstanceNorm3d, nn.BatchNorm3d),
}


def residual_block(dimensions: int, channels: int, batch_norm: bool = False) -> nn.Module:
    """Reflection, conv 3, norm, ReLU, reflection, conv 3, norm, around an identity."""
    layer = LAYERS[dimensions]
    norm = layer.batch_norm if batch_norm else layer.instance_norm

    def convolution() -> list[nn.Module]:  # a batch norm has a bias of its own
        return [layer.reflection(1), layer.convolution(channels, channels, 3, bias=not batch_norm), norm(channels)]

    return Residual(nn.Sequential(*convolution(), nn.ReLU(), *convolution()))


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that `body` keeps."""
        return x + self.body(x)


class ResNetGenerator(nn.Module):
    """The generator of CycleGAN: two halvings, residual blocks at a quarter of the resolution, two doublings, tanh.

    Args:
        dimensions: 2 or 3.
        width: channels at full resolution; four times as many at a quarter of it.
        blocks: residual blocks, or those to put in their place.
        batch_norm: instead of instance norm.
    """

    def __init__(self, dimensions: int, width: int, blocks: int | list[nn.Module], batch_norm: bool = False):
        super().__init__()
        layer, w = LAYERS[dimensions], width
        norm = layer.batch_norm if batch_norm else layer.instance_norm
        bias = not batch_norm
        if isinstance(blocks, int):
            blocks = [residual_block(dimensions, 4 * w, batch_norm) for _ in range(blocks)]
        self.down = nn.Sequential(
            layer.reflection(3), layer.convolution(1, w, 7, bias=bias), norm(w), nn.ReLU(),
            layer.convolution(w, 2 * w, 3, 2, 1, bias=bias), norm(2 * w), nn.ReLU(),
            layer.convolution(2 * w, 4 * w, 3, 2, 1, bias=bias), norm(4 * w), nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.Sequential(*blocks)
        self.up = nn.Sequential(
            layer.transposed(4 * w, 2 * w, 3, 2, 1, 1, bias=bias), norm(2 * w), nn.ReLU(),
            layer.transposed(2 * w, w, 3, 2, 1, 1, bias=bias), norm(w), nn.ReLU(),
            layer.reflection(3), layer.convolution(w, 1, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, X, Y[, Z]), edges multiples of 4 -> the same shape, -1 to 1."""
        return self.up(self.blocks(self.down(x)))


class PatchGAN(nn.Sequential):
    """Discriminator of patches of 70 voxels (Isola et al. 2017): (B, channels, X, Y[, Z]) -> a map of scores.

    Args:
        dimensions: 2 or 3.
        channels: of the input.
        width: channels of the first layer.
        batch_norm: instead of instance norm.
        padding: of every convolution.
    """

    def __init__(self, dimensions: int, channels: int, width: int, batch_norm: bool = False, padding: int = 1):
        layer = LAYERS[dimensions]
        norm = layer.batch_norm if batch_norm else layer.instance_norm
        layers: list[nn.Module] = [layer.convolution(channels, width, 4, 2, padding), nn.LeakyReLU(0.2)]
        for factor, stride in ((2, 2), (4, 2), (8, 1)):
            layers += [
                layer.convolution(factor * width // 2, factor * width, 4, stride, padding, bias=not batch_norm),
                norm(factor * width),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*layers, layer.convolution(8 * width, 1, 4, 1, padding))


def lsgan(scores: Tensor, label: float | Tensor) -> Tensor:
    """Mean squared distance of a discriminator's scores from a label (Mao et al. 2017)."""
    return (scores.float() - label).square().mean()


def initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02), scales of batch norm N(1, 0.02), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.normal_(part.weight, 0, 0.02)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.weight, 1, 0.02)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within, gradients flow through the modules but not into their parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    yield
    for p in parameters:
        p.requires_grad_(True)


class ImagePool(nn.Module):
    """Earlier synthetic images for the discriminator (Shrivastava et al. 2017).

    Until the pool is full it stores each image and returns it. Then it returns, with probability one half, a stored one
    and stores the new one in its place. Its content is a buffer, so that a stopped training goes on with the same one.

    Args:
        size: images that it holds.
        shape: of an image with its channels.
    """

    images: Tensor
    stored: Tensor

    def __init__(self, size: int, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape, dtype=torch.float16))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, *shape) -> as many images, new or old."""
        return torch.stack([self._exchanged(image) for image in images.detach().float()])

    def _exchanged(self, image: Tensor) -> Tensor:
        if self.stored < len(self.images):
            self.images[self.stored] = image
            self.stored += 1
            return image
        if torch.rand(()) < 0.5:
            return image
        index = int(torch.randint(len(self.images), ()))
        old = self.images[index].float()
        self.images[index] = image
        return old


def constant_then_linear(spent: float, constant: float) -> float:
    """The share of the learning rate after a share of the budget: 1 for the first part of it, then linearly to 0."""
    return 1.0 if spent <= constant else (1 - spent) / (1 - constant)
