"""Training: proximal steps as optax transformations, with zeros that are zeros.

May import `penalties` and what that may import.
"""

from . import directions
from ._aliases import prox_adagrad, prox_adam, prox_adamw, prox_rmsprop, prox_sgd
from ._averaging import ftrl_proximal, rda
from ._batch_norm import batch_norm_scales
from ._channels import ChannelL1
from ._checks import check_last
from ._metrics import AdagradMetric, AdamMetric, MomentumMetric, RMSPropMetric
from ._proximal import cast_gradients, prox_step, proximal
from ._selection import on, paths, penalties
from ._sparsity import Sparsity, masked_average, sparsity, strength_warmup

__all__ = [
    "AdagradMetric",
    "AdamMetric",
    "ChannelL1",
    "MomentumMetric",
    "RMSPropMetric",
    "Sparsity",
    "batch_norm_scales",
    "cast_gradients",
    "check_last",
    "directions",
    "ftrl_proximal",
    "masked_average",
    "on",
    "paths",
    "penalties",
    "prox_adagrad",
    "prox_adam",
    "prox_adamw",
    "prox_rmsprop",
    "prox_sgd",
    "prox_step",
    "proximal",
    "rda",
    "sparsity",
    "strength_warmup",
]
