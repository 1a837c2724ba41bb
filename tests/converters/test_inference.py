"""Rewrites for inference: each leaves what is computed as it was, does what it says, and keeps off where it may not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule

import lvexport
from lvexport.converters import derived
from lvexport.converters.contract import ConversionError
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites import apply, axes, defaults, resizes
from lvexport.converters.rewrites.graph import ATEN, calls, is_call
from lvexport.converters.rewrites.registry import REWRITES, Rewrite
from lvexport.models.registry import ENTRIES
from tests.rewriting import operations, rewritten

SMALLEST = ("mobilevit_xxs", "mobilevitv2_050", "mobile_former_26m", "efficientformer_nano", "efficientformerv2_s0")


def network(name: str, dtype: torch.dtype = torch.float32) -> ExportedProgram:
    """A network in which every part counts: fresh linear layers are so small that attention adds next to nothing."""
    model = lvexport.build(name, weights="random", imgsz=64)
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.normal_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.3)
            nn.init.normal_(module.bias)
    return torch.export.export(model.to(dtype), (torch.rand(1, 3, 64, 64).to(dtype),))


@pytest.mark.parametrize("name", SMALLEST)
def test_each_rewrite_leaves_every_family_as_it_was(name: str) -> None:
    original = network(name)
    for rewrite in REWRITES:
        assert apply.rewritten(original, [rewrite])[1] >= 110
    assert apply.rewritten(original, REWRITES)[1] >= 110
    assert apply.rewritten(original, reversed(REWRITES))[1] >= 110


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_all_rewrites_leave_every_network_as_it_was(name: str) -> None:
    """In double precision, for the largest Mobile-Formers with drawn affines magnify what rounding leaves."""
    assert apply.rewritten(network(name, torch.float64), REWRITES)[1] >= 140


class Magnifying(nn.Module):
    """Magnifies a thousandfold, so that any other order of sums moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1000.0 * torch.softmax(self.body(x), 1))


def magnifying() -> ExportedProgram:
    torch.manual_seed(0)
    model = Magnifying().eval()
    nn.init.uniform_(model.body[1].weight, 0.5, 1.5)  # type: ignore[arg-type]
    return torch.export.export(model, (torch.rand(1, 3, 8, 8),))


def test_rounding_that_a_network_magnifies_is_no_fault_of_rewriting() -> None:
    assert 60 < apply.rewritten(magnifying(), ["batch-norms"])[1] < 110


@pytest.mark.parametrize("program", [lambda: network("mobilevit_xxs"), magnifying], ids=["network", "magnifying"])
def test_a_wrong_rewrite_is_refused(program: Callable[[], ExportedProgram], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: GraphModule) -> None:
        for node in calls(module, ATEN.softmax.int):
            with module.graph.inserting_after(node):
                more = module.graph.call_function(ATEN.mul.Tensor, (node, 1.001))
            node.replace_all_uses_with(more, delete_user_cb=lambda user, more=more: user is not more)  # type: ignore[misc]

    planted = Rewrite("wrong", "", "norms.wrong")
    monkeypatch.setitem(REWRITES, "wrong", planted)
    monkeypatch.setattr("lvexport.converters.rewrites.norms.wrong", wrong, raising=False)
    with pytest.raises(ConversionError, match="moved the outputs"):
        apply.rewritten(program(), ["constants", "wrong"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_are_composed_right(data: st.DataObject) -> None:
    """Any chain of reshapes, permutations and selections reads what torch reads."""
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    numbers = torch.arange(prod(shape)).reshape(shape)
    view = axes.whole(tuple(shape))
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()) and numbers.ndim:
            order = data.draw(st.permutations(range(numbers.ndim)))
            numbers, view = numbers.permute(order), axes.permuted(view, order)
        else:
            sizes = data.draw(st.sampled_from(factorings(numbers.numel())))
            following = axes.reshaped(view, sizes)
            if following is None:
                continue
            numbers, view = numbers.reshape(sizes), following
    assert view.shape == tuple(numbers.shape)
    assert torch.equal(numbers.reshape(-1), read(view))


def read(view: axes.View) -> Tensor:
    """The numbers of 0, 1, 2, … that a view reads, in its order."""
    where = torch.tensor([view.offset])
    for size, stride in view.atoms:
        where = (where[:, None] + torch.arange(size) * stride).reshape(-1)
    return where


def factorings(count: int) -> list[tuple[int, ...]]:
    pairs = [(a, count // a) for a in range(1, count + 1) if count % a == 0]
    return [(count,), *pairs, *((a, 1, b) for a, b in pairs)]


class Shuffled(nn.Module):
    """A layer whose channels are shuffled before they are clipped; ``seen``: as they were before, too."""

    def __init__(self, seen: bool) -> None:
        super().__init__()
        self.layer, self.seen = nn.Conv2d(3, 8, 1), seen

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        shuffled = self.layer(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        clipped = nn.functional.relu6(shuffled)
        return (clipped, shuffled) if self.seen else (clipped,)


@pytest.mark.parametrize("seen", [False, True])
def test_what_clips_moves_to_its_layer_where_nothing_else_sees_that(seen: bool) -> None:
    module = rewritten(Shuffled(seen), torch.randn(1, 3, 4, 4), names=["views"])
    (clip,) = calls(module, ATEN.relu6.default)
    assert is_call(clip.args[0], ATEN.conv2d.default) is not seen


@pytest.mark.parametrize("rank", [4, 6])
def test_an_unfolding_takes_few_permutations(rank: int) -> None:
    class Unfold(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(16, 4, 2, 4, 2).permute(0, 1, 3, 2, 4)
            return x.reshape(1, 16, 16, 4).transpose(1, 3).reshape(4, 16, 16)

    names = ["views" if rank == 6 else "flat-views"]
    module = rewritten(Unfold(), torch.rand(1, 16, 8, 8), names=names)
    ranks = [len(n.args[1]) for n in calls(module, ATEN.permute.default)]
    assert len(ranks) <= (1 if rank == 6 else 3)
    assert max(ranks) <= rank


def test_all_of_a_mobilevit_is_one_kind_of_operations() -> None:
    names = [name for name in REWRITES if name != "transposes"]  # which makes layers products
    found = operations(apply.rewritten(network("mobilevit_xxs"), names)[0])
    assert not found.keys() & {"batch_norm", "layer_norm", "unbind", "matmul"}


class Norms(nn.Module):
    """A pre-norm stream with two layers, and what else reads it."""

    def __init__(self, read_by: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 3)
        self.read_by = read_by
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.first(x)
        stream = stream + self.second(torch.relu(x))
        return self.last(self.norm(stream)) + self.read_by(stream)


def nothing(stream: Tensor) -> Tensor:
    return torch.zeros(3)


def total(stream: Tensor) -> Tensor:
    return stream.sum(-1, keepdim=True)


@pytest.mark.parametrize(("read_by", "subtractions"), [(nothing, 0), (total, 1)])
def test_a_stream_is_centred_in_weights_only_where_nobody_sees_it(
    read_by: Callable[[Tensor], Tensor], subtractions: int
) -> None:
    module = rewritten(Norms(read_by), torch.randn(1, 5, 8), names=["norm-affines", "layer-norms"])
    assert not calls(module, ATEN.layer_norm.default)
    assert len(calls(module, ATEN.sub.Tensor)) == subtractions


@pytest.mark.parametrize(("read_by", "kind"), [(nothing, ATEN.rms_norm.default), (total, ATEN.layer_norm.default)])
def test_a_stream_that_weights_centre_is_normalised_by_its_root_mean_square(
    read_by: Callable[[Tensor], Tensor], kind: OpOverload
) -> None:
    module = rewritten(Norms(read_by), torch.randn(1, 5, 8), names=["rms-norms"])
    assert [node.target for node in calls(module, ATEN.rms_norm.default, ATEN.layer_norm.default)] == [kind]


class PaddedAfterNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(x))
        return y


def test_an_addend_is_not_folded_over_padding() -> None:
    module = rewritten(PaddedAfterNorm(), torch.randn(1, 4, 6, 6), names=["batch-norms"])
    assert calls(module, ATEN.batch_norm.default)


class Grouped(nn.Module):
    """Grouped convolutions around a batch normalisation that only the later one can take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 9, 1, groups=3)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(torch.relu(x)))
        return y


def test_a_norm_goes_into_the_groups_behind_it() -> None:
    module = rewritten(Grouped(), torch.randn(1, 6, 4, 4), names=["batch-norms"])
    assert operations(module) == {"relu": 1, "conv2d": 1}


class Attends(nn.Module):
    """torch's own attention; what the mask is stands in ``mask``."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.mask = nn.Linear(8, 24), mask
        self.register_buffer("allowed", torch.rand(5, 5) > 0.3)
        self.register_buffer("bias", torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        given = {"allowed": self.allowed, "bias": self.bias}.get(self.mask)
        return nn.functional.scaled_dot_product_attention(q, k, v, given, is_causal=self.mask == "causal")


@pytest.mark.parametrize(("mask", "left"), [("none", 0), ("bias", 0), ("causal", 0), ("allowed", 1)])
def test_attention_loses_its_guard_where_no_row_can_be_masked(mask: str, left: int) -> None:
    names = ["constants", "attention", "scales", "projections"]
    module = rewritten(Attends(mask), torch.randn(2, 5, 8), names=names)
    assert len(calls(module, ATEN.scaled_dot_product_attention.default)) == left
    assert len(calls(module, ATEN.linear.default)) == 3


class Spelled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gelu = x * 0.5 * (1.0 + torch.erf(x / 2**0.5))
        return gelu + x * torch.sigmoid(x) + x * nn.functional.hardsigmoid(x)


@pytest.mark.parametrize(("sizes", "left"), [((2, 3, 4), 0), ((1, 2, 3, 4), 1), ((1, 2, 2, 3, 4), 0)])
def test_attention_of_four_dimensions_alone_is_left_to_onnx(sizes: tuple[int, ...], left: int) -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(sizes)
    program = derived.for_onnx(torch.export.export(Attends(), (x,)))
    assert len(program.graph.find_nodes(op="call_function", target=ATEN.scaled_dot_product_attention.default)) == left
    torch.testing.assert_close(program.module()(x), Attends()(x))
    if left:
        return
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None


class Unrolled(nn.Module):
    """Units of a map beside each other, twice, as in Hiera: permutations of six dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).permute(0, 2, 4, 1, 3, 5)
            x = x.reshape(4 * n, height // 2, width // 2, channels)
        return x


def test_core_ml_permutes_no_more_dimensions_than_it_has() -> None:
    x = torch.randn(2, 8, 8, 3)
    program = torch.export.export(Unrolled(), (x,))
    limited = derived.for_core_ml(program)
    ranks = [n.meta["val"].ndim for n in limited.graph.nodes if n.op == "call_function"]
    assert max(ranks) <= 5
    assert torch.equal(limited.module()(x), Unrolled()(x))
    assert derived.for_core_ml(limited) is limited


def test_spelled_activations_are_named() -> None:
    module = rewritten(Spelled(), torch.randn(4, 8), names=["activations"])
    assert operations(module) == {"gelu": 1, "silu": 1, "hardswish": 1, "add": 2}


relu6 = nn.functional.relu6
HARD = {
    "hardsigmoid": [
        lambda x: relu6(x + 3) / 6,
        lambda x: relu6(x + 3.0) * (1 / 6),
        lambda x: (3 + x).clamp(0, 6).div(6.0),
        lambda x: nn.functional.hardtanh(x + 3, 0.0, 6.0) / 6,
    ],
    "hardswish": [
        lambda x: x * (relu6(x + 3) / 6),
        lambda x: x * relu6(x + 3) / 6,
        lambda x: x.add(3).clamp(0, 6).mul(1 / 6).mul(x),
        lambda x: relu6(x + 3) * x * (1 / 6),
    ],
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in HARD.items() for form in forms])
def test_hard_sigmoids_are_named_however_they_are_spelled(name: str, form: Callable[[Tensor], Tensor]) -> None:
    x = 8 * torch.randn(4, 8)
    module = rewritten(Function(form), x, names=["activations"])
    assert operations(module) == {name: 1}
    torch.testing.assert_close(module(x), form(x))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: relu6(x + 2) / 6,
        lambda x: relu6(x + 3) / 5,
        lambda x: (x + 3).clamp(0, 5) / 6,
        lambda x: (x + 3).clamp(min=0) / 6,
        lambda x: relu6(torch.add(x, 3, alpha=2)) / 6,
        lambda x: relu6(x + x) / 6,
    ],
)
def test_what_is_no_hard_sigmoid_stays(form: Callable[[Tensor], Tensor]) -> None:
    x = 8 * torch.randn(4, 8)
    module = rewritten(Function(form), x, names=["activations"])
    assert operations(module).keys().isdisjoint(HARD)
    torch.testing.assert_close(module(x), form(x))


def test_a_hard_sigmoid_may_scale_another_map() -> None:
    x = 8 * torch.randn(4, 8)
    module = rewritten(Function(lambda x: x.exp() * relu6(x + 3) / 6), x, names=["activations"])
    assert operations(module) == {"exp": 1, "hardsigmoid": 1, "mul": 1}


class Biased(nn.Module):
    """A bias that is computed from a table and does not depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 9))

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(3).unsqueeze(1) * torch.arange(3)
        return x + self.table.index_select(1, index.reshape(-1)).reshape(4, 3, 3) + torch.rand(1).sum() * 0


def test_what_depends_on_no_input_is_computed_once_but_for_random_numbers() -> None:
    module = rewritten(Biased(), torch.randn(4, 3, 3), names=["constants"])
    assert operations(module).keys() == {"add", "mul", "sum", "rand"}


class Growing(nn.Module):
    """Concatenates what it has so far, at first one tensor."""

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for _ in range(2):
            found.append(torch.cat(found, 1).mean(1, keepdim=True))
        return torch.cat(found, 1)


def test_one_tensor_is_not_concatenated() -> None:
    assert operations(rewritten(Growing(), torch.randn(1, 2, 3), names=["views"]))["cat"] == 2


class Decoding(nn.Module):
    """Queries of its own that attend to each other, and to what is given with parts of one weight; drawn numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.weight = nn.Parameter(torch.randn(1, 2, 4, 8)), nn.Parameter(torch.randn(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        q = nn.functional.dropout(self.queries, 0.5, self.training)
        q = nn.functional.scaled_dot_product_attention(q, q, q)
        k, v = (nn.functional.linear(x, part) for part in self.weight.split([8, 8]))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return y + 0 * nn.functional.scaled_dot_product_attention(self.queries, self.queries, q, dropout_p=0.5)


def test_what_comes_of_queries_and_of_parts_of_a_weight_is_computed_once() -> None:
    module = rewritten(Decoding(), torch.randn(1, 2, 4, 8), names=["constants"])
    found = operations(module)
    assert found["scaled_dot_product_attention"] == 2  # that of what is given, and that which draws
    assert found["split_with_sizes"] == found["dropout"] == 0


class Filled(nn.Module):
    """Tensors that are filled place by place: read when done, read before, filled with what is given; and a state."""

    state: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        done, early, mixed = torch.zeros(3, 3), torch.zeros(3), torch.zeros(3)
        done[:, 1] = torch.arange(3)
        done[0] -= done.clone().sum()
        y = x * early + done.exp() + done[2]
        early += 2
        mixed[:2] = 3
        mixed[1:] = x[0, 1:]
        y = y + early + mixed + self.state * 2
        self.state += 1
        return y


def test_what_is_filled_is_a_constant_once_it_is_done() -> None:
    x = torch.randn(3, 3)
    program = torch.export.export(Filled().eval(), (x,))
    module = apply.rewritten(program, ["constants"])[0]
    assert operations(module)["zeros"] == 2
    assert operations(module)["sub_"] == 0
    left = Filled()
    for _ in range(3):  # apply.rewritten has run the module once already
        left.state.copy_(operator.attrgetter("state")(module))
        torch.testing.assert_close(module(x), left(x))


def test_rms_normalisation_is_folded_and_spelled() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 4))
    with torch.no_grad():
        model[1].weight.copy_(torch.rand(8) + 0.5)
    x = torch.randn(3, 8)
    folded = rewritten(model, x, names=["norm-affines"])
    (norm,) = folded.graph.find_nodes(op="call_function", target=torch.ops.aten.rms_norm.default)
    assert norm.args[2] is None
    spelled = rewritten(model, x, names=["norm-affines", "layer-norms"])
    assert operations(spelled) == {"linear": 3, "mul": 2, "add": 1, "rsqrt": 1}


def test_the_table_names_rewrites_that_half_precision_bears() -> None:
    for target, recipes in defaults.table()["rewrites"].items():
        for recipe, rows in recipes.items():
            assert defaults.OTHERS in rows
            for_integers = (target, recipe) == defaults.INTEGERS
            converter, asked = ("executorch", "w8a8") if for_integers else (target, recipe)
            for name in {name for names in rows.values() for name in names}:
                assert name in REWRITES
                assert REWRITES[name].suits(converter, CONVERTERS[converter].recipes[asked])


class Halves(nn.Module):
    """A strided depthwise convolution and the pixels themselves, as in EfficientFormer V2; parts of the channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.local = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.local(x) + x[:, :, ::2, ::2]).chunk(2, dim=1)
        return first * second + first[:, 1:2] + first.select(1, -1).unsqueeze(1)


def test_slices_are_what_delegates_take() -> None:
    module = rewritten(Halves(), torch.randn(1, 6, 7, 8), names=["slices"])
    assert operations(module)["conv2d"] == 1
    assert not operations(module).keys() & {"chunk", "select", "split"}
    assert all(len(s.args) < 5 for s in calls(module, ATEN.slice.Tensor))


class LinearAttention(nn.Module):
    """Heads that share keys and values, unit vectors as queries, and expansions that nothing needs."""

    def forward(self, x: Tensor) -> Tensor:
        query = nn.functional.normalize(x.reshape(1, 5, 3, 4).transpose(1, 2), dim=-1)
        shared = nn.functional.normalize(x[..., :4], dim=1)
        seen = (query @ shared.transpose(-2, -1)[None]).softmax(-1) @ shared[None]
        total = seen.sum(1).mean(1, keepdim=True)
        return (seen * total.unsqueeze(1).expand(1, 3, 5, 4).expand_as(seen)).repeat(1, 1, 1, 1)


def test_linear_attention_is_what_delegates_take() -> None:
    names = ["views", "vector-norms", "means", "products"]
    module = rewritten(LinearAttention(), torch.randn(1, 5, 12), names=names)
    left = operations(module)
    assert not left.keys() & {"expand", "expand_as", "repeat", "linalg_vector_norm", "matmul"}
    assert left["bmm"] == 5  # two of attention, a sum of squares, of heads and of tokens
    assert left["linear"] == 1


class Repeats(nn.Module):
    """Expansions that make something: a whole repetition, and what is given as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2) * torch.cat([x, x], 1), x[:1].expand(3, 4)  # type: ignore[return-value]


def test_expansions_that_make_something_stay() -> None:
    left = operations(rewritten(Repeats(), torch.randn(3, 4), names=["views"]))
    assert left["repeat"] == left["expand"] == 1


class Mixer(nn.Module):
    """Tokens mixed across, and channels, behind normalisations that read what both add to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(3))
        self.patches, self.tokens, self.channels = nn.Linear(4, 6), nn.Linear(9, 9), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        x = x + torch.tanh(self.tokens(self.norms[0](x).transpose(1, 2))).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.norms[2](x)


@pytest.mark.parametrize("images", [1, 2])
def test_what_mixes_tokens_is_centred_across(images: int) -> None:
    module = rewritten(Mixer(), torch.randn(images, 9, 4), names=["layer-norms", "means"])
    assert not operations(module).keys() & {"layer_norm", "conv2d"}
    assert operations(module)["bmm"] == (images == 1)


class Shifts(nn.Module):
    """Windows that are shifted, and every second token of a map with its channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(x, (-2, 9), (1, 2))[:, ::2, ::2] + torch.roll(x, (7, 0), (1, 2))[:, :4, :4]


def test_shifts_and_strides_of_tokens_are_what_delegates_take() -> None:
    module = rewritten(Shifts(), torch.randn(1, 7, 8, 5), names=["slices"])
    left = operations(module)
    assert not left.keys() & {"roll"}
    assert (left["conv2d"], left["cat"]) == (1, 2)  # a roll by the whole length, or by nothing, moves nothing
    assert all(len(s.args) < 5 for s in calls(module, ATEN.slice.Tensor))


class Rotated(nn.Module):
    """Pairs of neighbours turned, as rotary embeddings of positions do."""

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.stack([-x[..., 1::2], x[..., :-1:2]], -1).reshape(x.shape)
        return x * 0.8 + turned * 0.6


def test_every_other_number_is_a_product() -> None:
    module = rewritten(Rotated(), torch.randn(1, 3, 8), names=["slices"])
    assert operations(module)["linear"] == 2
    assert operations(module)["slice"] == 0


class Resized(nn.Module):
    """A map made larger and smaller, by size and by factor, with and without a low pass before."""

    def forward(self, x: Tensor) -> Tensor:
        def resize(x: Tensor, **given: object) -> Tensor:
            return nn.functional.interpolate(x, **given)  # type: ignore[arg-type]

        wide = resize(x, size=(9, 14), mode="bicubic", align_corners=True)
        half = resize(wide, scale_factor=(0.5, 0.7), mode="bicubic", antialias=True)
        return resize(resize(half, scale_factor=1.7, mode="bicubic"), size=(5, 5), mode="bilinear", antialias=True)


def test_resizing_is_a_product_for_each_axis() -> None:
    x = torch.randn(1, 2, 6, 7)
    module = derived.rewritten(torch.export.export(Resized(), (x,)), resizes.spell_resizes)
    assert operations(module).keys() == {"linear", "transpose"}
    torch.testing.assert_close(module(x), Resized()(x), rtol=1e-4, atol=1e-5)


class Nearest(nn.Module):
    """Nearest neighbours, of a whole factor and of others, and of a map that is too wide for products."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(nn.functional.interpolate(x, scale_factor=2), size=(7, 200))
        return nn.functional.interpolate(nn.functional.interpolate(y, (9, 100)), (4, 30), mode="nearest-exact")


def test_nearest_neighbours_are_products_where_copying_takes_longer() -> None:
    x = torch.randn(1, 2, 6, 7)
    module = derived.rewritten(torch.export.export(Nearest(), (x,)), resizes.spell_nearest)
    assert len(calls(module, *resizes.NEAREST)) == 1
    assert len(calls(module, ATEN.linear.default)) == 6
    torch.testing.assert_close(module(x), Nearest()(x), rtol=0, atol=0)


class TakesOneToken(nn.Module):
    """A layer of whose output only the first token's is read, as of a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y[:, 0] + y[:, 2, :3].sum()


def test_tokens_are_not_taken_for_channels() -> None:
    module = rewritten(TakesOneToken(), torch.randn(2, 5, 8), names=["projections"])
    assert len(calls(module, ATEN.linear.default)) == 1


class PerHead(nn.Module):
    """Queries, keys and values kept head by head, of different widths, and the keys read twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Conv2d(6, 3 * (2 + 2 + 4), 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(2, 3, 8, 20).transpose(2, 3)
        q, k, v = qkv.split((2, 2, 4), dim=-1)
        return torch.softmax(q @ k.transpose(-2, -1), -1) @ v + k.sum()


def test_rows_are_gathered_from_every_head() -> None:
    module = rewritten(PerHead(), torch.randn(2, 6, 4, 5), names=["projections"])
    assert sorted(c.args[1].meta["val"].shape[0] for c in calls(module, ATEN.conv2d.default))[-1] == 12
    assert not operations(module)["split_with_sizes"]


class Squared(nn.Module):
    """A scale behind the product of a layer's output with itself, into which it would go twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return (y @ y) * 0.5


def test_a_scale_is_not_folded_twice() -> None:
    rewritten(Squared(), torch.randn(2, 5, 5), names=["scales"])


@pytest.mark.parametrize(("read", "left"), [("parts", 0), ("overlapping", 1), ("whole", 1)])
def test_a_scale_goes_into_the_rows_of_its_part_alone(read: str, left: int) -> None:
    module = rewritten(ScalesPart(read), torch.randn(2, 5, 8), names=["scales"])
    assert operations(module)["mul"] == left
    assert operations(module)["linear"] == 1


class ScalesPart(nn.Module):
    """Queries, keys and values of one layer, the queries scaled; what else is read of them stands in ``read``."""

    def __init__(self, read: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.read = nn.Linear(8, 24), read

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        q, k, v = qkv.chunk(3, dim=-1)
        y = torch.softmax((q * 0.3) @ k.transpose(-2, -1), -1) @ v
        if self.read == "parts":
            return y + k.mean()
        return y + (qkv[:, :, 4:12] if self.read == "overlapping" else qkv.relu()).mean()


class Heads(nn.Module):
    """Attention with its heads apart, as most write it; ``taken``: how queries, keys and values are taken apart."""

    def __init__(self, taken: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj, self.taken = nn.Linear(12, 36), nn.Linear(12, 12), taken

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, 4, 3).permute(2, 0, 3, 1, 4)
        if self.taken == "one too few":
            q, k, v = qkv[0], qkv[1], qkv[1]
        elif self.taken == "backwards":
            v, k, q = qkv[2], qkv[1], qkv[0]
        else:
            q, k, v = qkv.unbind(0)
        return self.proj((torch.softmax(q @ k.transpose(-2, -1), -1) @ v).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize(("taken", "splits"), [("unbound", 1), ("backwards", 1), ("one too few", 0)])
def test_heads_are_split_without_a_dimension_for_that(taken: str, splits: int) -> None:
    found = operations(rewritten(Heads(taken), torch.randn(2, 5, 12), names=["parts"]))
    assert found["split"] == splits
    assert (found["select"] + found["unbind"] == 0) == bool(splits)


def test_what_products_give_is_not_transposed() -> None:
    found = operations(rewritten(Heads("unbound"), torch.randn(2, 5, 12), names=["parts", "transposes"]))
    assert found["linear"] == 1  # the other is a product of a transpose and its weights
    assert found["matmul"] == 3
    assert found["permute"] == 1  # that brings the heads to the front
    assert found["transpose"] == 4  # operands of products


class MapsAttend(nn.Module):
    """Attention between the places of a map, as in EfficientFormer V2, over several images or one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Conv2d(6, 8, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q, k, v = (layer(x).reshape(n, 2, 4, h * w) for layer in (self.q, self.k, self.v))
        y = torch.softmax(q.transpose(-2, -1) @ k, -1) @ v.transpose(-2, -1)
        return y.transpose(-2, -1).reshape(n, 8, h, w)


@pytest.mark.parametrize("images", [1, 3])
def test_a_transposition_behind_a_product_is_one_of_its_operands(images: int) -> None:
    found = operations(rewritten(MapsAttend(), torch.randn(images, 6, 4, 5), names=["transposes"]))
    assert found["matmul"] == 2
    assert found["transpose"] == 2


class Standing(nn.Module):
    """A transposed product before a linear layer without a batch, which converters would make a layer again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x @ x.T)[:4].T.reshape(2, 3, 4).reshape(6, 4))


def test_a_layer_without_a_batch_stays_a_layer() -> None:
    found = operations(rewritten(Standing(), torch.randn(6, 2), names=["transposes"]))
    assert found["linear"] == 1


class Flattened(nn.Module):
    """A product of which views leave fewer than two dimensions: a single number, and a row."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x[:1] @ x[:1].T).squeeze(), (x @ x.T).flatten()


def test_products_in_fewer_than_two_dimensions_stay() -> None:
    found = operations(rewritten(Flattened(), torch.randn(3, 2), names=["transposes"]))
    assert found["matmul"] == 2


@pytest.mark.parametrize(("groups", "norms"), [(1, 0), (2, 1)])
def test_a_norm_of_one_group_takes_no_views(groups: int, norms: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(groups, 8))
    found = operations(rewritten(model, torch.randn(2, 3, 5, 6), names=["norm-affines", "whole-norms"]))
    assert found["group_norm"] == norms
    assert (found["mean"] == 2) == (not norms)
