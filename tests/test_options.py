"""What regularises, what saves memory, what runs several networks at once: each against the plain layer."""

from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
import subjects
from cases import packed, unpacked
from subjects import near, tagged, vary

import polyrnn as pr
from polyrnn import recurrence, stack
from polyrnn.backends import leaves, tree_map
from polyrnn.backends._tree import rebuild

T, N, I, H = 7, 3, 2, 5
NUMPY = subjects.ALL["numpy"]
LENGTHS = np.asarray([5, 0, 7])


def point(layer: Any, steps: int = T, batch: int = N, shared: bool = True) -> dict[str, Any]:
    """Parameters, x, a state, and upstream gradients, on the host."""
    rng = np.random.default_rng([steps, batch, len(layer.shapes())])
    lead = (layer.ensemble,) if layer.ensemble else ()
    directions = 2 if layer.bidirectional else 1
    sizes = layer.cell.state_sizes(layer.hidden_size)
    state = [(*lead, layer.num_layers * directions, batch, size) for size in sizes]
    x = (steps, batch, layer.input_size)
    return {
        "params": {name: 0.5 * rng.standard_normal(shape) for name, shape in layer.shapes().items()},
        "x": rng.standard_normal(x if shared else (*lead, *x)),
        "state": packed(tuple(rng.standard_normal(shape) for shape in state)),
        "dy": rng.standard_normal((*lead, steps, batch, directions * sizes[0])),
        "dstate": packed(tuple(rng.standard_normal(shape) for shape in state)),
    }


def everything(layer: Any, a: dict, **options: Any) -> tuple[Any, Any, Any]:
    """y, the final state, and the gradients."""
    y, end, tape = layer.forward(a["params"], a["x"], a["state"], **options)
    return y, end, tuple(layer.backward(tape, a["dy"], a["dstate"]))


def alike(found: Any, wanted: Any, tolerance: str) -> None:
    """Trees of arrays on the host, leaf by leaf."""
    for one, other in zip(leaves(found), leaves(wanted), strict=True):
        near(one, other, tolerance)


def random_masks(layer: Any, rng: np.random.Generator, steps: int = T, batch: int = N) -> dict[str, np.ndarray]:
    """Of every mask that the layer has."""
    out = (2 if layer.bidirectional else 1) * layer.cell.state_sizes(layer.hidden_size)[0]
    found = {}
    for name, (rate, by_step, rows) in layer._masks.items():
        size = {"x": layer.input_size, "y": out}.get(rows, layer.hidden_size)
        found[name] = rng.random((*((steps,) if by_step else ()), batch, size)) >= rate
    return found


# ---- variational dropout ---------------------------------------------------------------------------------------


@tagged("concrete")
@pytest.mark.parametrize("kind", cases.LAYERS)
def test_dropout_of_inputs_and_outputs_is_a_factor_of_x_and_y(subject, kind):
    """One mask for all steps: what the plain layer makes of x * m, times m of the outputs."""
    layer = cases.layer_of(kind, I, H, input_dropout=0.4, output_dropout=0.25)
    plain, masks = cases.layer_of(kind, I, H), random_masks(layer, np.random.default_rng(3))
    a = point(layer)
    m_x, m_y = masks["input_dropout_l0"] / 0.6, masks["output_dropout"] / 0.75
    assert 0 < m_x.mean() < 1 / 0.6 and 0 < m_y.mean() < 1 / 0.75
    y, end, (grads, dx, start) = everything(plain, a | {"x": a["x"] * m_x, "dy": a["dy"] * m_y}, lengths=LENGTHS)
    wanted = (y * m_y, end, (grads, dx * m_x, start))
    found = everything(subject.module(layer), subject.array(a), lengths=LENGTHS, masks=subject.array(masks))
    subject.close(found, wanted, "gradient", "float64")


@vary(lambda subject, kind: "compiles" not in subject.tags or kind == "gru_before", kind=cases.LAYERS)
def test_dropout_of_the_state_is_a_recurrent_weight_of_each_example(subject, kind):
    """Only the product with h sees the mask: sequence n runs with columns of U taken out, whatever its gates read."""
    layer = cases.layer_of(kind, I, H, recurrent_dropout=0.4)
    a, masks = point(layer), random_masks(layer, np.random.default_rng(4))
    found = everything(subject.module(layer), subject.array(a), masks=subject.array(masks))
    y, *states = found[0], *unpacked(found[1])
    mask = masks["recurrent_dropout_l0"]
    assert mask.any() and not mask.all()
    for n in range(N):
        weight = a["params"]["weight_hh_l0"] * (mask[n] / 0.6)
        one = {"params": a["params"] | {"weight_hh_l0": weight}}
        one |= {k: tree_map(lambda part, n=n: part[:, n : n + 1], a[k]) for k in ("x", "state", "dy", "dstate")}
        alone = everything(cases.layer_of(kind, I, H), one)
        alike(subject.host(y)[:, n : n + 1], alone[0], "forward")
        for part, wanted in zip(states, unpacked(alone[1]), strict=True):
            alike(subject.host(part)[:, n : n + 1], wanted, "forward")
        alike(subject.host(found[2][1])[:, n : n + 1], alone[2][1], "gradient")
    # dU is the sum over the examples of what each gives its own U, times its mask.
    total = sum(
        everything(
            cases.layer_of(kind, I, H),
            {"params": a["params"] | {"weight_hh_l0": a["params"]["weight_hh_l0"] * (mask[n] / 0.6)}}
            | {k: tree_map(lambda part, n=n: part[:, n : n + 1], a[k]) for k in ("x", "state", "dy", "dstate")},
        )[2][0]["weight_hh_l0"]
        * (mask[n] / 0.6)
        for n in range(N)
    )
    alike(subject.host(found[2][0]["weight_hh_l0"]), total, "gradient")


# ---- zoneout ---------------------------------------------------------------------------------------------------


@vary(lambda subject, kind: "compiles" not in subject.tags or kind == "lstm", kind=cases.LAYERS)
def test_zoneout_holds_a_unit_at_its_own_steps(subject, kind):
    """Step by step with the plain layer: where the mask of that step is False, the state before stays."""
    zones = {"zoneout_h": 0.4} | ({"zoneout_c": 0.3} if kind == "lstm" else {})
    layer, plain = cases.layer_of(kind, I, H, **zones), cases.layer_of(kind, I, H)
    a, masks = point(layer), random_masks(layer, np.random.default_rng(5))
    state, y = unpacked(a["state"]), []
    for t in range(T):
        _, new = plain.step(a["params"], a["x"][t], packed(state))
        moves = [masks[f"zoneout_{name}_l0"][t] for name in layer.cell.states]
        state = tuple(np.where(m, s, b) for m, s, b in zip(moves, unpacked(new), state, strict=True))
        y.append(state[0][0])
    found = subject.module(layer)(*subject.array((a["params"], a["x"], a["state"])), masks=subject.array(masks))
    subject.close(found, (np.stack(y), packed(state)), "forward", "float64")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_zoneout_with_lengths_and_both_directions(kind):
    """The masks of a step are that step's in the reverse direction too; and all gradients, by central differences."""
    zones = {"zoneout_h": 0.4} | ({"zoneout_c": 0.3} if kind == "lstm" else {})
    layer = cases.layer_of(kind, I, H, bidirectional=True, **zones)
    a, masks, rng = point(layer), random_masks(layer, np.random.default_rng(5)), np.random.default_rng(6)
    y, *_ = everything(layer, a, lengths=LENGTHS, masks=masks)
    # The reverse direction alone, over x turned by hand, as a layer of one direction.
    one = cases.layer_of(kind, I, H, **zones)
    params = {name: a["params"][name + "_reverse"] for name in one.shapes()}
    own = {name: masks[name + "_reverse"] for name in one._masks}
    n = 2  # its length is T
    turned, _ = one(
        params,
        a["x"][::-1, n : n + 1],
        tree_map(lambda part: part[1:, n : n + 1], a["state"]),
        masks={name: mask[::-1, n : n + 1] for name, mask in own.items()},
    )
    near(y[:, n, H:], turned[::-1, 0], "forward")
    grads, dx, start = everything(layer, a, lengths=LENGTHS, masks=masks)[2]
    moves = {k: tree_map(lambda part: rng.standard_normal(part.shape), a[k]) for k in ("params", "x", "state")}

    def value(step: float) -> float:
        moved = {
            k: rebuild(a[k], [p + step * m for p, m in zip(leaves(a[k]), leaves(moves[k]), strict=True)]) for k in moves
        }
        y, end = layer(moved["params"], moved["x"], moved["state"], LENGTHS, masks=masks)
        return (y * a["dy"]).sum() + sum(
            (e * d).sum() for e, d in zip(unpacked(end), unpacked(a["dstate"]), strict=True)
        )

    slope = sum((g * m).sum() for g, m in zip(leaves((grads, dx, start)), leaves(tuple(moves.values())), strict=True))
    near(slope, (value(1e-5) - value(-1e-5)) / 2e-5, "differences")


@vary(lambda subject, kind: "compiles" not in subject.tags or kind == "gru", kind=cases.LAYERS)
def test_without_a_seed_zoneout_takes_the_mean(subject, kind):
    zones = {"zoneout_h": 0.4} | ({"zoneout_c": 0.3} if kind == "lstm" else {})
    layer, plain = cases.layer_of(kind, I, H, **zones), cases.layer_of(kind, I, H)
    a, y = point(layer), []
    state = unpacked(a["state"])
    for t in range(T):
        _, new = plain.step(a["params"], a["x"][t], packed(state))
        rates = zones.values()
        state = tuple(r * b + (1 - r) * s for r, s, b in zip(rates, unpacked(new), state, strict=True))
        y.append(state[0][0])
    found = subject.module(layer)(*subject.array((a["params"], a["x"], a["state"])))
    subject.close(found, (np.stack(y), packed(state)), "forward", "float64")


@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru", "gru_before"])
def test_the_means_gradient(kind):
    """Along a random direction in each argument, by complex steps through the core."""
    zones = {"zoneout_h": 0.4} | ({"zoneout_c": 0.3} if kind == "lstm" else {})
    layer = cases.layer_of(kind, I, H, **zones)
    a, rng = point(layer), np.random.default_rng(6)
    grads, dx, start = everything(layer, a, lengths=LENGTHS)[2]
    valid = np.arange(T)[:, None] < LENGTHS
    direction = tree_map(lambda v: rng.standard_normal(v.shape), {k: a[k] for k in ("params", "x", "state")})
    direction["x"] *= valid[..., None]
    moved = tree_map(lambda v: v.astype("complex128"), {k: a[k] for k in ("params", "x", "state")})
    for p, d in zip(leaves(moved), leaves(direction), strict=True):
        p += 1e-30j * d
    with pr.use_kernels(False):
        own = {name.removesuffix("_l0"): value for name, value in moved["params"].items()}
        state = tuple(part[0].T for part in unpacked(moved["state"]))
        y, end, _ = recurrence.forward(
            NUMPY.backend,
            layer._plan.options,
            own,
            np.transpose(moved["x"] * valid[..., None], (0, 2, 1)),
            state,
            recurrence.Noise(valid[:, None, :]),
            keep=False,
        )
    slope = (np.transpose(y, (0, 2, 1)) * a["dy"]).sum()
    slope += sum((part.T[None] * d).sum() for part, d in zip(end, unpacked(a["dstate"]), strict=True))
    pairs = zip(
        leaves((grads, dx, start)), leaves((direction["params"], direction["x"], direction["state"])), strict=True
    )
    near(sum((g * d).sum() for g, d in pairs), slope.imag / 1e-30, "gradient")


# ---- all masks -------------------------------------------------------------------------------------------------

NOISY = {
    "lstm": pr.LSTM(
        I,
        H,
        num_layers=2,
        bidirectional=True,
        dropout=0.2,
        input_dropout=0.3,
        recurrent_dropout=0.4,
        output_dropout=0.25,
        zoneout_h=0.3,
        zoneout_c=0.2,
    ),
    "gru": pr.GRU(
        I, H, num_layers=3, dropout=0.2, input_dropout=0.3, recurrent_dropout=0.4, zoneout_h=0.3, reset_after=False
    ),
}


@pytest.mark.parametrize("kind", NOISY)
def test_one_seed_gives_the_same_masks_everywhere(kind):
    """On every backend and under jit: the results agree; and another seed, or none, gives others."""
    layer = NOISY[kind]
    a = point(layer)
    y, *_ = everything(layer, a, lengths=LENGTHS, seed=11)
    for subject in subjects.running():
        if subject.library != "torch":
            found = subject.module(layer)(
                *subject.array((a["params"], a["x"], a["state"])), subject.array(LENGTHS), subject.array(np.int32(11))
            )
            subject.close(found[0], y, "forward", "float64")
    for seed in (12, None):
        assert np.abs(layer(a["params"], a["x"], a["state"], LENGTHS, seed)[0] - y).max() > 0.01


def test_masks_drop_at_their_rates_and_no_two_are_alike():
    layer = replace(NOISY["lstm"], hidden_size=83, input_size=83)
    source = stack._Source(np, layer._plan, None, np.asarray([5, 7], dtype=np.int32), None)
    drawn = {}
    for k in range(2):
        drawn[f"input {k}"] = (source.factor(f"input_dropout_l{k}", 1, k, (91, 83), np.float64) > 0, 0.3)
        for number, suffix in enumerate((f"_l{k}", f"_l{k}_reverse"), 2 * k):
            drawn["recurrent" + suffix] = (
                source.factor("recurrent_dropout" + suffix, 2, number, (91, 83), np.float64) > 0,
                0.4,
            )
    drawn["output"] = (source.factor("output_dropout", 1, 2, (91, 83), np.float64) > 0, 0.25)
    for name, (mask, rate) in drawn.items():
        assert abs(1 - mask.mean() - rate) < 5 * (rate * (1 - rate) / mask.size) ** 0.5, name
    flat = [mask.ravel() for mask, _ in drawn.values()]
    for k, one in enumerate(flat):
        for other in flat[:k]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / one.size**0.5


@pytest.mark.parametrize("kind", NOISY)
def test_zoneouts_masks_of_a_seed_are_those_of_their_steps(kind):
    """A reverse direction's steps are numbered as x's: a sequence cut short has the same masks at its beginning."""
    layer = replace(NOISY[kind], dropout=0.0, num_layers=1, bidirectional=False)
    a = point(layer)
    whole, *_ = layer.forward(a["params"], a["x"], a["state"], seed=3)
    part, *_ = layer.forward(a["params"], a["x"][:4], a["state"], seed=3)
    assert np.array_equal(whole[:4], part)
    turned = replace(layer, bidirectional=True)
    b = point(turned)
    names = [name for name in turned.shapes() if name.endswith("_reverse")]
    keys = [source.noise.steps for source in turned.forward(b["params"], b["x"], seed=3)[2].stack.recurrences]
    assert names and np.array_equal(keys[0], keys[1][::-1]) and keys[0][0] == 0


def test_zoneouts_masks_of_a_seed_have_their_rates_and_differ_from_block_to_block():
    layer = pr.LSTM(I, 31, zoneout_h=0.4, zoneout_c=0.1)
    a, size = point(layer, 101, 29), recurrence.steps_per_block(29)
    *_, tape = layer.forward(a["params"], a["x"], seed=3)
    for move, rate in zip(tape.stack.recurrences[0].residuals.moves, (0.4, 0.1), strict=True):
        assert move.shape == (101, 31, 29)
        assert abs(1 - move.mean() - rate) < 5 * (rate * (1 - rate) / move.size) ** 0.5
        assert np.mean(move[:size] == move[size : 2 * size]) < 1 - rate * (1 - rate)


# ---- segments that are computed again --------------------------------------------------------------------------

LONG = {
    "rnn": pr.RNN(I, H, nonlinearity="relu"),
    "lstm": pr.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.2),
    "lstm projection": pr.LSTM(I, H, proj_size=3),
    "gru": pr.GRU(I, H),
    "noisy lstm": NOISY["lstm"],
    "noisy gru": NOISY["gru"],
    "variant": pr.LSTM(I, H, peephole=True, layer_norm=True, clip=0.9),
}


@pytest.mark.parametrize("remat", [1, 40, "auto", 10_000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", LONG)
def test_gradients_of_segments_are_equal_to_the_last_bit_on_numpy(kind, dtype, remat):
    layer = LONG[kind]
    a = tree_map(lambda part: part.astype(dtype), point(layer, 101, 29))
    assert 3 * recurrence.steps_per_block(29) < 101 < recurrence.steps_per_segment(10_000, 29)
    lengths = np.random.default_rng(7).integers(0, 102, 29)
    plain = everything(layer, a, lengths=lengths, seed=5)
    again = everything(replace(layer, remat=remat), a, lengths=lengths, seed=5)
    for one, other in zip(leaves(again), leaves(plain), strict=True):
        assert one.dtype == other.dtype == dtype and np.array_equal(one, other)


@vary(lambda subject, kind: "compiles" not in subject.tags or kind == "noisy gru", kind=("gru", "noisy gru", "variant"))
def test_segments_on_every_backend(subject, kind):
    layer = LONG[kind]
    a = point(layer, 101, 29)
    lengths = np.random.default_rng(7).integers(0, 102, 29)
    wanted = everything(layer, a, lengths=lengths, seed=5)
    again = subject.module(replace(layer, remat=20))
    options = {"lengths": subject.array(lengths), "seed": subject.array(np.int32(5))}
    found = everything(again, subject.array(a), **options)
    subject.close(found, wanted, "gradient", "float64")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_segments_of_short_sequences(steps):
    layer = pr.GRU(I, H, remat="auto")
    a = point(layer, steps)
    plain, again = everything(replace(layer, remat=0), a), everything(layer, a)
    assert all(np.array_equal(p, q) for p, q in zip(leaves(plain), leaves(again), strict=True))


def test_a_tape_of_segments_holds_states_in_place_of_residuals():
    plain, again = pr.LSTM(I, H), pr.LSTM(I, H, remat=40)
    a = point(plain, 1001, 29)
    sizes = []
    for layer in (plain, again):
        *_, tape = layer.forward(a["params"], a["x"], a["state"])
        sizes.append(sum(part.size for part in leaves(tape.stack.recurrences[0].residuals)))
    segment = recurrence.steps_per_segment(40, 29)
    assert sizes[0] == 7 * 1001 * 29 * H
    assert sizes[1] == -(-1001 // segment) * 2 * 29 * H


# ---- ensembles -------------------------------------------------------------------------------------------------

MEMBERS = {
    "rnn": pr.RNN(I, H),
    "lstm": pr.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3),
    "gru": pr.GRU(I, H, learned_state=True),
    "gru before": pr.GRU(I, H, reset_after=False, bias=False),
    "lstm variant": pr.LSTM(I, H, peephole=True, coupled=True, layer_norm=True, clip=0.9, remat=2),
    "gru variant": pr.GRU(I, H, layer_norm=True, reset_after=False, clip=0.9),
}


def member(tree: Any, e: int) -> Any:
    return tree_map(lambda part: part[e, ...], tree)


@pytest.mark.parametrize("batch_first", [False, True], ids=["T N", "N T"])
@pytest.mark.parametrize("shared", [True, False], ids=["one x", "an x each"])
@vary(lambda subject, kind: "compiles" not in subject.tags or kind in ("lstm", "gru variant"), kind=MEMBERS)
def test_an_ensemble_is_its_members(subject, kind, shared, batch_first):
    ensemble, one = replace(MEMBERS[kind], ensemble=3, batch_first=batch_first), MEMBERS[kind]
    a = point(ensemble, shared=shared)
    given = dict(a)
    if batch_first:
        given |= {"x": np.swapaxes(a["x"], -2, -3), "dy": np.swapaxes(a["dy"], -2, -3)}
    found = everything(subject.module(ensemble), subject.array(given), lengths=subject.array(LENGTHS))
    y, end, (grads, dx, start) = subject.host(found)
    if batch_first:
        y, dx = np.swapaxes(y, -2, -3), np.swapaxes(dx, -2, -3)
    total = np.zeros_like(a["x"][0]) if not shared else np.zeros_like(a["x"])
    for e in range(3):
        own = {k: member(a[k], e) for k in ("params", "state", "dy", "dstate")}
        own["x"] = a["x"] if shared else a["x"][e]
        alone = everything(one, own, lengths=LENGTHS)
        alike((y[e], *unpacked(member(end, e))), (alone[0], *unpacked(alone[1])), "forward")
        alike(tuple(grads[name][e] for name in one.shapes()), tuple(alone[2][0].values()), "gradient")
        alike(unpacked(member(start, e)), unpacked(alone[2][2]), "gradient")
        if shared:
            total = total + alone[2][1]
        else:
            alike(dx[e], alone[2][1], "gradient")
    if shared:
        alike(dx, total, "gradient")


def test_an_ensemble_steps_and_draws_its_own_masks():
    layer = pr.GRU(I, H, ensemble=3, zoneout_h=0.4, input_dropout=0.3)
    a = point(layer)
    state, y = a["state"], []
    for x_t in a["x"]:
        y_t, state = layer.step(a["params"], x_t, state)
        y.append(y_t)
    whole, end = layer(a["params"], a["x"], a["state"])
    alike(np.stack(y, axis=1), whole, "forward")
    alike(state, end, "forward")
    ends, _ = layer(member_everywhere(layer, a["params"]), a["x"], seed=3)
    assert np.abs(ends[0] - ends[1]).max() > 0.01  # equal members, other masks


def member_everywhere(layer: Any, params: dict) -> dict:
    return {name: np.broadcast_to(value[:1], value.shape) for name, value in params.items()}


def test_an_ensembles_parameters_are_drawn_one_member_after_the_other():
    params = pr.LSTM(I, H, ensemble=3).init(seed=4)
    rng = np.random.default_rng(4)
    for e in range(3):
        alone = pr.LSTM(I, H).init(seed=rng)
        assert all(np.array_equal(params[name][e], value) for name, value in alone.items())


# ---- gradients of each example ---------------------------------------------------------------------------------

EACH = {
    "rnn": pr.RNN(I, H, nonlinearity="relu"),
    "lstm": pr.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=3),
    "gru": pr.GRU(I, H, learned_state=True),
    "gru before": pr.GRU(I, H, reset_after=False),
    "variant": pr.LSTM(I, H, peephole=True, layer_norm=True),
    "gru variant": pr.GRU(I, H, layer_norm=True),
    "noisy lstm": NOISY["lstm"],
    "noisy gru": replace(NOISY["gru"], remat=3),
}


@vary(lambda subject, kind: "compiles" not in subject.tags or kind in ("gru", "noisy gru"), kind=EACH)
def test_gradients_of_each_example(subject, kind):
    """Those of a batch of that example alone; their sum is the usual gradient."""
    layer = EACH[kind]
    a = point(layer)
    masks = random_masks(layer, np.random.default_rng(8)) if layer._masks else None
    state = None if layer.learned_state else a["state"]
    found = subject.module(layer)
    given, options = subject.array(a), {"lengths": subject.array(LENGTHS), "masks": subject.array(masks)}
    *_, tape = found.forward(given["params"], given["x"], None if state is None else given["state"], **options)
    each = layer.backward(tape, given["dy"], given["dstate"], per_sample=True)
    usual = layer.backward(tape, given["dy"], given["dstate"])
    subject.close(each.x, subject.host(usual.x), "gradient", "float64")
    subject.close(
        {k: subject.xp.sum(g, axis=0) for k, g in each.params.items()},
        subject.host(usual.params),
        "gradient",
        "float64",
    )
    for n in range(N):
        one = {k: tree_map(lambda part, n=n: part[:, n : n + 1], a[k]) for k in ("x", "dy", "dstate")}
        own = (
            None
            if masks is None
            else {k: m[:, n : n + 1] if layer._masks[k].by_step else m[n : n + 1] for k, m in masks.items()}
        )
        before = None if state is None else tree_map(lambda part, n=n: part[:, n : n + 1], state)
        *_, alone = layer.forward(a["params"], one["x"], before, lengths=LENGTHS[n : n + 1], masks=own)
        wanted = layer.backward(alone, one["dy"], one["dstate"]).params
        alike(tuple(subject.host(g)[n] for g in each.params.values()), tuple(wanted.values()), "gradient")


# ---- truncated backpropagation ---------------------------------------------------------------------------------


@tagged("concrete", kernels=False)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_truncated_gradients_forget_what_lies_before_a_piece(subject, lengths):
    """The loss is the whole's; the gradient is that of pieces whose initial states are constants."""
    layer = pr.GRU(I, H, num_layers=2)
    a, rng = point(layer), np.random.default_rng(9)
    targets = rng.standard_normal((T, N, H))
    valid = np.ones((T, N), bool) if lengths is None else np.arange(T)[:, None] < lengths
    state, grads, total = a["state"], dict.fromkeys(layer.shapes(), 0.0), 0.0
    for start in range(0, T, 3):
        here = slice(start, start + 3)
        own = None if lengths is None else np.clip(lengths - start, 0, len(valid[here]))
        y, state, tape = layer.forward(a["params"], a["x"][here], state, own)
        difference = (y - targets[here]) * valid[here][..., None]
        total += (difference**2).sum() / valid.sum() / H
        found = layer.backward(tape, 2 * difference / valid.sum() / H).params
        grads = {name: grads[name] + g for name, g in found.items()}
    run = pr.truncated_value_and_grad(layer, pr.mean_squared_error, steps=3, has_aux=True)
    given = subject.array((a["params"], a["x"], targets, a["state"]))
    (value, end), found = run(*given, None if lengths is None else subject.array(lengths))
    subject.close(value, total, "forward", "float64")
    subject.close(end, state, "forward", "float64")
    subject.close(found, grads, "gradient", "float64")
    whole = pr.value_and_grad(layer, pr.mean_squared_error)(a["params"], a["x"], targets, a["state"], lengths)
    near(subject.host(value), whole[0], "forward")
    assert max(np.abs(whole[1][name] - grads[name]).max() for name in grads) > 1e-3


def test_pieces_of_the_whole_length_or_more_truncate_nothing():
    model = pr.Sequential(e=pr.Embedding(7, I), l=pr.LSTM(I, H, batch_first=True), h=pr.Linear(H, 7))
    params, rng = model.init(seed=0, dtype="float64"), np.random.default_rng(1)
    x, targets = rng.integers(0, 7, (2, N, T))
    mask = rng.random((N, T)) < 0.6
    wanted = pr.value_and_grad(model, pr.softmax_cross_entropy)(params, x, targets, mask=mask)
    for steps in (T, 1000):
        found = pr.truncated_value_and_grad(model, pr.softmax_cross_entropy, steps)(params, x, targets, mask=mask)
        alike(leaves(found)[0], wanted[0], "same")
        alike(tuple(found[1].values()), tuple(wanted[1].values()), "same")
    shorter = pr.truncated_value_and_grad(model, pr.softmax_cross_entropy, 2)(params, x, targets, mask=mask)
    alike(shorter[0], wanted[0], "forward")


@pytest.mark.parametrize("steps", [1, 3, 7, 8])
def test_pieces_cover_everything_once(steps):
    x, targets = np.arange(T * N).reshape(T, N), np.arange(T * N).reshape(T, N) + 1
    found = list(pr.pieces(x, targets, steps, [5, 0, 7], mask=x % 2 == 0))
    assert len(found) == -(-T // steps)
    assert np.array_equal(np.concatenate([p.x for p in found]), x)
    assert np.array_equal(np.concatenate([p.targets for p in found]), targets)
    assert np.array_equal(np.concatenate([p.mask for p in found]), x % 2 == 0)
    assert np.array_equal(sum(p.lengths.sum(axis=0) for p in found), [5, 0, 7])


@pytest.mark.parametrize(
    ("model", "steps", "error", "message"),
    [
        (pr.GRU(I, H, bidirectional=True), 3, ValueError, "a second direction comes from the end"),
        (pr.Sequential(l=pr.GRU(I, H), p=pr.Pool("last")), 3, ValueError, "it needs the whole sequence"),
        (pr.GRU(I, H, ensemble=2), 3, ValueError, "expected ensemble=0"),
        (pr.GRU(I, H), 0, ValueError, "steps=0"),
        (pr.GRU(I, H), 2.5, TypeError, "steps=2.5"),
        (pr.GRU(I, H), True, ValueError, "steps=True"),
    ],
)
def test_what_truncation_refuses(model, steps, error, message):
    with pytest.raises(error, match=message):
        pr.truncated_value_and_grad(model, pr.mean_squared_error, steps)


# ---- an ensemble in training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True], ids=["T N", "N T"])
@pytest.mark.parametrize("shared", [True, False], ids=["one x", "an x each"])
@tagged("concrete", kernels=False)
def test_an_ensemble_in_training(subject, shared, batch_first):
    """Its loss with lengths is the mean of its members' own; `train_step` runs."""
    one = pr.GRU(I, H, batch_first=batch_first)
    layer, rng = replace(one, ensemble=3), np.random.default_rng(3)
    a = point(layer, shared=shared)
    x = np.swapaxes(a["x"], -2, -3) if batch_first else a["x"]
    targets = rng.standard_normal((3, *x.shape[-3:-1], H))
    params, x_, targets_, lengths = subject.array((a["params"], x, targets, LENGTHS))
    value, grads = pr.value_and_grad(layer, pr.mean_squared_error)(params, x_, targets_, lengths=lengths)
    own = pr.value_and_grad(one, pr.mean_squared_error)
    alone = [own(member(a["params"], e), x if shared else x[e], targets[e], lengths=LENGTHS) for e in range(3)]
    near(subject.host(value), np.mean([v for v, _ in alone]), "forward")
    for name in one.shapes():
        near(subject.host(grads[name]), np.stack([g[name] for _, g in alone]) / 3, "gradient")
    optimizer = pr.SGD(0.1)
    step = pr.train_step(layer, pr.mean_squared_error, optimizer)
    after, *_, found, _ = step(params, optimizer.init(params), x_, targets_, lengths=lengths)
    near(subject.host(found), subject.host(value), "same")
    assert np.abs(subject.host(after["weight_hh_l0"]) - a["params"]["weight_hh_l0"]).max() > 0


@tagged("concrete", kernels=False)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_an_ensemble_of_models(subject, lengths):
    """Recurrent layer and head: the loss and the gradients of each member are those of the model alone."""
    rng = np.random.default_rng(8)
    one = pr.Sequential(layer=pr.LSTM(I, H), head=pr.Linear(H, 2))
    models = pr.Sequential(layer=pr.LSTM(I, H, ensemble=3), head=pr.Linear(H, 2, ensemble=3))
    params = {name: rng.standard_normal(shape) for name, shape in models.shapes().items()}
    x, targets = rng.standard_normal((T, N, I)), rng.standard_normal((3, T, N, 2))
    given = subject.array((params, x, targets))
    own = None if lengths is None else subject.array(lengths)
    value, grads = pr.value_and_grad(models, pr.mean_squared_error)(*given, lengths=own)
    run = pr.value_and_grad(one, pr.mean_squared_error)
    alone = [run(member(params, e), x, targets[e], lengths=lengths) for e in range(3)]
    near(subject.host(value), np.mean([v for v, _ in alone]), "forward")
    for name in one.shapes():
        near(subject.host(grads[name]), np.stack([g[name] for _, g in alone]) / 3, "gradient")
    drawn, generator = models.init(seed=2), np.random.default_rng(2)
    first = [pr.LSTM(I, H).init(seed=generator) for _ in range(3)]
    assert np.array_equal(drawn["layer.weight_hh_l0"][2], first[2]["weight_hh_l0"])
    assert drawn["head.weight"].shape == (3, 2, H) and len(np.unique(drawn["head.weight"])) == 6 * H


@pytest.mark.parametrize("batch_first", [False, True], ids=["T N", "N T"])
@pytest.mark.parametrize("shared", [True, False], ids=["one x", "an x each"])
@tagged("concrete", kernels=False)
def test_lengths_of_models_of_an_ensemble(subject, shared, batch_first):
    """Members of all kinds around it, T = N = E: no axis is taken for another."""
    rng, E = np.random.default_rng(8), 3
    layers = {"front": pr.Linear(I, I), "layer": pr.LSTM(I, H, batch_first=batch_first)}
    behind = {"drop": pr.Dropout(0.3), "again": pr.GRU(H, I, batch_first=batch_first)}
    one = pr.Sequential(**layers, **behind, plain=pr.Linear(I, I), head=pr.Linear(I, 2))
    several = {
        name: replace(module, ensemble=E) for name, module in (*layers.items(), *behind.items()) if name != "drop"
    }
    several = {**several, "front": layers["front"]}
    models = pr.Sequential(
        front=several["front"],
        layer=several["layer"],
        drop=behind["drop"],
        again=several["again"],
        plain=pr.Linear(I, I),
        head=pr.Linear(I, 2, ensemble=E),
    )
    params = {name: rng.standard_normal(shape) for name, shape in models.shapes().items()}
    x = rng.standard_normal((E, E, I) if shared else (E, E, E, I))
    dy, lengths = rng.standard_normal((E, E, E, 2)), np.asarray([2, 0, 3])
    y, _, tape = models.forward(*subject.array((params, x)), lengths=subject.array(lengths))
    grads = models.backward(tape, subject.array(dy)).params
    plain = dict.fromkeys(models.shapes(), 0.0)
    for e in range(E):
        own = {k: v if k.startswith(("front", "plain")) else v[e] for k, v in params.items()}
        alone, _, tape = one.forward(own, x if shared else x[e], lengths=lengths)
        near(subject.host(y)[e], alone, "forward")
        assert not alone[(1,) if batch_first else (slice(None), 1)].any()
        for name, gradient in one.backward(tape, dy[e]).params.items():
            if name.startswith(("front", "plain")):
                plain[name] = plain[name] + gradient
            else:
                near(subject.host(grads[name])[e], gradient, "gradient")
    for name in params:
        if name.startswith(("front", "plain")):
            near(subject.host(grads[name]), plain[name], "gradient")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((pr.LSTM(2, 4), pr.Linear(4, 2, ensemble=7)), "1 has ensemble=7, but 0 before it is one network"),
        ((pr.Linear(2, 2, ensemble=7), pr.LSTM(2, 4)), "1 is one network, a member before it has ensemble=7"),
        ((pr.LSTM(2, 4, ensemble=2), pr.GRU(4, 4)), "1 is one network, a member before it has ensemble=2"),
        ((pr.LSTM(2, 4, ensemble=2), pr.GRU(4, 4, ensemble=3)), "1 has ensemble=3, a member before it 2"),
        ((pr.LSTM(2, 4, ensemble=2), pr.Linear(4, 4, ensemble=3)), "1 has ensemble=3, a member before it 2"),
        ((pr.LSTM(2, 4, ensemble=2), pr.Pool("last")), "1 is one network"),
    ],
)
def test_ensembles_that_do_not_go_together(members, message):
    with pytest.raises(ValueError, match=message):
        pr.Sequential(*members)


# ---- numbers of NumPy as options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p: pr.LSTM(I, H, input_dropout=p, output_dropout=p, recurrent_dropout=p, num_layers=2, dropout=p),
        lambda p: pr.LSTM(I, H, zoneout_h=p, zoneout_c=p),
        lambda p: pr.LSTM(I, H, clip=p, cell_clip=p),
        lambda p: pr.GRU(I, H, clip=p, activations=("sigmoid", ("hard_sigmoid", p, p), "tanh")),
        lambda p: pr.RNN(I, H, clip=p, nonlinearity=("elu", p)),
        lambda p: pr.Dropout(p),
    ],
)
def test_numbers_of_numpy_are_numbers(make):
    """A float64 scalar, as np.linspace gives, does not promote float32; the layers are equal."""
    layer, same = make(np.float64(0.5)), make(0.5)
    assert layer == same and hash(layer) == hash(same)
    x = np.ones((T, N, I), "float32")
    for seed in (None, 3):
        y, state, tape = layer.forward(layer.init(seed=0), x, seed=seed)
        found = [y, state, *layer.backward(tape, y)]
        assert {part.dtype.name for part in leaves(tuple(found))} == {"float32"}


# ---- what else a reviewer found --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_segments_and_gradients_of_each_example_to_the_last_bit(kind):
    layer = LONG[kind]
    a = point(layer, 101, 29)
    found = []
    for remat in (0, 40):
        again = replace(layer, remat=remat)
        *_, tape = again.forward(a["params"], a["x"], a["state"], seed=3)
        found.append(tuple(again.backward(tape, a["dy"], a["dstate"], per_sample=True)))
    assert all(np.array_equal(p, q) for p, q in zip(*map(leaves, found), strict=True))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint64"])
def test_pieces_take_lengths_of_any_integers(dtype):
    x = np.zeros((100, N, I))
    found = [p.lengths.sum(axis=0) for p in pr.pieces(x, x, 25, np.asarray([100, 7, 60], dtype))]
    assert np.array_equal(found, [[25, 7, 25], [25, 0, 25], [25, 0, 10], [25, 0, 0]])


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([-1, 9, 2], ValueError, "lengths.0. = -1"),
        ([1, 9, 2], ValueError, "lengths.1. = 9"),
        (np.ones(3), TypeError, "whole numbers"),
        ([1, 2], ValueError, "lengths has shape"),
        (np.ones((5, 3), bool), ValueError, "lengths has shape"),
    ],
)
def test_pieces_look_at_their_lengths(lengths, error, message):
    x = np.zeros((T, N, I))
    with pytest.raises(error, match=message):
        pr.pieces(x, x, 3, lengths)
    with pytest.raises(ValueError, match="targets have 6 time steps, x has 7"):
        pr.pieces(x, x[:-1], 3)


def test_where_nothing_counts_the_truncated_loss_is_zero():
    layer = pr.GRU(I, H)
    x, y = np.ones((T, N, I)), np.ones((T, N, H))
    run = pr.truncated_value_and_grad(layer, pr.mean_squared_error, 3)
    value, grads = run(layer.init(dtype="float64"), x, y, lengths=[0, 0, 0])
    assert value == 0 and not any(g.any() for g in grads.values())


@pytest.mark.parametrize("batch_first", [False, True], ids=["T N", "N T"])
def test_the_checker_knows_ensembles(batch_first):
    from polyrnn.gradcheck import check_layer

    layer = pr.GRU(I, 3, ensemble=2, batch_first=batch_first)
    report = check_layer(layer, backend="numpy", lengths=True)
    assert report.ok, report
    own = np.random.default_rng(0).standard_normal((2, 4, 5, I))
    report = check_layer(layer, x=own, backend="numpy", lengths=True)
    assert report.ok, report
