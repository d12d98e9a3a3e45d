"""Functions and classes that the counterparts share."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from genjax.steps.optim import OptimizerConfig
from genjax.types import UsageError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# As ours on a GPU: products of float32 in TF32, and the fastest algorithm for a convolution.
torch.set_float32_matmul_precision("high")
torch.backends.cudnn.benchmark = True


class Counterpart(NamedTuple):
    """The PyTorch version of a model.

    Attributes:
        check: Raises an `AssertionError` if it does not compute what ours does.
        step: A whole training step: its number, images uint8 [B, C, H, W] and labels, int64 [B], to
            a loss.
    """

    check: Callable[[], None]
    step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


# What no counterpart of a GAN has.
NO_PENALTIES = {"r1_gamma": 0.0, "r2_gamma": 0.0, "dragan_weight": 0.0}


def require(config: Any, **values: Any) -> None:
    """Raise a `UsageError` if the config asks for something that the counterpart does not have."""
    for name, value in values.items():
        if getattr(config, name) != value:
            raise UsageError(
                f"{name} = {getattr(config, name)!r}: its PyTorch counterpart has {value!r}"
            )


def place(module: Any) -> Any:
    """Move to the device, in the layout that is fast there."""
    layout = torch.channels_last if DEVICE == "cuda" else torch.contiguous_format
    return module.to(DEVICE, memory_format=layout)


def mixed(dtype: str) -> Any:
    """Return a context in which networks compute in a type."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(DEVICE, dtype=torch.bfloat16)


class Optimizer:
    """The optimizer of one of our configs, without schedules of its rate."""

    def __init__(self, parameters: Any, config: OptimizerConfig):
        self._parameters, self._clip_norm = list(parameters), config.clip_norm
        self._optimizer: torch.optim.Optimizer
        rate, betas = config.learning_rate, (config.beta1, config.beta2)
        if config.rule == "rmsprop":
            self._optimizer = torch.optim.RMSprop(
                self._parameters, rate, config.beta2, config.epsilon
            )
        elif config.rule == "adamw":
            self._optimizer = torch.optim.AdamW(
                self._parameters, rate, betas, config.epsilon, config.weight_decay
            )
        else:
            self._optimizer = torch.optim.Adam(self._parameters, rate, betas, config.epsilon)

    def minimize(self, loss: torch.Tensor) -> None:
        """Take a step."""
        self._optimizer.zero_grad()
        loss.backward(inputs=self._parameters)
        if self._clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()


class Average:
    """The moving average of a module's parameters, if there is one."""

    def __init__(self, module: Any, decay: float):
        self._parameters, self._decay = list(module.parameters()), decay
        self._average = [p.detach().clone() for p in self._parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current parameters."""
        if self._decay:
            torch._foreach_lerp_(self._average, self._parameters, 1 - self._decay)


def compiler(compiled: bool) -> Callable[[Any], Any]:
    """Return the function to apply to modules: `torch.compile`, or the identity."""
    return torch.compile if compiled else lambda module: module


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Scale gray levels to [-1, 1]."""
    return images / 127.5 - 1


def to_numpy(module: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Copy a module's parameters and buffers to NumPy, by name."""
    return {
        prefix + name: tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict().items()
    }


def nchw(images: np.ndarray) -> torch.Tensor:
    """Convert [B, H, W, C] to PyTorch's [B, C, H, W]."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def draw_images(spec: Any, batch_size: int) -> np.ndarray:
    """Draw random images in [-1, 1], float32 [B, H, W, C]."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (batch_size, *spec.shape)).astype(np.float32)


def assert_losses_agree(
    ours: Mapping[str, Any], theirs: Mapping[str, torch.Tensor], loose: Sequence[str] = ()
) -> None:
    """Assert that losses agree to 1e-4.

    Args:
        ours: Our losses by name.
        theirs: PyTorch's losses, by the same names.
        loose: Names of losses after a step of Adam. They agree to a twentieth, because Adam's first
            step depends on the gradients' signs only.
    """
    for name, value in theirs.items():
        tolerance = 0.05 if name in loose else 1e-4
        np.testing.assert_allclose(
            float(ours[name]), value.item(), rtol=tolerance, atol=tolerance / 10, err_msg=name
        )
