"""Layers that integers compute: what is prepared, rounded and chosen, on a small network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from lvexport.converters.compression import quantize as round_weight
from lvexport.converters.contract import Budget, ConversionError, Integers
from lvexport.converters.quantization import bias
from lvexport.converters.quantization.channels import connected
from lvexport.converters.quantization.equalize import equalize
from lvexport.converters.quantization.grids import Grid, spanning
from lvexport.converters.quantization.loss import loss
from lvexport.converters.quantization.narrow import candidates, fit, narrow
from lvexport.converters.quantization.observers import BINS, OBSERVERS, Seen
from lvexport.converters.quantization.quantize import WEIGHTS, Calibration, Others, check, grids, observed, quantize
from lvexport.converters.quantization.search import choose, fewest
from lvexport.converters.quantization.settings import OBSERVER_NAMES, Assignment, Integer, Loss, Settings
from lvexport.converters.quantization.sites import Whole, sites, whole
from lvexport.converters.quantization.switches import Switchboard
from lvexport.converters.rewrites.activations import spell_silu
from lvexport.converters.rewrites.apply import rewritten
from lvexport.converters.rewrites.defaults import default
from lvexport.converters.rewrites.graph import constant
from tests.networks import SIDE, Dense, Small, small, with_outliers

Batches = list[tuple[Tensor, ...]]
FORM = Integers(4, half=True)


def pictures(count: int, seed: int = 0) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return [(torch.nn.functional.interpolate(x[None], (SIDE, SIDE), mode="bilinear"),) for x in coarse]


def program(network: nn.Module) -> GraphModule:
    exported = torch.export.export(network, pictures(1)[0])
    return rewritten(exported, default("executorch", "fp32", None))[0]


@torch.no_grad()
def answers(module: torch.nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    return torch.cat([module(*batch) for batch in batches])


def noise_db(reference: Tensor, measured: Tensor) -> float:
    return -10 * float(torch.tensor(loss(reference, measured, None).noise).log10())


def rounded(network: Small, settings_: Settings, calibration: Batches) -> tuple[torch.nn.Module, object]:
    made, integer, _ = quantize(program(network), Calibration(calibration), calibration[:4], settings_)
    return made.module(), integer


# Grids and observers.


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from([4, 8, 16]))
def test_a_grid_has_zero_and_reaches_the_bounds(a: float, b: float, bits: int) -> None:
    low, high = min(a, b), max(a, b)
    grid = spanning(low, high, bits)
    ends = grid.rounded(torch.tensor([low, 0.0, high]))
    assert ends[1] == 0
    assert torch.allclose(ends, torch.tensor([low, 0.0, high]), atol=max(grid.scale * 0.51, 1e-5), rtol=1e-4)


def test_what_is_always_zero_has_a_grid_that_biases_fit() -> None:
    assert spanning(0.0, 0.0) == spanning(-1e-9, 1e-9) == Grid(1.0, 0)


def test_sixteen_bits_have_no_zero_point() -> None:
    assert spanning(-1.0, 5.0, 16).zero_point == 0


@pytest.mark.parametrize("name", OBSERVER_NAMES)
def test_observers_find_a_range_that_serves(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.cat([torch.randn(100_000, generator=generator), torch.tensor([60.0])])
    low, high = float(numbers.min()), float(numbers.max())
    seen = Seen(low, high, torch.histc(numbers, BINS, low, high).double())
    span = OBSERVERS[name](seen, 8)
    inside = numbers[:-1]
    error = (spanning(*span).rounded(inside) - inside).square().mean()
    least = {"min-max": 16, "mse": 20, "percentile": 28, "entropy": 28}  # of one number in 100,000 that is far out
    found = float(10 * torch.log10(inside.square().mean() / error))
    assert found > least[name], (found, span)
    assert (span[1] == high) == (name == "min-max")


def test_fine_steps_cut_less_off() -> None:
    numbers = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([9.0])])
    low, high = float(numbers.min()), float(numbers.max())
    seen = Seen(low, high, torch.histc(numbers, BINS, low, high).double())
    coarse, fine = (OBSERVERS["percentile"](seen, bits) for bits in (8, 16))
    assert coarse[1] < 6
    assert fine == pytest.approx((low, high))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_fewest_are_found(least: int, threshold: int, most: int) -> None:
    asked: list[int] = []

    def good(count: int) -> bool:
        asked.append(count)
        return count >= threshold

    least = min(least, most)
    assert fewest(good, least, most) == min(max(least, threshold), most)
    assert len(asked) <= 2 * 7 + 2


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_connected_names_are_alike(pairs: list[tuple[int, int]]) -> None:
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    found = connected(edges, 20)
    groups = [{i} for i in range(20)]
    for a, b in pairs:
        joined = groups[a] | groups[b]
        for member in joined:
            groups[member] = joined
    assert all((found[i] == found[j]).item() == (j in groups[i]) for i in range(20) for j in range(20))


# Preparation.


def test_equalising_keeps_the_function_and_undoes_outliers() -> None:
    plain, spread = small(), with_outliers(small(), 3)
    batches = pictures(16)
    reference = answers(plain, batches)
    assert noise_db(reference, answers(spread, batches)) > 90  # the same function, or nothing is shown
    naive, _ = rounded(with_outliers(small(), 3), Settings(8, "min-max"), batches)
    assert noise_db(reference, answers(naive, batches)) < 10
    module = program(spread)
    assert equalize(module, batches) > 100
    assert noise_db(reference, answers(module, batches)) > 90
    prepared, _ = rounded(with_outliers(small(), 3), Settings(8, prepare=True), batches)
    without, _ = rounded(small(), Settings(8, prepare=True), batches)
    with_db, without_db = (noise_db(reference, answers(m, batches)) for m in (prepared, without))
    assert with_db > 20
    assert with_db > without_db - 2


class Chain(nn.Module):
    """Layers one behind the other, among them a dynamic ReLU, so that each one's factors count in the next one's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(i, 16, 1) for i in (3, 16, 16, 16))
        self.slopes = nn.Linear(3, 32)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.slopes(x.mean((2, 3))).sigmoid().reshape(-1, 32, 1, 1).split(16, dim=1)
        y = self.layers[0](x)
        y = self.layers[1](torch.maximum(y * (first + 1), y * second))
        z: Tensor = self.layers[3](self.layers[2](y).relu())
        return z


@torch.no_grad()
def scaled(chain: Chain) -> Chain:
    """The same function with channels over three decades."""
    for before, behind in pairwise(chain.layers):
        s = 10 ** (3 * (torch.rand(16) - 0.5))
        before.weight.mul_(s.reshape(-1, 1, 1, 1))
        before.bias.mul_(s)
        behind.weight.div_(s.reshape(1, -1, 1, 1))
    return chain


@pytest.mark.parametrize("made", [lambda: (small(), with_outliers(small(), 3)), lambda: (Chain(), scaled(Chain()))])
def test_equalised_networks_of_one_function_are_the_same(made: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    modules, batches = [program(network) for network in made()], pictures(16)
    for module in modules:
        equalize(module, batches)
    plain, spread = ([constant(m, site.node.args[1]) for site in sites(m)] for m in modules)
    for a, b in zip(plain, spread, strict=True):
        assert a is not None
        assert b is not None
        assert float((b - a).abs().max() / a.abs().max()) < 0.05


def test_agreement_among_few_is_worth_less() -> None:
    found = Loss(500, 0.0, None, 0.98)
    assert found.within(Budget(retrieval=0.95))
    assert found.within(Budget(retrieval=0.95, among=1000))
    assert not found.within(Budget(retrieval=0.95, among=2000))
    assert found.within(Budget(retrieval=0.98, among=100))


@pytest.mark.parametrize(("drop", "all_of_them"), [(1.0, True), (-1.0, False)])
def test_weights_have_four_bits_where_the_budget_allows_it(drop: float, all_of_them: bool) -> None:
    """An accuracy that has to rise, which none does, leaves all with 8."""
    module, batches = program(Dense().eval()), pictures(32)
    found = sites(module)
    board = Switchboard(module, found, grids(found, observed(module, found, batches), Settings(8)), WEIGHTS)
    reference = board.run(batches)
    labels = reference.argmax(1)
    board.turn(lambda site: True)
    narrowed = narrow(board, batches, reference, labels, Budget(drop, retrieval=0.0), FORM)
    bits = {s.site.name: s.weight.quantized.bits for s in board.switched}
    able = {site.name for site in candidates(board)}
    assert len(able) == 3
    assert {name for name, count in bits.items() if count == 4} == (able if all_of_them else set())
    assert {site.name for site in narrowed} == (able if all_of_them else set())
    for switched in board.switched:
        assert int(switched.weight.quantized.data.abs().max()) == (7 if switched.site in narrowed else 127)


def test_fitted_weights_of_four_bits_lose_less() -> None:
    module, batches = program(Dense().eval()), pictures(32)
    found = sites(module)
    board = Switchboard(module, found, grids(found, observed(module, found, batches), Settings(8)), WEIGHTS)
    reference = board.run(batches)
    board.turn(lambda site: True)
    able = candidates(board)
    fit(board, batches, able, FORM)
    fitted = noise_db(reference, board.run(batches))
    for switched in board.switched:
        if switched.site in able:
            switched.weight.keep(round_weight(switched.weight.exact, FORM))
    assert fitted > noise_db(reference, board.run(batches)) + 2


def test_biases_take_up_what_rounding_moves() -> None:
    module, batches = program(small()), pictures(16)
    found = sites(module)
    seen = observed(module, found, batches)
    coarse = Settings(4)  # which moves means more than 8 bits do
    board = Switchboard(module, found, grids(found, seen, coarse), WEIGHTS)
    board.turn(lambda site: False)
    reference = board.run(batches)
    board.turn(lambda site: True)
    before = (board.run(batches) - reference).mean(0).norm()
    bias.correct(board, batches)
    after = (board.run(batches) - reference).mean(0).norm()
    assert after < 0.85 * before


# The program with roundings.


def test_the_settled_program_computes_what_was_searched_with() -> None:
    batches = pictures(8)
    module = program(small())
    found = sites(module)
    board = Switchboard(module, found, grids(found, observed(module, found, batches), Settings(8)), WEIGHTS)
    board.turn(lambda site: site.name != found[2].name)
    wanted = board.run(batches)
    from lvexport.converters.quantization.settle import settle

    assert noise_db(wanted, answers(settle(board.module), batches)) > 60


def test_all_of_a_small_network_is_integers() -> None:
    batches = pictures(8)
    made, integer, _ = quantize(program(small()), Calibration(batches), batches, Settings(8))
    assert integer.layers == len(sites(program(small())))
    assert integer.weights > 0.85
    assert integer.macs > 0.75  # the rest are attention's products
    assert integer.within is None
    assert {str(n.target) for n in made.module().graph.nodes} >= {"quantized_decomposed.dequantize_per_channel.default"}


def test_what_calibration_did_not_see_is_told() -> None:
    batches = pictures(8)
    brighter = [(3 * x,) for (x,) in pictures(4, seed=1)]
    _, integer, _ = quantize(program(small()), Calibration(batches), brighter, Settings(8))
    assert integer.exceeded
    assert max(integer.exceeded.values()) > 0.5
    _, covered, _ = quantize(program(small()), Calibration(batches), batches[:4], Settings(8))
    assert not covered.exceeded


def test_a_layer_that_costs_too_much_stays_floating() -> None:
    """One grid is made far too coarse: the search has to find that layer, and leave it out alone."""
    batches = pictures(24)
    module = program(small())
    found = sites(module)
    spans = grids(found, observed(module, found, batches), Settings(8))
    spoiled = found[1]
    spans[spoiled.output] = Grid(spans[spoiled.output].scale * 100, 0)
    board = Switchboard(module, found, spans, WEIGHTS)
    chosen = choose(board, whole(module, tuple(batches[0])), batches, None, Budget(retrieval=0.9))
    assert chosen.within
    assert list(chosen.floating) == [spoiled.name]
    assert len(board.on()) == len(found) - 1


def test_other_choices_are_made_beside_and_change_nothing() -> None:
    """All layers in integers are what a budget that is always kept makes, and the choice is what it is alone."""
    batches = pictures(24)
    made: dict[Assignment, torch.nn.Module] = {}
    besides = Others(1, lambda assignment, exported: made.update({assignment: exported.module()}))

    def under(least: float, besides: Others | None = None) -> tuple[torch.nn.Module, Integer]:
        settings_, calibration = Settings(8, prepare=True, budget=Budget(retrieval=least)), Calibration(batches)
        found, integer, _ = quantize(program(with_outliers(small(), 3)), calibration, batches[:4], settings_, besides)
        return found.module(), integer

    never = 1.01  # nothing but floating point is left
    (alone, first), (chosen, second), (integers, everywhere) = under(never), under(never, besides), under(0)
    assert first == second
    torch.testing.assert_close(answers(chosen, batches), answers(alone, batches), rtol=0, atol=0)
    assert not everywhere.floating
    assert [assignment.kept for assignment in made] == [0, len(first.floating) // 2]
    (all_of_it, half), (whole_, halved) = made, made.values()
    assert (all_of_it.weights, all_of_it.macs) == (everywhere.weights, everywhere.macs)
    assert everywhere.weights > half.weights > first.weights == 0
    torch.testing.assert_close(answers(whole_, batches), answers(integers, batches), rtol=0, atol=0)
    reference = answers(small(), batches)
    assert noise_db(reference, answers(halved, batches)) > noise_db(reference, answers(integers, batches)) + 1


def test_a_budget_that_cannot_be_kept_is_said() -> None:
    batches = pictures(8)
    module = program(small())
    found = sites(module)
    board = Switchboard(module, found, grids(found, observed(module, found, batches), Settings(2)), WEIGHTS)
    labels = torch.zeros(8, dtype=torch.int64)
    chosen = choose(board, whole(module, tuple(batches[0])), batches, labels, Budget(drop=-2.0))
    assert not chosen.within
    assert not board.on()


def test_small_weights_keep_their_scale() -> None:
    """As those into which a layer scale was folded."""
    network = small()
    with torch.no_grad():
        network.mlp[2].weight.mul_(1e-4)
        network.norm2.weight.mul_(1e-3)
        network.mlp[0].weight.mul_(1e3)
    batches = pictures(8)
    made, _, on = quantize(program(network), Calibration(batches), batches, Settings(8))
    assert min(float(switched.weight.scales.min()) for switched in on) < 1e-6
    assert noise_db(answers(network, batches), answers(made.module(), batches)) > 25


# Gates.


class Gated(torch.nn.Module):
    """SiLU between two layers, one beside a residual stream that needs it unrounded, and one before a view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (torch.nn.Conv2d(3, 3, 1) for _ in range(4))
        self.e = torch.nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, x: Tensor) -> Tensor:
        silu = torch.nn.functional.silu
        first = silu(self.a(x))
        second = silu(self.b(first))
        found: Tensor = self.e(silu(self.d(self.c(second) + second)).flatten(1))
        return found


def test_silu_between_layers_is_rounded_where_integers_compute_it() -> None:
    calibration = pictures(8)
    exported = torch.export.export(Gated().eval(), calibration[0])

    def sigmoids(gates: bool) -> tuple[int, int, tuple[int, int]]:
        module = rewritten(exported, ["activations"])[0]
        made, integer, _ = quantize(module, Calibration(calibration), calibration[:4], Settings(8, gates=gates))
        nodes = [n for n in made.graph.nodes if n.op == "call_function" and "sigmoid" in str(n.target)]
        rounded = [n for n in nodes if all("quantize" in str(user.target) for user in n.users)]
        assert noise_db(answers(exported.module(), calibration), answers(made.module(), calibration)) > 25
        return len(nodes), len(rounded), integer.transitions

    assert sigmoids(gates=False) == (0, 0, (5, 5))
    assert sigmoids(gates=True) == (3, 1, (4, 4))


def gated_board(batches: list[tuple[Tensor, ...]]) -> tuple[Switchboard, Whole]:
    module = rewritten(torch.export.export(Gated().eval(), batches[0]), ["activations"])[0]
    spell_silu(module)
    found, total = sites(module), whole(module, tuple(batches[0]))
    return Switchboard(module, found, grids(found, observed(module, found, batches), Settings(8)), WEIGHTS), total


@pytest.mark.parametrize("gates_cost", [False, True])
def test_sigmoids_go_back_to_floating_point_before_layers_do(gates_cost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = pictures(4)
    board, total = gated_board(batches)

    def measured(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> Loss:
        rounded = any(gate.output.on for gate in board.gates)
        return Loss(len(reference), 0.0, 0.5 if rounded and gates_cost else 0.0, 1.0)

    monkeypatch.setattr("lvexport.converters.quantization.search.loss", measured)
    chosen = choose(board, total, batches, None, Budget())
    assert chosen.within
    assert not chosen.floating
    assert len(board.on()) == 5
    assert [gate.output.on for gate in board.gates] == [not gates_cost]


@pytest.mark.parametrize("gates_cost", [False, True])
def test_sigmoids_come_back_to_integers_where_a_layer_was_to_blame(
    gates_cost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = pictures(4)
    board, total = gated_board(batches)
    blamed = board.switched[-1]

    def measured(reference: Tensor, outputs: Tensor, labels: Tensor | None) -> Loss:
        rounded = any(gate.output.on for gate in board.gates)
        bad = blamed.weight.on or (rounded and gates_cost)
        return Loss(len(reference), float(blamed.weight.on), 0.5 if bad else 0.0, 1.0)

    monkeypatch.setattr("lvexport.converters.quantization.search.loss", measured)
    chosen = choose(board, total, batches, None, Budget())
    assert chosen.within
    assert list(chosen.floating) == [blamed.site.name]
    assert [gate.output.on for gate in board.gates] == [not gates_cost]


class Noisy(nn.Module):
    """Gives what it is given, moved by noise of its own."""

    noise: Tensor

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.register_buffer("noise", noise)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.noise * x.norm()


@pytest.mark.parametrize(
    ("amplitude", "seed", "passes"), [(1, 1, True), (1, 0, True), (1.6, 1, False), (-1.6, 0, False)]
)
def test_written_roundings_may_fall_otherwise_and_no_further(amplitude: float, seed: int, passes: bool) -> None:
    """Seed 0 draws the noise of the program that was searched with."""

    def drawn(seed: int) -> Tensor:
        return 0.01 * torch.randn(1, 40, generator=torch.Generator().manual_seed(seed))

    batches = [(x,) for x in torch.randn(30, 1, 40, generator=torch.Generator().manual_seed(7))]
    exact = torch.cat([x for (x,) in batches])
    wanted = torch.cat([Noisy(drawn(0))(x) for (x,) in batches])
    written = torch.fx.symbolic_trace(Noisy(amplitude * drawn(seed)))
    if passes:
        check(exact, wanted, written, batches)
    else:
        with pytest.raises(ConversionError, match="changed what it computes"):
            check(exact, wanted, written, batches)
