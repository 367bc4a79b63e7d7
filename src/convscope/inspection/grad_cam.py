"""Grad-CAM: the places of the image that support a class, from the gradient at the last feature maps."""

import numpy as np
import torch
from numpy.typing import NDArray

from convscope.errors import UsageError
from convscope.inspection.hooks import find_call, last_feature_maps, recorded_calls
from convscope.inspection.subject import Subject
from convscope.models.eval_mode import eval_mode
from convscope.results.panels import Heat, Panel

SHOWN_CLASSES = 3
SCALE = "white: no support\nwarm: the most of the image, each class on a scale of its own"


def inspect_grad_cam(subject: Subject) -> tuple[Panel, ...]:
    """Return Grad-CAM of the most probable classes at `subject.layer`, or at the last layer with feature maps."""
    best = np.argsort(-subject.probabilities, kind="stable")[:SHOWN_CLASSES]
    layer, heats = grad_cam(subject, tuple(int(k) for k in best))
    captions = (
        f"for {subject.class_names[k]}\nprobability {100 * subject.probabilities[k]:.1f} %"
        + ("" if heat.any() else "\nno place supports it")
        for k, heat in zip(best, heats, strict=True)
    )
    title = f"Evidence for the most probable classes, at layer {layer}"
    return (Heat(title, subject.image, heats, tuple(captions), scale=SCALE),)


def grad_cam(subject: Subject, classes: tuple[int, ...]) -> tuple[str, tuple[NDArray[np.float32], ...]]:
    """Return the layer's name and a heat map for each class, float32 [h, w], never negative.

    heat = ReLU(sum over k of a_k A_k), where a_k is the mean of the gradient of the class's logit over feature map A_k.
    This works for frozen networks too, because gradients pass through frozen layers.

    Raises:
        UsageError: the layer has no feature maps.

    Source: R. R. Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    network = subject.network
    with eval_mode(network), torch.enable_grad(), recorded_calls(network) as calls:
        logits = network(subject.input().requires_grad_())
        call = last_feature_maps(calls) if subject.layer is None else find_call(calls, subject.layer)
        if not call.is_feature_maps:
            raise UsageError(f"layer {call.name!r} has no feature maps, which Grad-CAM needs; leave out --layer")
        heats = []
        for k in classes:
            (gradient,) = torch.autograd.grad(logits[0, k], call.output, retain_graph=True)
            weights = call.channels_first(gradient).mean(dim=(2, 3), keepdim=True)
            maps = call.channels_first(call.output.detach())
            heats.append((weights * maps).sum(dim=1)[0].relu().float().cpu().numpy())
    return call.name, tuple(heats)
