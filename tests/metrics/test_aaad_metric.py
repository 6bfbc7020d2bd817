"""The metric as an object: streams, processes, intervals, options, and input that it refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auface_diffusers.metrics import AAAD, MetricError, Targets, aaad
from auface_diffusers.metrics.tally import cluster_weights, interval, macro, per_column, tally
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED

COLUMNS = ("17", "25", "26", "L12", "R12", "L4")


def made_up(seed=0, items=120, images=2):
    """Targets and what goes with them, as keyword arguments of `AAAD.update`."""
    rng = np.random.default_rng(seed)
    states = rng.choice([ON, OFF, UNSPECIFIED, MASKED], (items, len(COLUMNS)), p=[0.4, 0.4, 0.1, 0.1]).astype(np.int8)
    levels = np.where(states == ON, rng.integers(2, 6, states.shape), np.where(states == OFF, 0.0, np.nan))
    return {
        "presence": rng.random((items, images, len(COLUMNS))),
        "targets": Targets(COLUMNS, states, levels),
        "level": rng.random((items, images, len(COLUMNS))) * 5,
        "found": rng.random((items, images)) < 0.9,
        "clusters": [f"person {row // 3}" for row in range(items)],
    }


def part(data, rows):
    rows = np.asarray(rows)
    plain = {name: data[name][rows] for name in ("presence", "level", "found")}
    return plain | {"targets": data["targets"].rows(rows), "clusters": [data["clusters"][row] for row in rows]}


def metric(*parts, **options):
    made = AAAD(COLUMNS, **{"resamplings": 50, "least": 5, **options})
    for one in parts:
        made.update(**one)
    return made


def assert_same_bits(one, other):
    for a, b in zip(one._arrays(), other._arrays(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(vars(one.compute()).values(), vars(other.compute()).values(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- streams ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(order=st.permutations(range(60)), cuts=st.sets(st.integers(1, 59), max_size=6))
def test_batches_in_any_order_give_the_bits_of_one_call(order, cuts):
    data = made_up(items=60)
    whole = metric(data)
    batches = [part(data, rows) for rows in np.split(np.array(order), sorted(cuts))]
    assert_same_bits(metric(*batches), whole)
    total = metric()
    for batch in batches:
        total = total + metric(batch)
    assert_same_bits(total, whole)


def test_items_without_clusters_are_their_own_wherever_they_are_seen():
    data = made_up() | {"clusters": None}
    halves = [part(made_up(), rows) | {"clusters": None} for rows in np.split(np.arange(120)[::-1], [50])]
    assert_same_bits(metric(*halves), metric(data))
    assert_same_bits(metric(halves[0]) + metric(halves[1]), metric(data))
    named = metric(data | {"clusters": list(range(120))}).compute()
    low, high = metric(data).compute().interval
    assert high - low == pytest.approx(named.interval[1] - named.interval[0], rel=0.5), "as many clusters as items"


def test_a_sum_leaves_its_parts_alone_and_goes_on():
    data = made_up()
    first, second = (part(data, rows) for rows in np.split(np.arange(120), [70]))
    a, b = metric(first), metric(second)
    total = a + b
    total.update(**first)
    assert_same_bits(a, metric(first))
    assert_same_bits(b, metric(second))
    assert_same_bits(total, metric(first, second, first))


def test_one_call_is_the_function_and_reset_forgets():
    data = made_up()
    one = metric(data)
    other = aaad(**data, resamplings=50, least=5)
    for a, b in zip(vars(one.compute()).values(), vars(other).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    one.reset()
    assert_same_bits(metric(data), metric(data))
    with pytest.raises(MetricError, match="nothing was scored"):
        one.compute()


def test_memory_does_not_grow_with_what_was_seen():
    data = made_up()
    sizes = [array.nbytes for array in metric()._arrays()]
    full = metric(*[data] * 10)
    assert [array.nbytes for array in full._arrays()] == sizes
    assert full.compute().items == 1200
    kept = [value for value in vars(full).values() if isinstance(value, list | dict)]
    assert not kept, "nothing else is kept"


def test_tensors_and_arrays_give_the_same_bits():
    data = made_up()
    tensors = data | {name: torch.from_numpy(data[name]).requires_grad_() for name in ("presence", "level")}
    assert_same_bits(metric(tensors | {"found": torch.from_numpy(data["found"])}), metric(data))
    half = torch.from_numpy(data["presence"]).bfloat16()
    assert_same_bits(metric(data | {"presence": half}), metric(data | {"presence": half.float().numpy()}))


PROCESS = """
import sys
import numpy as np, torch
from auface_diffusers.metrics import AAAD, Targets
rank, folder = int(sys.argv[1]), sys.argv[2]
data = np.load(f"{folder}/data.npz")
rows = np.arange(len(data["states"]))
own = rows[rows % 3 == 0] if rank == 0 else rows[rows % 3 != 0][::-1]
columns = tuple(data["columns"].tolist())
metric = AAAD(columns, resamplings=50, least=5)
for some in np.array_split(own, 3):
    targets = Targets(columns, data["states"][some], data["levels"][some])
    names = data["clusters"][some].tolist()
    more = {name: data[name][some] for name in ("level", "found")}
    metric.update(data["presence"][some], targets, clusters=names, **more)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
total = metric.sync()
score = total.compute()
np.savez(f"{folder}/{rank}.npz", *total._arrays(), score=[score.aaad, *score.interval, score.failed, score.detected])
torch.distributed.destroy_process_group()
"""


def test_two_processes_give_the_bits_of_one(tmp_path):
    data = made_up()
    targets = data.pop("targets")
    np.savez(tmp_path / "data.npz", **data, states=targets.states, levels=targets.levels, columns=COLUMNS)
    workers = [subprocess.Popen([sys.executable, "-c", PROCESS, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [worker.wait(60) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    alone = metric(data | {"targets": targets})
    score = alone.compute()
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert found["score"].tolist() == [score.aaad, *score.interval, score.failed, score.detected]
            for index, array in enumerate(alone._arrays()):
                np.testing.assert_array_equal(found[f"arr_{index}"], array)


def test_one_process_alone_is_in_sync():
    data = made_up()
    assert_same_bits(metric(data).sync(), metric(data))


# --- intervals -------------------------------------------------------------------------------------------------------

TRUTH = 0.7
SETS = 800


def covered(per_cluster, tied):
    """Share of 95 % intervals that hold `TRUTH`, of data sets in which the faces of one person are alike."""
    rng = np.random.default_rng(per_cluster)
    items, people = 240, 240 // per_cluster
    size = per_cluster if tied else 1
    draws = [cluster_weights([(draw, row // size) for row in range(items)], 500) for draw in range(8)]
    hits = 0
    for run in range(SETS):
        person = np.repeat(rng.normal(0, 0.08, (people, 3)), per_cluster, 0)
        states = (rng.random((items, 3)) < [0.5, 0.3, 0.2]).astype(np.int8)
        values = np.clip(TRUTH + person + rng.normal(0, 0.06, states.shape), 0, 1)
        low, high = interval(macro(per_column(tally(states, values, draws[run % len(draws)]))))
        hits += low <= TRUTH <= high
    return hits / SETS


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_the_interval_holds_the_truth_as_often_as_it_says(per_cluster):
    assert 0.93 <= covered(per_cluster, tied=True) <= 0.97


def test_without_their_clusters_alike_faces_are_taken_for_more_than_they_are():
    assert covered(4, tied=False) < 0.85


def test_weights_of_a_cluster_depend_on_its_name_seed_and_resampling_alone():
    names = ["ann", "bob", ("cy", 1), "ann", 7]
    weights = cluster_weights(names, 300, seed=3)
    assert (weights[0] == 1).all()
    np.testing.assert_array_equal(weights[:, 0], weights[:, 3])
    np.testing.assert_array_equal(cluster_weights(names[::-1], 300, seed=3), weights[:, ::-1])
    np.testing.assert_array_equal(cluster_weights(names, 100, seed=3), weights[:101])
    assert (cluster_weights(names, 300, seed=4)[1:] != weights[1:]).any(0).all()
    many = cluster_weights(range(400), 400)[1:]
    assert many.mean() == pytest.approx(1, abs=0.01)
    assert many.var() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(many[:, :40].T)[np.triu_indices(40, 1)]).mean() < 0.06


# --- options ---------------------------------------------------------------------------------------------------------

CODES = ["12D+25B", "24C+25D", "L12C", "17C", "0", "4D+17B", "12C+15C", "26C"] * 5


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"columns": (*COLUMNS[:-1], "24")}, "columns"),
        ({"covered": COLUMNS[:4]}, "aaad"),
        ({"world": "open"}, "aaad"),
        ({"reading": "raw"}, "aaad"),
        ({"least": 21}, "per_column"),
        ({"resamplings": 30}, "interval"),
        ({"seed": 1}, "interval"),
        ({"level": np.full((40, 6), 2.0)}, "level"),
        ({"found": np.arange(40) > 3}, "failed"),
        ({"clusters": [row // 2 for row in range(40)]}, "interval"),
    ],
    ids=str,
)
def test_every_option_changes_the_score(change, changed):
    presence = np.random.default_rng(0).random((40, 6))
    columns = ("17", "25", "26", "L12", "R12", "24")
    base = {"columns": columns, "resamplings": 20, "least": 5} | ({"columns": COLUMNS} if "columns" in change else {})
    one, other = (vars(aaad(presence, CODES, **{**base, **more}))[changed] for more in ({}, change))
    assert not np.array_equal(one, other, equal_nan=changed not in ("aaad", "interval", "columns"))


# --- bad input -------------------------------------------------------------------------------------------------------


def two(value=0.5, shape=(2, 6)):
    return np.full(shape, value)


@pytest.mark.parametrize(
    ("presence", "options", "message"),
    [
        (two(np.nan), {}, "presence of item 0, image 0, column 0 is nan: numbers in 0..1"),
        (two(1.01), {}, "is 1.01: numbers in 0..1"),
        (two(-0.1), {}, "is -0.1: numbers in 0..1"),
        (two(np.inf), {}, "is inf"),
        (two(np.nan), {"found": [False, True]}, "presence of item 1"),
        (two(shape=(3, 6)), {}, r"presence \(3, 6\) for 2 items"),
        (two(shape=(2, 5)), {}, r"presence \(2, 5\) for 2 items: give \(N, 6\)"),
        (two(shape=(2, 0, 6)), {}, r"presence \(2, 0, 6\)"),
        (two(shape=(6,)), {}, r"presence \(6,\)"),
        (two(), {"found": np.ones(3, dtype=bool)}, r"found \(3, 1\)"),
        (two(shape=(2, 3, 6)), {"found": np.ones((2, 2), dtype=bool)}, r"found \(2, 2\)"),
        (two(), {"clusters": ["a"]}, "1 clusters"),
        (two(), {"level": two(np.nan)}, "level of item 0, image 0, column 0 is nan: numbers in 0..5"),
        (two(), {"level": two(5.5)}, "level of .* is 5.5: numbers in 0..5"),
        (two(), {"level": two(-1)}, "level of .* is -1"),
        (two(), {"level": two(shape=(2, 5))}, r"level \(2, 5\)"),
        (two(shape=(2, 3, 6)), {"level": two()}, r"level \(2, 1, 6\).*presence \(2, 3, 6\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_named_and_leaves_the_metric_as_it_was(presence, options, message):
    made = metric()
    with pytest.raises(MetricError, match=message):
        made.update(presence, ["12D+25C+17C+26C+4C", "0"], **options)
    assert not any(array.any() for array in made._arrays())


def test_targets_of_other_columns_are_refused():
    with pytest.raises(MetricError, match="columns of 2 do not fit"):
        metric().update(two(), Targets(("17", "25"), np.zeros((2, 2), dtype=np.int8), np.zeros((2, 2))))


def test_nothing_is_no_score():
    with pytest.raises(MetricError, match="nothing was scored: call update first"):
        aaad(np.zeros((0, 6)), [], COLUMNS)


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -3.0])
def test_what_does_not_count_may_be_anything(nothing):
    data = made_up(images=1)
    states, found = data["targets"].states, data["found"]
    states[:, 5] = np.where(states[:, 5] == OFF, ON, states[:, 5])
    idle = (states < 0)[:, None] | ~found[..., None] | (np.array(COLUMNS) == "25")
    odd = data | {name: np.where(idle, nothing, data[name]) for name in ("presence", "level")}
    options = {"covered": tuple(name for name in COLUMNS if name != "25")}
    assert_same_bits(metric(odd, **options), metric(data, **options))


def test_clusters_may_be_an_array():
    data = made_up()
    names = np.array([row // 3 for row in range(120)])
    low, high = metric(data | {"clusters": names}).compute().interval
    assert low < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 0}, "least 0"),
        ({"resamplings": -1}, "resamplings -1"),
        ({"world": "flat"}, "world 'flat'"),
        ({"reading": "wild"}, "reading 'wild'"),
        ({"covered": ["99"]}, "covered: 99 are no columns"),
    ],
    ids=str,
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AAAD(COLUMNS, **options)


@pytest.mark.parametrize("change", [{"least": 6}, {"resamplings": 51}, {"seed": 1}, {"world": "open"}], ids=str)
def test_metrics_of_other_settings_do_not_add_up(change):
    with pytest.raises(MetricError, match="these metrics differ"):
        metric() + metric(**change)
