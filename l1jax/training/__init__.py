"""Training: proximal steps as optax transformations, with zeros that are zeros."""

from . import directions
from ._aliases import prox_adagrad, prox_adam, prox_adamw, prox_rmsprop, prox_sgd
from ._checks import check_last
from ._metrics import AdagradMetric, AdamMetric, MomentumMetric, RMSPropMetric
from ._proximal import cast_gradients, prox_step, proximal

__all__ = [
    "AdagradMetric",
    "AdamMetric",
    "MomentumMetric",
    "RMSPropMetric",
    "cast_gradients",
    "check_last",
    "directions",
    "prox_adagrad",
    "prox_adam",
    "prox_adamw",
    "prox_rmsprop",
    "prox_sgd",
    "prox_step",
    "proximal",
]
