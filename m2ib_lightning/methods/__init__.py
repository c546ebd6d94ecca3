"""Attribution methods behind one interface: M2IB, established methods, and controls."""

from m2ib_lightning.methods import (
    attention_maps,  # noqa: F401 - each registers its methods
    controls,  # noqa: F401
    exclip,  # noqa: F401
    fixlip,  # noqa: F401
    gradients,  # noqa: F401
    hidden_gradients,  # noqa: F401
    m2ib,  # noqa: F401
    perturbations,  # noqa: F401
)
from m2ib_lightning.methods.by_name import METHODS, make_method, parse_method, register_method
from m2ib_lightning.methods.method import Context, Method, SaliencyMethod

METHODS.register_path("readout", "m2ib_lightning.finetuning.readout:Readout")  # finetuning imports the methods

__all__ = ["METHODS", "Context", "Method", "SaliencyMethod", "make_method", "parse_method", "register_method"]
