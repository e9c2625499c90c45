"""Common formulations of the operator in PyTorch."""

import enum
import itertools
from collections.abc import Callable
from typing import Any

from experiments.benchmarks.cases import Case
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT, Loss, losses

Operator = Callable[[Any, Any], Any]


class Form(enum.StrEnum):
    """A formulation of the operator."""

    UNFOLD = "torch unfold"
    TAPS_NCHW = "torch taps, NCHW"
    TAPS_NHWC = "torch taps, NHWC"
    COMPILED = "torch taps, NHWC, compiled"

    @property
    def channels_first(self) -> bool:
        """Whether its tensors are ``[B, C, H, W]`` instead of ``[B, H, W, C]``."""
        return self in (Form.UNFOLD, Form.TAPS_NCHW)

    def written(self, torch: Any, case: Case) -> Operator:
        """The uncompiled operator of a case, as a function of the map and the weights."""
        match self:
            case Form.UNFOLD:
                return unfold(torch, case)
            case Form.TAPS_NCHW:
                return tap_loop_channels_first(torch, case)
            case Form.TAPS_NHWC | Form.COMPILED:
                return tap_loop(torch, case)

    def program(self, torch: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles a function of tensors if the form is compiled; else returns it unchanged."""
        if self is not Form.COMPILED:
            return function
        compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
        return compiled

    def operator(self, torch: Any, case: Case) -> Operator:
        """The operator of a case, compiled if the form is compiled."""
        return self.program(torch, self.written(torch, case))

    def arranged(self, tensor: Any) -> Any:
        """Converts a tensor ``[B, H, W, C]`` to the layout of the form."""
        return tensor.movedim(3, 1).contiguous() if self.channels_first else tensor

    def channels_last(self, tensor: Any) -> Any:
        """Converts a result of the form to ``[B, H, W, C]``."""
        return tensor.movedim(1, 3) if self.channels_first else tensor


def unfold(torch: Any, case: Case) -> Operator:
    """Gathers all patches, then contracts; channels first."""
    k, up = case.kernel_size, case.up

    def run(x: Any, weights: Any) -> Any:
        batch, channels, height, width = x.shape
        rows, columns = -(-height // case.down), -(-width // case.down)
        patches = torch.nn.functional.unfold(x, (k, k), padding=k // 2, stride=case.down)
        patches = patches.view(batch, channels, k * k, rows, columns)
        weights = weights.view(batch, k * k, rows, up, columns, up)
        y = torch.einsum("bkqurv,bckqr->bcqurv", weights, patches)
        return y.reshape(batch, channels, rows * up, columns * up)

    return run


def tap_loop(torch: Any, case: Case) -> Operator:
    """Sums over the taps, each a shifted view of the map; channels last."""
    k, up = case.kernel_size, case.up

    def run(x: Any, weights: Any) -> Any:
        batch, height, width, channels = x.shape
        rows, columns = -(-height // case.down), -(-width // case.down)
        sources = torch.nn.functional.pad(x, (0, 0, *[k // 2] * 4))
        weights = weights.view(batch, rows, up, columns, up, k * k)
        y: Any = 0
        for tap, (tap_rows, tap_columns) in enumerate(_views(case, rows, columns)):
            y = y + weights[..., tap, None] * sources[:, tap_rows, None, tap_columns, None]
        return y.reshape(batch, rows * up, columns * up, channels)

    return run


def tap_loop_channels_first(torch: Any, case: Case) -> Operator:
    """Sums over the taps, each a shifted view of the map; channels first."""
    k, up = case.kernel_size, case.up

    def run(x: Any, weights: Any) -> Any:
        batch, channels, height, width = x.shape
        rows, columns = -(-height // case.down), -(-width // case.down)
        sources = torch.nn.functional.pad(x, [k // 2] * 4)
        weights = weights.view(batch, k * k, 1, rows, up, columns, up)
        y: Any = 0
        for tap, (tap_rows, tap_columns) in enumerate(_views(case, rows, columns)):
            y = y + weights[:, tap] * sources[:, :, tap_rows, None, tap_columns, None]
        return y.reshape(batch, channels, rows * up, columns * up)

    return run


def _views(case: Case, rows: int, columns: int) -> list[tuple[slice, slice]]:
    """The slices of rows and columns of the padded map that each tap reads."""

    def along(tap: int, count: int) -> slice:
        return slice(tap, tap + (count - 1) * case.down + 1, case.down)

    taps = itertools.product(range(case.kernel_size), repeat=2)
    return [(along(n, rows), along(m, columns)) for n, m in taps]


def with_gradient(torch: Any, function: Operator) -> Callable[[Any, Any, Any], Any]:
    """A function that returns the output and both gradients."""

    def run(x: Any, weights: Any, dy: Any) -> Any:
        x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
        y = function(x, weights)
        return y, *torch.autograd.grad(y, (x, weights), dy)

    return run


def passes(torch: Any, form: Form, case: Case) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Every pass by name, as a function of both operands and an array of the output's shape.

    In a compiled form, the loss and the operator are compiled together, as in JAX.
    """
    function = form.operator(torch, case)

    def forward(x: Any, weights: Any, _: Any) -> Any:
        with torch.no_grad():
            return function(x, weights)

    def gradient_of(loss: Loss) -> Callable[[Any, Any, Any], Any]:
        written = form.written(torch, case)
        whole = form.program(torch, lambda x, weights, other: loss(written(x, weights), other))

        def run(x: Any, weights: Any, other: Any) -> Any:
            x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
            return torch.autograd.grad(whole(x, weights, other), (x, weights))

        return run

    gradients = {name: gradient_of(loss) for name, loss in losses(torch.relu).items()}
    return {FORWARD: forward, WITH_GRADIENT: with_gradient(torch, function), **gradients}
