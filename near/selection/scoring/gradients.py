"""Per-example gradients of a model's linear layers from one batched backward pass, projected as they arise.

The gradient of a linear layer's weight for one example is the product of its output's gradient and its input, summed
over the example's tokens: one batched matrix product for a batch, in place of one backward pass for each example
(Goodfellow 2015, arXiv 1510.01799). Layers are watched through an autograd function in place of their forward: inputs
are saved as autograd saves them, so that gradient checkpointing saves what it ever saves, and the weights' own summed
gradients are not computed at all.
"""

import contextlib
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
    """Adam's state for one weight after `steps` steps: moments float32 (p,), its betas and epsilon, and whether it
    corrects their bias."""

    first: torch.Tensor
    second: torch.Tensor
    steps: int
    betas: tuple[float, float]
    eps: float
    corrected: bool = True

    def digest(self) -> str:
        """What identifies it."""
        told = {"first": self.first, "second": self.second, "steps": torch.tensor(self.steps)}
        return f"{tensors_digest(told)} {self.betas} {self.eps} {self.corrected}"

    def to(self, device) -> "Moments":
        return replace(self, first=self.first.to(device), second=self.second.to(device))

    def direction(self, gradients: torch.Tensor, epsilon: str) -> torch.Tensor:
        """The step that Adam would take from here for each of `gradients`, float32 (B, p): its moments updated by it.

        epsilon=outside: m / (sqrt(v) + eps), bias corrected, as torch.optim.Adam does; inside: m / sqrt(v + eps)
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
    added, with a random sign, to `hashes` random ones of `dim`, times 1 / sqrt(hashes). Inner products are kept in
    expectation. Buckets and signs come from the seed and the weight's name alone.

    dim=None: nothing is projected; the gradient itself, weight after weight.
    """

    def __init__(self, dim: int | None, hashes: int = 1, seed: int = 0):
        self.dim, self.hashes, self.seed = dim, hashes, seed
        self._buckets: dict[str, torch.Tensor] = {}

    def zeros(self, rows: int, weights: dict[str, int], device) -> torch.Tensor:
        """What `add` adds to, for weights of these sizes."""
        self._places = dict(zip(weights, [0, *torch.tensor(list(weights.values())).cumsum(0).tolist()], strict=False))
        width = sum(weights.values()) if self.dim is None else 2 * self.dim
        return torch.zeros(rows, width, device=device)

    def add(self, out: torch.Tensor, name: str, gradients: torch.Tensor) -> None:
        """Add the weight `name`'s `gradients`, float32 (B, p), to `out`."""
        if self.dim is None:
            start = self._places[name]
            out[:, start : start + gradients.shape[1]] += gradients
            return
        for buckets in self.buckets(name, gradients.shape[1], gradients.device):
            out.scatter_add_(1, buckets.expand(len(gradients), -1), gradients)

    def buckets(self, name: str, size: int, device="cpu") -> torch.Tensor:
        """int64 (hashes, size): the bucket of each coordinate of a weight, plus `dim` where its sign is minus."""
        if name not in self._buckets:
            seed = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randint(0, 2 * self.dim, (self.hashes, size), generator=generator)
            self._buckets[name] = drawn.to(device)
        return self._buckets[name]

    def finished(self, out: torch.Tensor) -> torch.Tensor:
        """The projected gradients, float32 (B, dim), of what was added."""
        if self.dim is None:
            return out
        return (out[:, : self.dim] - out[:, self.dim :]) / self.hashes**0.5


class _Watched(torch.autograd.Function):
    """A linear layer whose backward pass hands its input and its output's gradient to `take`; the weight has to want a
    gradient, so that this is called, and gets none."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, take):
        ctx.save_for_backward(inputs, weight)
        ctx.take = take
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        ctx.take(inputs, gradient)
        before = None
        if ctx.needs_input_grad[0]:  # in the numbers of the layer's own backward pass, under autocast too
            before = (gradient @ weight.to(gradient.dtype)).to(inputs.dtype)
        return before, None, None, None


class PerExample:
    """Gradients of each row of a batch with respect to a model's watched weights; used as a context.

    modules: the names of linear layers, or endings of them, whose weights are looked at; None: those of LoRA. Dropout
    is off meanwhile, weights that are not watched want no gradient, and no weight's `grad` changes.
    """

    def __init__(self, model: nn.Module, projection: Projection, modules: list[str] | None = None):
        self.model, self.projection = model, projection
        self.layers = watched_layers(model, modules)
        self.weights: dict[str, nn.Parameter] = {}
        names: dict[nn.Parameter, str] = {}
        for name, layer in self.layers.items():
            self.weights.setdefault(names.setdefault(layer.weight, f"{name}.weight"), layer.weight)
        self._names = {name: names[layer.weight] for name, layer in self.layers.items()}
        self._once: set[str] | None = None  # weights that one layer uses once; known after the first row
        self._moments: dict[str, Moments] | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._taken: dict[str, int] = {}

    def __enter__(self) -> "PerExample":
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_without_dropout(self.model))
        self._stack.enter_context(_wanting(self.model, set(self.weights.values())))
        for name, layer in self.layers.items():
            self._stack.callback(_put_back, layer, layer.__dict__.get("forward"))
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

        The loss is the mean over a row's answer tokens; with `weights`, float (B,), their sum times the row's weight.
        moments: each gradient is turned into Adam's direction first.
        """
        rows = len(batch["input_ids"])
        if self._once is None and rows > 1:  # learnt from one row, whose gradients may all be held
            self({name: values[:1] for name, values in batch.items()}, None if weights is None else weights[:1])
        self._rows, self._moments, self._epsilon = rows, moments, epsilon
        self._sums, self._taken = {}, dict.fromkeys(self.weights, 0)
        device = batch["input_ids"].device
        self._out = self.projection.zeros(rows, {n: w.numel() for n, w in self.weights.items()}, device)
        with torch.enable_grad():
            losses, of = answer_losses(self.model, batch)
            sums, counts = by_row(losses, of, rows)
            per_row = sums / counts.clamp(min=1) if weights is None else sums * weights.to(sums)
            before = [weight.grad for weight in self.weights.values()]
            per_row.sum().backward()
        self._check_use(before)
        for name, gradients in self._sums.items():
            self._finish(name, gradients)
        if self._once is None:
            self._once = {name for name, count in self._taken.items() if count == 1}
        out, self._out, self._sums = self._out, None, {}
        return self.projection.finished(out)

    def _check_use(self, before: list[torch.Tensor | None]) -> None:
        """UserError where a watched weight had no gradient through its layer, or one beside it."""
        for (name, weight), grad in zip(self.weights.items(), before, strict=True):
            if self._taken[name] and (weight.grad is None) == (grad is None):
                continue
            if grad is None:
                weight.grad = None
            raise UserError(
                f"scoring: {name} is used in another way than by its own layer (as LoRA on a mixture's experts is), "
                "so that its per-example gradients can't be taken; name other layers in scoring.modules"
            )

    def _forward(self, inputs: torch.Tensor, layer: nn.Linear, name: str) -> torch.Tensor:
        if not torch.is_grad_enabled():  # the first pass under gradient checkpointing
            return nn.functional.linear(inputs, layer.weight, layer.bias)
        if inputs.dim() != 3 or len(inputs) != self._rows:
            raise UserError(
                f"scoring: {name} gets inputs of shape {tuple(inputs.shape)}, which are not kept apart by example "
                "(as experts of a mixture are); name other layers in scoring.modules"
            )
        take = lambda given, gradient: self._take(self._names[name], given, gradient)  # noqa: E731
        return _Watched.apply(inputs, layer.weight, layer.bias, take)

    def _take(self, name: str, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """One use of a weight: its per-example gradients in float32."""
        found = torch.bmm(gradient.float().transpose(1, 2), inputs.float()).flatten(1)
        self._taken[name] += 1
        if self._once is not None and name in self._once:
            assert self._taken[name] == 1, f"{name} was used once before, and twice now"
            self._finish(name, found)
        elif name in self._sums:
            self._sums[name] += found
        else:
            self._sums[name] = found

    def _finish(self, name: str, gradients: torch.Tensor) -> None:
        if self._moments is not None:
            gradients = self._moments[name].direction(gradients, self._epsilon)
        self.projection.add(self._out, name, gradients)


def _put_back(layer: nn.Module, forward) -> None:
    """The forward that an instance had of its own, or that of its class."""
    del layer.forward
    if forward is not None:
        layer.forward = forward


def watched_layers(model: nn.Module, modules: list[str] | None) -> dict[str, nn.Linear]:
    """The linear layers to look at, by name; UserError where trained weights would be left out, or none is found."""
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    linear = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and f"{n}.weight" in trained}
    for name, layer in model.named_modules():  # a tied weight has one name, but several layers
        if type(layer) is nn.Linear and layer.weight.requires_grad:
            linear.setdefault(name, layer)
    if any("lora_magnitude_vector" in name for name in trained):
        raise UserError(
            "scoring: DoRA's magnitudes have per-example gradients that are not those of linear layers, and it applies "
            "LoRA's layers to weights as well as to examples; use finetuning=lora"
        )
    elsewhere = {
        weight: name
        for name, module in model.named_modules()
        if type(module) is not nn.Linear
        for weight in module.parameters(recurse=False)
    }
    if modules is not None:
        found = {n: m for n, m in linear.items() if any(n == w or n.endswith(f".{w}") for w in modules)}
        for wanted in modules:
            if not any(n == wanted or n.endswith(f".{wanted}") for n in linear):
                raise UserError(f"scoring.modules: {wanted} is no linear layer that is trained; use {_some(linear)}")
        for name, layer in found.items():
            if layer.weight in elsewhere:
                raise UserError(
                    f"scoring.modules: the weight of {name} is tied to {elsewhere[layer.weight]}, which is no linear "
                    "layer and has a share in its gradient; leave it out"
                )
        return found
    if not any("lora_" in name for name in trained):
        raise UserError(
            "scoring: every weight is trained, and gradients of all of them are too many; name the linear layers to "
            f"look at: scoring.modules=[{_some({n: m for n, m in linear.items() if m.weight not in elsewhere})}]"
        )
    uncovered = trained - {f"{name}.weight" for name in linear}
    if uncovered:
        raise UserError(
            f"scoring: {len(uncovered)} trained weights are not those of linear layers, first {sorted(uncovered)[0]}; "
            "name the layers to look at in scoring.modules=[lora_A.default,lora_B.default]"
        )
    return linear


def _some(linear: dict[str, nn.Linear]) -> str:
    """Last parts of the layers' names, without repeats."""
    return ",".join(list(dict.fromkeys(name.rpartition(".")[2] for name in linear))[:8])


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """The model as in evaluation, but for layers that checkpoint gradients, which do so in training alone."""
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
def _wanting(model: nn.Module, weights: set[nn.Parameter]) -> Iterator[None]:
    """Of all parameters only `weights` want a gradient."""
    others = [p for p in model.parameters() if p.requires_grad and p not in weights]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def moments_of(optimizer, weights: dict[str, nn.Parameter]) -> dict[str, Moments] | None:
    """Adam's state for each of `weights` (LoRA's or others, by name); None before its first step. UserError for another
    kind of optimizer."""
    while hasattr(optimizer, "optimizer"):  # accelerate's
        optimizer = optimizer.optimizer
    if optimizer is None or not optimizer.state:
        return None
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    return {name: moments(optimizer.state.get(w, {}), groups.get(w, {}), name) for name, w in weights.items()}


def moments(state: dict, group: dict, name: str) -> Moments:
    """The state of one weight and its group, as torch.optim keeps them, as Moments."""
    found = [state.get(key) for key in ("exp_avg", "exp_avg_sq", "step")]
    if any(value is None for value in found) or "betas" not in group or group.get("amsgrad"):
        raise UserError(
            f"scoring.adam=true needs Adam's moments, and the optimizer has none of its kind for {name}; use "
            "trainer.args.optim=adamw_torch, or scoring.adam=false for plain gradients"
        )
    first, second = (value.detach().float().flatten() for value in found[:2])
    corrected = group.get("bias_correction", True)
    return Moments(first, second, int(found[2]), tuple(group["betas"]), group["eps"], corrected)
