"""Lets the tests import torchvision's wheel, which is built for CUDA, beside the CPU build of torch.

Its Python part declares a substitute for one operator of its compiled part, which does not load here. The import fails
where that operator is unknown. With wheels that match, as users have them, nothing of this is needed.
"""

from __future__ import annotations

from importlib.metadata import version

import torch

if "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
