"""Per-example gradients against one backward pass for each row, and what is done to them on the way."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from near.common.errors import UserError
from near.models.tokens import IGNORED, Collator
from near.models.weights import tensors_digest, trained
from near.selection.scoring.gradients import Moments, PerExample, Projection, moments_of, watched_layers

pytestmark = pytest.mark.model
ROWS = [5, 9, 3, 7]  # tokens of each row of the batch; all but the longest are padded


def llama(**options) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=1, **sizes, **options))


def lora(model=None, seed: int = 1, **options):
    """A model with LoRA on all linear layers whose B is not zero, as after some steps."""
    options = {"target_modules": "all-linear", "lora_dropout": 0.3, **options}
    model = get_peft_model(model or llama(), LoraConfig(r=4, lora_alpha=8, **options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in trained(model).values():
            weight.copy_(torch.randn_like(weight) * 0.1)
    return model.train()


def batch(sizes=ROWS, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        ids = rng.integers(1, 50, size)
        rows.append({"input_ids": ids, "labels": np.where(np.arange(size) >= size // 3, ids, IGNORED)})
    return rows


def one_by_one(model, rows: list[dict], names: list[str]) -> torch.Tensor:
    """The gradient of each row's mean answer loss by autograd, float32 (rows, p), with transformers' own loss."""
    model = copy.deepcopy(model).eval()
    result = []
    for row in rows:
        model.zero_grad()
        model(**Collator(0)([row]), use_cache=False).loss.backward()
        weights = dict(model.named_parameters(remove_duplicate=False))
        result.append(torch.cat([weights[name].grad.float().flatten() for name in names]))
    return torch.stack(result)


def taken(model, rows: list[dict], modules=None, **options) -> tuple[torch.Tensor, list[str]]:
    """Gradients, and the names of their weights."""
    with PerExample(model, Projection(None), modules) as per_example:
        return per_example(Collator(0)(rows), **options), list(per_example.weights)


def close(result: torch.Tensor, expected: torch.Tensor, share: float = 1e-5) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=share * float(expected.abs().max()))


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj"]}])
def test_equal_to_one_backward_pass_for_each_row(options):
    model = lora(**options)
    result, names = taken(model, batch())
    assert len(names) == len(trained(model))
    close(result, one_by_one(model, batch(), names))


def test_a_row_does_not_depend_on_its_batch():
    model, rows = lora(), batch()
    alone = torch.cat([taken(model, [row])[0] for row in rows])
    close(taken(model, rows)[0], alone)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_gradients_are_projected_as_they_arise(checkpointing):
    """From the first batch on, no more than one weight's gradients are there at a time. None: no checkpointing."""
    model, passes = lora(), []
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    with PerExample(model, Projection(16)) as per_example:
        calls, whole = [], per_example._finish

        def finish(name, gradients):
            calls.append((len(gradients), sum(len(g) for g in per_example._sums.values())))
            whole(name, gradients)

        per_example._finish = finish
        per_example(Collator(0)(batch()))
    assert calls == [(4, 0)] * len(per_example.weights)
    assert len(passes) == 1


def test_calls_do_not_depend_on_each_other():
    """Also after one that failed halfway, as where memory ends."""
    model, rows = lora(), Collator(0)(batch())
    with PerExample(model, Projection(16)) as per_example:
        first = per_example(rows)
        take, calls = per_example._take, []

        def fails(*args):
            calls.append(args)
            if len(calls) == 3:
                raise RuntimeError("out of memory")
            take(*args)

        per_example._take = fails
        with pytest.raises(RuntimeError, match="out of memory"):
            per_example(rows)
        per_example._take = take
        assert torch.equal(per_example(rows), first)


def test_weighted_rows_are_sums_over_tokens():
    model, rows = lora(), batch()
    counts = torch.tensor([float((row["labels"][1:] != IGNORED).sum()) for row in rows])
    weights = torch.tensor([1.0, 0.0, -2.0, 0.5])
    result, names = taken(model, rows, weights=weights)
    close(result, one_by_one(model, rows, names) * (counts * weights)[:, None])


def test_nothing_of_the_model_is_changed():
    model = lora()
    next(iter(trained(model).values())).grad = torch.ones_like(next(iter(trained(model).values())))
    before, state = tensors_digest(dict(model.named_parameters())), torch.random.get_rng_state()
    modes = [m.training for m in model.modules()]
    wanting = [p.requires_grad for p in model.parameters()]
    taken(model, batch())
    assert tensors_digest(dict(model.named_parameters())) == before
    assert [m.training for m in model.modules()] == modes and [p.requires_grad for p in model.parameters()] == wanting
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout is off
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == 1 and grads[0].eq(1).all()
    assert all("forward" not in vars(m) for m in model.modules())


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant):
    model, rows = lora(), batch()
    expected, _ = taken(model, rows)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    calls = []
    layer = model.base_model.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    result, _ = taken(model, rows)
    assert len(calls) == 2  # forward, and again for backward
    close(result, expected)


def test_bfloat16_models_give_float32_gradients():
    model, rows = lora(), batch()
    expected, _ = taken(model, rows)
    low = copy.deepcopy(model).to(torch.bfloat16)
    result, _ = taken(low, rows)
    assert result.dtype == torch.float32
    cosines = torch.nn.functional.cosine_similarity(result, expected, dim=1)
    assert cosines.min() > 0.995
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = taken(model, rows)
    assert torch.nn.functional.cosine_similarity(mixed, expected, dim=1).min() > 0.995


def test_full_fine_tuning_through_named_layers():
    model = llama()
    result, names = taken(model, batch(), ["q_proj", "layers.1.mlp.down_proj"])
    assert len(names) == 3
    close(result, one_by_one(model, batch(), names))


def test_layers_with_one_weight_are_added_up_before_adam():
    """A weight that two layers share has one gradient; Adam's direction of a sum is not the sum of directions."""
    model = llama()
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    result, names = taken(model, batch(), ["up_proj"])
    assert len(names) == 1
    close(result, one_by_one(model, batch(), names))
    size = result.shape[1]
    m = Moments(torch.zeros(size), torch.full((size,), 1e-4), 3, (0.9, 0.99), 1e-8)
    turned, _ = taken(model, batch(), ["up_proj"], moments={names[0]: m})
    close(turned, m.direction(result.clone(), "outside"))


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_a_module_that_is_used_twice(checkpointing):
    model = llama()
    model.model.layers[1] = model.model.layers[0]
    expected = one_by_one(model, batch(), ["model.layers.0.mlp.gate_proj.weight"])
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    close(taken(model.train(), batch(), ["gate_proj"])[0], expected)


def test_a_use_that_the_loss_does_not_depend_on():
    """Its gradient never comes; that of the other use counts all the same."""
    model = llama()
    mlp = model.model.layers[0].mlp
    whole = mlp.forward
    mlp.forward = lambda x: whole(x) + 0 * mlp.gate_proj(x.detach()).detach().mean()
    result, names = taken(model, batch(), ["layers.0.mlp.gate_proj"])
    del mlp.forward
    close(result, one_by_one(model, batch(), names))


@pytest.mark.parametrize(
    ("make", "modules", "line"),
    [
        (lambda: lora(use_dora=True), None, "DoRA.s magnitudes"),
        (llama, None, "name some linear layers"),
        (llama, ["nothing"], "nothing is no trained linear layer; use q_proj,"),
        (lambda: lora(modules_to_save=["norm"]), None, "not those of linear layers"),
        (lambda: llama(tie_word_embeddings=True), ["lm_head"], "tied to model.embed_tokens"),
    ],
)
def test_gradients_that_can_not_be_taken_are_refused(make, modules, line):
    with pytest.raises(UserError, match=line):
        watched_layers(make(), modules)


def test_mixed_examples_are_refused():
    model = llama()
    mlp = model.model.layers[0].mlp
    whole = mlp.forward
    mlp.forward = lambda x: whole(x.flatten(0, 1)).view_as(x)  # as a mixture's experts see their tokens
    with pytest.raises(UserError, match="which mix the examples"):
        taken(model, batch(), ["up_proj"])


def test_a_weight_that_is_used_beside_its_layer_is_refused():
    """As peft's wrapper of a mixture's experts does, whose layers are never called; no gradient is left behind."""
    model = llama()
    mlp, gate = model.model.layers[0].mlp, model.model.layers[0].mlp.gate_proj.weight
    mlp.forward = lambda x: mlp.down_proj(torch.nn.functional.linear(x, gate))
    with pytest.raises(UserError, match="is not only used by its layer"):
        taken(model, batch(), ["gate_proj"])
    assert gate.grad is None


# Adam


def after_steps(optimizer_class=torch.optim.AdamW, steps: int = 3, **options):
    """A model and its optimizer after some steps, and Adam's own next step for a gradient."""
    model = lora()
    optimizer = optimizer_class([p for p in model.parameters() if p.requires_grad], lr=1e-3, **options)
    for seed in range(steps):
        optimizer.zero_grad()
        model(**Collator(0)(batch(seed=seed))).loss.backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("options", [{}, {"betas": (0.8, 0.95), "eps": 1e-3}, {"fused": True}])
def test_adams_direction_is_the_step_that_torch_would_take(options):
    model, optimizer = after_steps(**options)
    names = list(trained(model))
    gradients = one_by_one(model, batch(), names)
    result, order = taken(model, batch(), moments=moments_of(optimizer, trained(model)))
    assert order == names
    for row in range(len(ROWS)):
        twin, step = copy.deepcopy(model), 1e-2
        adam = torch.optim.AdamW(twin.parameters(), lr=step, weight_decay=0.0)
        state = optimizer.state_dict()
        state["param_groups"][0] |= {"lr": step, "weight_decay": 0.0}
        adam = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=step, weight_decay=0.0)
        adam.load_state_dict(copy.deepcopy(state))
        before = torch.cat([p.detach().flatten().clone() for p in trained(twin).values()])
        start = 0
        for weight in trained(twin).values():
            weight.grad = gradients[row, start : start + weight.numel()].view_as(weight).clone()
            start += weight.numel()
        adam.step()
        after = torch.cat([p.detach().flatten() for p in trained(twin).values()])
        close(result[row], (before - after) / step, 2e-4)


def test_epsilon_inside_is_the_authors_formula():
    model, optimizer = after_steps()
    names = list(trained(model))
    gradients = one_by_one(model, batch(), names)
    result, _ = taken(model, batch(), moments=moments_of(optimizer, trained(model)), epsilon="inside")
    states = [optimizer.state[weight] for weight in trained(model).values()]
    first, second = (torch.cat([s[key].flatten() for s in states]) for key in ("exp_avg", "exp_avg_sq"))
    expected = (0.9 * first + 0.1 * gradients) / torch.sqrt(0.999 * second + 0.001 * gradients**2 + 1e-8)
    close(result, expected, 1e-4)


def test_no_moments_before_the_first_step_and_none_of_another_optimizer():
    model, optimizer = after_steps(steps=0)
    assert moments_of(optimizer, trained(model)) is None
    model, optimizer = after_steps(torch.optim.SGD, momentum=0.9)
    with pytest.raises(UserError, match="scoring.adam=false"):
        moments_of(optimizer, trained(model))


# the projection


def test_projection_by_hand():
    """Buckets 0 to dim - 1 add, the others take away; two hashes are scaled by the root of two."""
    projection = Projection(3, hashes=2)
    projection._buckets["w"] = torch.tensor([[0, 4, 2], [5, 0, 1]])
    out = projection.zeros(1, {"w": 3}, "cpu")
    projection.add(out, "w", torch.tensor([[1.0, 10.0, 100.0]]))
    assert projection.finished(out).mul(2**0.5).round(decimals=3).tolist() == [[1 + 10, -10 + 100, 100 - 1]]


def test_projection_depends_on_seed_and_name_alone():
    assert torch.equal(Projection(64).buckets("a", 1000), Projection(64).buckets("a", 1000))
    for other in (Projection(64, seed=1).buckets("a", 1000), Projection(64).buckets("b", 1000)):
        assert not torch.equal(Projection(64).buckets("a", 1000), other)
    drawn = Projection(64, hashes=2).buckets("a", 64_000)
    counts = torch.bincount(drawn.flatten(), minlength=128).float()
    assert (counts - 1000).abs().max() < 6 * 1000**0.5


@pytest.mark.parametrize("hashes", [1, 4])
def test_projection_keeps_inner_products(hashes):
    """Over seeds the mean of the projected inner product is the inner product, with a spread of about 1 / sqrt(dim)."""
    generator = torch.Generator().manual_seed(0)
    pair = torch.nn.functional.normalize(torch.randn(2, 5000, generator=generator), dim=1)
    result = []
    for seed in range(200):
        projection = Projection(256, hashes, seed)
        out = projection.zeros(2, {"w": 5000}, "cpu")
        projection.add(out, "w", pair)
        low = projection.finished(out)
        result.append(float(low[0] @ low[1]))
    spread = np.std(result)
    assert abs(np.mean(result) - float(pair[0] @ pair[1])) < 5 * spread / 200**0.5
    assert 0.7 / 16 < spread < 1.4 / 16


def test_tiny_model_of_the_project(tmp_path):
    from near.data.builtin.tiny import write_tiny

    write_tiny(tmp_path)
    model = lora(AutoModelForCausalLM.from_pretrained(tmp_path))
    result, names = taken(model, batch())
    close(result, one_by_one(model, batch(), names))
