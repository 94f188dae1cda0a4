"""What training and evaluation need of every model. Builds none.

Models that come from elsewhere take images of certain sizes only; `pad_to_multiple` and
`cut_logits` let them take all.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.errors import first_of

log = logging.getLogger(__name__)

# Height and width of an image with which a network is tried before training. They differ, and they
# are no sizes that a network was made for.
TRIED_SIZE = (64, 96)


class SegmentationModel(nn.Module):
    """A network from normalised images to logits."""

    # The prefixes of the head's parameter names, which learn at optim.head_lr_mult.
    head_prefixes: tuple[str, ...] = ()
    # The prefixes of the layers that have a row for each class.
    classifier_prefixes: tuple[str, ...] = ()

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/s, w/s] for normalised images [N, 3, h, w] from 32 pixels.

        s is the model's own stride, 4 for most. With `with_auxiliary`, return the pair (logits,
        logits of the auxiliary head or None).
        """
        raise NotImplementedError


def freeze_unused(model: SegmentationModel) -> None:
    """Exclude the parameters from training that change neither logits nor auxiliary logits.

    DDP would wait for their gradients. Encoders of other libraries have such layers, for example
    after the last map that a decoder takes.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # In training mode, because an auxiliary head may be used only then. Two images, because of
    # batch norms after a pooling to 1x1 pixel. The caller's random numbers stay as they are.
    with torch.random.fork_rng([]):
        outputs = model.train()(torch.zeros(2, 3, *TRIED_SIZE), with_auxiliary=True)
    total = torch.stack([output.float().sum() for output in outputs if output is not None]).sum()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    unused = [name for name, g in zip(trained, gradients, strict=True) if g is None]
    for name in unused:
        trained[name].requires_grad_(False)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    if unused:
        log.info("not trained, because the logits do not depend on them: %s", first_of(unused, 3))


def pad_to_multiple(images: Tensor, multiple: int, smallest: int = 1) -> Tensor:
    """Return images [N, 3, h, w], padded below and to the right to multiples of `multiple`.

    Sides are at least `smallest`, which is a multiple, too. The padding is 0, which is ImageNet's
    mean after normalisation.
    """
    missing = [max(smallest - size, -size % multiple) for size in images.shape[-2:]]
    return F.pad(images, (0, missing[1], 0, missing[0])) if any(missing) else images


def cut_logits(logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Return the logits of `images` out of those of the padded images.

    If the images end inside the pixels of a logit, this logit is kept.
    """
    if padded is images:
        return logits
    height, width = (
        -(-size * num_logits // num_padded)
        for size, num_logits, num_padded in zip(
            images.shape[-2:], logits.shape[-2:], padded.shape[-2:], strict=True
        )
    )
    return logits[..., :height, :width]
