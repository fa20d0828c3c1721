"""Per-example gradients of a model's linear layers from one batched backward pass, projected layer by layer.

The gradient of a linear layer's weight for one example is the product of its output's gradient and its input, summed
over the example's tokens: one batched matrix product for a batch instead of one backward pass for each example
(Goodfellow 2015, arXiv 1510.01799). An autograd function replaces the forward of these layers. Inputs are saved as
autograd saves them, so that gradient checkpointing saves the same memory as ever, and the weights' summed gradients are
not computed at all.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from near.common.errors import UserError
from near.models.losses import answer_losses, by_row
from near.models.weights import tensors_digest


@dataclass(frozen=True)
class Moments:
    """Adam's state for one weight after `steps` steps.

    Attributes:
        first, second: moments, float32 (p,).
        steps: optimizer steps so far.
        betas, eps: Adam's.
        corrected: whether it corrects the bias of its moments.
    """

    first: torch.Tensor
    second: torch.Tensor
    steps: int
    betas: tuple[float, float]
    eps: float
    corrected: bool = True

    def digest(self) -> str:
        """A text that identifies the state."""
        tensors = {"first": self.first, "second": self.second, "steps": torch.tensor(self.steps)}
        return f"{tensors_digest(tensors)} {self.betas} {self.eps} {self.corrected}"

    def to(self, device) -> "Moments":
        return replace(self, first=self.first.to(device), second=self.second.to(device))

    def direction(self, gradients: torch.Tensor, epsilon: str) -> torch.Tensor:
        """The step that Adam would take next for each gradient alone, float32 (B, p).

        Args:
            gradients: float32 (B, p).
            epsilon: outside: m / (sqrt(v) + eps), bias corrected, as torch.optim.Adam does; inside: m / sqrt(v + eps)
                without correction, as the code of LESS does (Xia et al. 2024, arXiv 2402.04333).
        """
        beta1, beta2 = self.betas
        if epsilon == "inside":
            second = torch.addcmul(beta2 * self.second + self.eps, gradients, gradients, value=1 - beta2).sqrt_()
            return torch.add(beta1 * self.first, gradients, alpha=1 - beta1).div_(second)
        one = 1 - beta1 ** (self.steps + 1) if self.corrected else 1.0
        two = 1 - beta2 ** (self.steps + 1) if self.corrected else 1.0
        second = torch.addcmul(beta2 / two * self.second, gradients, gradients, value=(1 - beta2) / two)
        second.sqrt_().add_(self.eps)
        return torch.add(beta1 / one * self.first, gradients, alpha=(1 - beta1) / one).div_(second)


class Projection:
    """A sparse random projection (SJLT: Kane and Nelson 2014, arXiv 1012.1577): every coordinate of the gradient is
    added, with a random sign, to `hashes` random ones of `dim`, times 1 / sqrt(hashes). Inner products stay the same in
    expectation. Buckets and signs depend on the seed and the weight's name alone.

    dim=None: no projection; the gradient itself, weight after weight.
    """

    def __init__(self, dim: int | None, hashes: int = 1, seed: int = 0):
        self.dim, self.hashes, self.seed = dim, hashes, seed
        self._buckets: dict[str, torch.Tensor] = {}

    def zeros(self, rows: int, weights: dict[str, int], device) -> torch.Tensor:
        """An empty sum for `add`, float32 (rows, width). `weights`: their names and sizes."""
        self._starts = dict(zip(weights, [0, *torch.tensor(list(weights.values())).cumsum(0).tolist()], strict=False))
        width = sum(weights.values()) if self.dim is None else 2 * self.dim
        return torch.zeros(rows, width, device=device)

    def add(self, out: torch.Tensor, name: str, gradients: torch.Tensor) -> None:
        """Add the gradients of weight `name`, float32 (B, p), to `out`, in place."""
        if self.dim is None:
            start = self._starts[name]
            out[:, start : start + gradients.shape[1]] += gradients
            return
        for buckets in self.buckets(name, gradients.shape[1], gradients.device):
            out.scatter_add_(1, buckets.expand(len(gradients), -1), gradients)

    def buckets(self, name: str, size: int, device="cpu") -> torch.Tensor:
        """int64 (hashes, size): the bucket of each coordinate of a weight, plus `dim` where its sign is minus."""
        if name not in self._buckets:
            seed = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(seed)
            buckets = torch.randint(0, 2 * self.dim, (self.hashes, size), generator=generator)
            self._buckets[name] = buckets.to(device)
        return self._buckets[name]

    def finished(self, out: torch.Tensor) -> torch.Tensor:
        """The projected gradients, float32 (B, dim), of the sum `out`."""
        if self.dim is None:
            return out
        return (out[:, : self.dim] - out[:, self.dim :]) / self.hashes**0.5


class _Watched(torch.autograd.Function):
    """A linear layer whose backward pass calls `take` with its input and its output's gradient. The weight must require
    a gradient, so that the backward pass is called, but gets none."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, take):
        ctx.save_for_backward(inputs, weight)
        ctx.take = take
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        ctx.take(inputs, gradient)
        input_gradient = None
        if ctx.needs_input_grad[0]:  # in the same types as the layer's usual backward pass, also under autocast
            input_gradient = (gradient @ weight.to(gradient.dtype)).to(inputs.dtype)
        return input_gradient, None, None, None


class PerExample:
    """Gradients of each row of a batch with respect to a model's watched weights; used as a context.

    Inside the context dropout is off, other weights require no gradient, and no weight's `grad` changes.

    Args:
        model: whose gradients are taken.
        projection: of the gradients.
        modules: the names of the linear layers, or endings of them, whose weights are watched; None: those of LoRA.
    """

    def __init__(self, model: nn.Module, projection: Projection, modules: list[str] | None = None):
        self.model, self.projection = model, projection
        self.layers = watched_layers(model, modules)
        self.weights: dict[str, nn.Parameter] = {}
        names: dict[nn.Parameter, str] = {}
        for name, layer in self.layers.items():
            self.weights.setdefault(names.setdefault(layer.weight, f"{name}.weight"), layer.weight)
        self._names = {name: names[layer.weight] for name, layer in self.layers.items()}
        self._moments: dict[str, Moments] | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._taken: set[str] = set()
        self._left: dict[str, int] = {}  # of each weight, uses in the forward pass whose gradients are still to come
        self._forward_pass = False

    def __enter__(self) -> "PerExample":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_without_dropout(self.model))
        self._stack.enter_context(_requiring_gradients(self.model, set(self.weights.values())))
        for name, layer in self.layers.items():
            self._stack.callback(_restore_forward, layer, layer.__dict__.get("forward"))
            layer.forward = lambda inputs, layer=layer, name=name: self._forward(inputs, layer, name)
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def __call__(
        self,
        batch: dict[str, torch.Tensor],
        weights: torch.Tensor | None = None,
        moments: dict[str, Moments] | None = None,
        epsilon: str = "outside",
    ) -> torch.Tensor:
        """Projected gradients of each row's loss, float32 (B, dim).

        Args:
            batch: input_ids, attention_mask and labels, (B, length).
            weights: float (B,): a row's loss is the sum over its answer tokens times its weight; None: their mean.
            moments: Adam's, by weight: turn each gradient into Adam's direction before it is projected.
            epsilon: see Moments.direction.
        """
        rows = len(batch["input_ids"])
        self._rows, self._moments, self._epsilon = rows, moments, epsilon
        self._sums, self._taken, self._left = {}, set(), dict.fromkeys(self.weights, 0)
        device = batch["input_ids"].device
        self._out = self.projection.zeros(rows, {n: w.numel() for n, w in self.weights.items()}, device)
        with torch.enable_grad():
            self._forward_pass = True
            losses, owner = answer_losses(self.model, batch)
            self._forward_pass = False
            sums, counts = by_row(losses, owner, rows)
            per_row = sums / counts.clamp(min=1) if weights is None else sums * weights.to(sums)
            before = [weight.grad for weight in self.weights.values()]
            per_row.sum().backward()
        self._check_use(before)
        for name, gradients in self._sums.items():  # of weights with a use that the loss does not depend on
            self._finish(name, gradients)
        out, self._out, self._sums = self._out, None, {}
        return self.projection.finished(out)

    def _check_use(self, before: list[torch.Tensor | None]) -> None:
        """UserError if a watched weight had no gradient through its layer, or another one beside it."""
        for (name, weight), grad in zip(self.weights.items(), before, strict=True):
            if name in self._taken and (weight.grad is None) == (grad is None):
                continue
            if grad is None:
                weight.grad = None
            raise UserError(
                f"scoring: {name} is not only used by its layer (as LoRA on a mixture's experts), so its per-example "
                "gradients can't be taken; name other layers in scoring.modules"
            )

    def _forward(self, inputs: torch.Tensor, layer: nn.Linear, name: str) -> torch.Tensor:
        if self._forward_pass:  # under gradient checkpointing the backward pass calls it again
            self._left[self._names[name]] += 1
        if not torch.is_grad_enabled():  # the first pass under gradient checkpointing
            return nn.functional.linear(inputs, layer.weight, layer.bias)
        if inputs.dim() != 3 or len(inputs) != self._rows:
            raise UserError(
                f"scoring: {name} gets inputs of shape {tuple(inputs.shape)}, which mix the examples (as experts of a "
                "mixture do); name other layers in scoring.modules"
            )
        take = functools.partial(self._take, self._names[name])
        return _Watched.apply(inputs, layer.weight, layer.bias, take)

    def _take(self, name: str, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """One use of a weight: add its per-example gradients in float32.

        inputs: (B, length, p_in); gradient: of the layer's output, (B, length, p_out).
        """
        gradients = torch.bmm(gradient.float().transpose(1, 2), inputs.float()).flatten(1)  # (B, p_out * p_in)
        if name in self._sums:
            gradients = self._sums.pop(name).add_(gradients)
        self._taken.add(name)
        self._left[name] -= 1
        assert self._left[name] >= 0, f"{name} has more gradients than uses"
        if self._left[name]:
            self._sums[name] = gradients
        else:
            self._finish(name, gradients)

    def _finish(self, name: str, gradients: torch.Tensor) -> None:
        if self._moments is not None:
            gradients = self._moments[name].direction(gradients, self._epsilon)
        self.projection.add(self._out, name, gradients)


def _restore_forward(layer: nn.Module, forward) -> None:
    """Restore the instance's forward; None: it had that of its class."""
    del layer.forward
    if forward is not None:
        layer.forward = forward


def watched_layers(model: nn.Module, modules: list[str] | None) -> dict[str, nn.Linear]:
    """The linear layers whose gradients are taken, by name.

    Args:
        model: with the weights that are trained.
        modules: names of layers, or endings of them; None: LoRA's.

    Raises:
        UserError: a name has no layer, or, without names, gradients of some trained weights can't be taken.
    """
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    linear = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and m.weight.requires_grad}
    if any("lora_magnitude_vector" in name for name in trained):
        raise UserError(
            "scoring: DoRA's magnitudes are no linear layers, and it applies LoRA's layers to weights as well as to "
            "examples, so per-example gradients can't be taken; use finetuning=lora"
        )
    elsewhere = {
        weight: name
        for name, module in model.named_modules()
        if type(module) is not nn.Linear
        for weight in module.parameters(recurse=False)
    }
    if modules is not None:
        chosen = {n: m for n, m in linear.items() if any(f".{n}".endswith(f".{module}") for module in modules)}
        for module in modules:
            if not any(f".{n}".endswith(f".{module}") for n in linear):
                raise UserError(f"scoring.modules: {module} is no trained linear layer; use {_examples(linear)}")
        for name, layer in chosen.items():
            if layer.weight in elsewhere:
                raise UserError(
                    f"scoring.modules: the weight of {name} is tied to {elsewhere[layer.weight]}, which is no linear "
                    "layer and adds to its gradient; leave it out"
                )
        return chosen
    if not any("lora_" in name for name in trained):
        raise UserError(
            "scoring: every weight is trained, and gradients of all of them are too many; name some linear layers: "
            f"scoring.modules=[{_examples({n: m for n, m in linear.items() if m.weight not in elsewhere})}]"
        )
    uncovered = trained - {f"{name}.weight" for name in linear}
    if uncovered:
        raise UserError(
            f"scoring: {len(uncovered)} trained weights are not those of linear layers, first {sorted(uncovered)[0]}; "
            "name the linear ones: scoring.modules=[lora_A.default,lora_B.default]"
        )
    return linear


def _examples(linear: dict[str, nn.Linear]) -> str:
    """The distinct last parts of layers' names, at most 8."""
    return ",".join(list(dict.fromkeys(name.rpartition(".")[2] for name in linear))[:8])


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, except for layers with gradient checkpointing, which they do only in training mode."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False) and not getattr(module, "dropout", 0):
            module.training = before[module]
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def _requiring_gradients(model: nn.Module, weights: set[nn.Parameter]) -> Iterator[None]:
    """Only `weights`, of all parameters, require a gradient."""
    others = [p for p in model.parameters() if p.requires_grad and p not in weights]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def moments_of(optimizer, weights: dict[str, nn.Parameter]) -> dict[str, Moments] | None:
    """Adam's state of each of `weights`, by name; None before its first step. UserError for other optimizers."""
    while hasattr(optimizer, "optimizer"):  # accelerate's
        optimizer = optimizer.optimizer
    if optimizer is None or not optimizer.state:
        return None
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    return {name: moments(optimizer.state.get(w, {}), groups.get(w, {}), name) for name, w in weights.items()}


def moments(state: dict, group: dict, name: str) -> Moments:
    """The Moments of one weight. state, group: the weight's and its parameter group's, as in torch.optim."""
    values = [state.get(key) for key in ("exp_avg", "exp_avg_sq", "step")]
    if any(value is None for value in values) or "betas" not in group or group.get("amsgrad"):
        raise UserError(
            f"scoring.adam=true needs Adam's moments, but the optimizer has none for {name}; use "
            "trainer.args.optim=adamw_torch, or scoring.adam=false for plain gradients"
        )
    first, second = (value.detach().float().flatten() for value in values[:2])
    corrected = group.get("bias_correction", True)
    return Moments(first, second, int(values[2]), tuple(group["betas"]), group["eps"], corrected)
