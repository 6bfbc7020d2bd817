"""Decoding of masked tokens: how many are masked when, what is drawn, and what a seed fixes."""

import math
from collections import Counter

import pytest
import torch

from auface_diffusers.schedulers import SCHEDULES, MaskedTokenScheduler, MaskedTokenSchedulerOutput

B, N, V, MASK = 3, 20, 11, 11
LAWS = {
    "cosine": lambda progress: math.cos(progress * math.pi / 2),
    "arccos": lambda progress: math.acos(progress) * 2 / math.pi,
    "linear": lambda progress: 1 - progress,
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def scheduler(steps=5, **options):
    made = MaskedTokenScheduler(MASK, **options)
    made.set_timesteps(steps)
    return made


def random_logits(seed=0, batch=B, scale=1.0):
    return scale * torch.randn(batch, N, V, generator=seeded(seed))


def all_masked(batch=B):
    return torch.full((batch, N), MASK)


def decode(made, logits, generator=None, sample=None, editable=None):
    """All steps, with logits that change a little from step to step; returns the samples after each."""
    sample = all_masked(len(logits)) if sample is None else sample
    states = []
    for timestep in made.timesteps:
        present = logits.roll(int(timestep), dims=2)
        sample = made.step(present, timestep, sample, generator, editable=editable).prev_sample
        states.append(sample)
    return torch.stack(states)


def planned(schedule, steps, start):
    """Masked tokens after each step, of ``start``: the law's share rounded down, at least one fewer each time."""
    counts = [start]
    for step in range(1, steps + 1):
        share = math.floor(LAWS[schedule](step / steps) * start + 1e-9)
        counts.append(max(0, min(share, counts[-1] - 1)))
    return counts[1:]


def half_edited():
    """Tokens of which 3, 10 and 17 are masked, and where."""
    editable = torch.arange(N) < torch.tensor([3, 10, 17])[:, None]
    tokens = torch.randint(V, (B, N), generator=seeded(9))
    return tokens.masked_fill(editable, MASK), editable


class TestSchedules:
    def test_each_has_a_law(self):
        assert SCHEDULES.keys() == LAWS.keys()

    @pytest.mark.parametrize("schedule", LAWS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_falls_from_one_to_zero(self, schedule, dtype):
        progress = torch.linspace(0, 1, 33, dtype=dtype)
        share = scheduler(schedule=schedule).mask_share(progress)
        assert share.dtype == dtype
        assert share[0].item() == pytest.approx(1, abs=torch.finfo(dtype).eps)
        assert share[-1].item() == pytest.approx(0, abs=2e-3)
        assert (share.diff() < 0).all() if dtype.itemsize > 2 else (share.diff() <= 0).all()
        assert ((share >= 0) & (share <= 1)).all()

    @pytest.mark.parametrize("schedule", LAWS)
    def test_follows_its_law(self, schedule):
        share = scheduler(schedule=schedule).mask_share(torch.tensor([0.1, 0.5, 0.8]))
        assert share.tolist() == pytest.approx([LAWS[schedule](progress) for progress in (0.1, 0.5, 0.8)], abs=1e-6)

    @pytest.mark.parametrize("schedule", LAWS)
    @pytest.mark.parametrize("remask", [False, True])
    def test_counts_after_each_step(self, schedule, remask):
        states = decode(scheduler(10, schedule=schedule, remask=remask), random_logits(), seeded(1))
        assert (states == MASK).sum(2).T.tolist() == [planned(schedule, 10, N)] * B

    def test_a_count_that_is_whole_is_not_rounded_down(self):
        made = MaskedTokenScheduler(MASK, schedule="linear")
        made.set_timesteps(10)
        sample = all_masked(1)[:, :10]
        counts = []
        for timestep in made.timesteps:
            sample = made.step(random_logits(batch=1)[:, :10], timestep, sample, seeded(0)).prev_sample
            counts.append(int((sample == MASK).sum()))
        assert counts == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    @pytest.mark.parametrize("remask", [False, True])
    def test_each_step_reveals_one_as_long_as_any_is_masked(self, remask):
        states = decode(scheduler(3 * N, remask=remask), random_logits(), seeded(1))
        counts = torch.cat([torch.full((1, B), N), (states == MASK).sum(2)])
        assert (counts.diff(dim=0) < 0)[counts[:-1] > 0].all()
        assert (counts[-1] == 0).all()

    @pytest.mark.parametrize("steps", [1, 2, 8])
    def test_timesteps_count_down(self, steps):
        made = scheduler(steps)
        assert made.timesteps.dtype == torch.int64
        assert made.timesteps.tolist() == list(range(steps))[::-1]

    def test_one_step_reveals_all(self):
        assert not (decode(scheduler(1), random_logits(), seeded(0))[-1] == MASK).any()


class TestOracle:
    @pytest.mark.parametrize("remask", [False, True])
    @pytest.mark.parametrize("steps", [1, 4, 30])
    def test_sure_logits_give_their_target(self, steps, remask):
        target = torch.randint(V, (B, N), generator=seeded(3))
        logits = 50.0 * torch.nn.functional.one_hot(target, V)
        made = scheduler(steps, remask=remask)
        sample = all_masked()
        for timestep in made.timesteps:
            sample, preview = made.step(logits, timestep, sample, seeded(0), return_dict=False)
            assert torch.equal(preview, target)
        assert torch.equal(sample, target)

    def test_without_noise_the_surest_are_kept(self):
        sureness = torch.rand(B, N, generator=seeded(4))
        logits = torch.zeros(B, N, V)
        logits[..., 5] = sureness
        made = scheduler(2, schedule="linear", temperature=0, choice_temperature=0)
        kept = made.step(logits, 1, all_masked()).prev_sample != MASK
        assert torch.equal(kept, sureness > sureness.median(1, keepdim=True).values)


class TestDraw:
    def test_temperature_zero_is_the_likeliest_and_needs_no_seed(self):
        logits = random_logits()
        made = scheduler(1, temperature=0)
        before = torch.get_rng_state()
        assert torch.equal(made.step(logits, 0, all_masked()).prev_sample, logits.argmax(-1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_draws_follow_the_softmax_at_the_temperature(self):
        logits = torch.tensor([0.0, 1.0, 2.0])
        made = MaskedTokenScheduler(3, temperature=2.0)
        made.set_timesteps(1)
        drawn = made.step(logits.expand(1, 40_000, 3), 0, torch.full((1, 40_000), 3), seeded(0)).prev_sample
        shares = drawn[0].bincount() / drawn.numel()
        assert torch.allclose(shares, (logits / 2).softmax(0), atol=0.01)  # four standard errors

    def test_temperature_runs_from_first_to_last(self):
        logits = random_logits()
        first = scheduler(3, temperature=(0.0, 9.0))
        assert torch.equal(first.step(logits, 2, all_masked(), seeded(0)).pred_original_sample, logits.argmax(-1))
        last = scheduler(3, temperature=(9.0, 0.0))
        assert not torch.equal(last.step(logits, 2, all_masked(), seeded(0)).pred_original_sample, logits.argmax(-1))
        sample, editable = half_edited()
        drawn = last.step(logits, 0, sample, seeded(0), editable=editable).prev_sample
        assert torch.equal(drawn[editable], logits.argmax(-1)[editable])

        constant = scheduler(3, temperature=4.5)  # the middle of both
        middle = [made.step(logits, 1, all_masked(), seeded(0)).prev_sample for made in (first, last, constant)]
        assert torch.equal(middle[0], middle[1])
        assert torch.equal(middle[0], middle[2])

    @pytest.mark.parametrize("top_k", [1, 2, 4, V, V + 5])
    def test_top_k_keeps_that_many(self, top_k):
        logits = torch.arange(V).float().div(4).flip(0)[torch.randperm(V, generator=seeded(0))]
        drawn = self.draws(logits, top_k=top_k)
        assert drawn == set(logits.topk(min(top_k, V)).indices.tolist())

    def test_top_k_holds_where_logits_are_equal(self):
        assert len(self.draws(torch.zeros(V), top_k=2)) == 2

    @pytest.mark.parametrize(("top_p", "kept"), [(0.05, 1), (0.5, 1), (0.51, 2), (0.79, 2), (0.81, 3), (1.0, 4)])
    def test_top_p_keeps_the_fewest_that_have_it(self, top_p, kept):
        logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
        assert self.draws(logits, top_p=top_p) == set(range(kept))

    def test_top_p_counts_after_top_k_and_at_the_temperature(self):
        shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
        assert self.draws(shares.log(), top_p=0.69) == {0, 1}
        assert self.draws(shares.log(), top_p=0.56, top_k=2) == {0}  # 0.4 of 0.7 is 0.57
        assert self.draws(shares.log(), top_p=0.69, temperature=5.0) == {0, 1, 2}

    @staticmethod
    def draws(logits, **options):
        made = MaskedTokenScheduler(len(logits), **options)
        made.set_timesteps(1)
        slots = 2000
        sample = torch.full((1, slots), len(logits))
        return set(made.step(logits.expand(1, slots, -1), 0, sample, seeded(0)).prev_sample[0].tolist())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floats_are_computed_in_float32(self, dtype):
        logits = torch.randn(1, 500, V, generator=seeded(0)).to(dtype)  # in half precision many would be equally sure
        made, sample = scheduler(3, top_k=5, top_p=0.9, choice_temperature=0.1), torch.full((1, 500), MASK)
        given, wanted = (made.step(one, 2, sample, seeded(2)).prev_sample for one in (logits, logits.float()))
        assert torch.equal(given, wanted)
        assert given.dtype == torch.int64

    def test_codes_that_the_model_rules_out_are_never_drawn(self):
        logits = random_logits()
        logits[..., :6] = -torch.inf
        assert (decode(scheduler(1), logits, seeded(0)) >= 6).all()


class TestChoice:
    def test_choice_temperature_changes_which_are_kept(self):
        logits = random_logits(scale=3.0)
        calm, noisy = (
            scheduler(temperature=0, choice_temperature=t).step(logits, 4, all_masked(), seeded(0)) for t in (0, 4.5)
        )
        assert torch.equal(calm.pred_original_sample, noisy.pred_original_sample)
        assert not torch.equal(calm.prev_sample, noisy.prev_sample)

    @pytest.mark.parametrize("timestep", [3, 2, 1])
    def test_choice_noise_falls_linearly(self, timestep):
        logits, temperature = random_logits(batch=1, scale=2.0), 0.4 * timestep / 4
        made = scheduler(4, temperature=0, choice_temperature=0.4)
        sample = all_masked(1)
        if timestep < 3:  # enough masks are left for the schedule to decide how many stay
            sample = sample.index_fill(1, torch.tensor([0]), 0)
        masked = made.step(logits, timestep, sample, seeded(0)).prev_sample[0] == MASK

        uniform = torch.rand(N, generator=seeded(0))
        confidence = logits.log_softmax(-1).amax(-1)[0] - temperature * (-uniform.log()).log()
        confidence[sample[0] != MASK] = math.inf
        least = confidence.argsort()[: planned("cosine", 4, N)[3 - timestep]]
        assert masked.nonzero().flatten().tolist() == sorted(least.tolist())

    def test_kept_tokens_stay(self):
        states = decode(scheduler(8), random_logits(), seeded(0))
        for before, after in zip(states, states[1:], strict=False):
            assert torch.equal(after[before != MASK], before[before != MASK])

    def test_remask_masks_kept_tokens_again(self):
        states = decode(scheduler(8, remask=True), random_logits(), seeded(0))
        masked = states == MASK
        assert (~masked[:-1] & masked[1:]).any()
        assert not torch.equal(states[-1], decode(scheduler(8), random_logits(), seeded(0))[-1])

    def test_remask_takes_the_least_likely_token(self):
        logits = torch.zeros(1, N, V)
        logits[..., 0] = 5.0
        sample = all_masked(1)
        sample[:, 10:] = 0
        sample[0, 15] = 1  # unlikely by now
        made = scheduler(4, schedule="linear", temperature=0, choice_temperature=0, remask=True)
        assert made.step(logits, 1, sample).prev_sample[0, 15] == MASK


class TestEditing:
    @pytest.mark.parametrize("remask", [False, True])
    def test_other_tokens_never_change(self, remask):
        sample, editable = half_edited()
        states = decode(scheduler(6, remask=remask), random_logits(), seeded(0), sample, editable)
        assert torch.equal(states[:, ~editable], sample[~editable].expand(6, -1))
        assert not (states[-1] == MASK).any()

    @pytest.mark.parametrize("remask", [False, True])
    def test_counts_are_shares_of_the_editable(self, remask):
        sample, editable = half_edited()
        states = decode(scheduler(4, remask=remask), random_logits(), seeded(0), sample, editable)
        wanted = [planned("cosine", 4, start) for start in (3, 10, 17)]
        assert (states == MASK).sum(2).T.tolist() == wanted

    def test_an_image_without_masks_stays(self):
        sample = torch.randint(V, (B, N), generator=seeded(0))
        nothing = torch.zeros_like(sample, dtype=torch.bool)
        states = decode(scheduler(3, remask=True), random_logits(), seeded(0), sample, nothing)
        assert torch.equal(states, sample.expand(3, -1, -1))

    def test_a_run_may_start_late(self):
        tokens = torch.randint(V, (B, N), generator=seeded(0))
        made = scheduler(4)
        sample, _ = made.mask(tokens, torch.full((B,), 0.3), seeded(1))
        for timestep in made.timesteps[2:]:
            sample = made.step(random_logits(), timestep, sample, seeded(0)).prev_sample
        assert not (sample == MASK).any()


class TestSeeds:
    def test_a_seed_fixes_the_result(self):
        logits = random_logits()
        results = [decode(scheduler(), logits, seeded(seed)) for seed in (5, 5, 6)]
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    @pytest.mark.parametrize("remask", [False, True])
    def test_an_image_does_not_depend_on_its_batch(self, remask):
        logits, (sample, editable) = random_logits(), half_edited()
        made = scheduler(6, remask=remask, top_k=9, top_p=0.95)
        together = decode(made, logits, [seeded(seed) for seed in range(B)], sample, editable)
        for row in range(B):
            one = slice(row, row + 1)
            alone = decode(made, logits[one], [seeded(row)], sample[one], editable[one])
            assert torch.equal(together[:, one], alone)
            assert torch.equal(alone, decode(made, logits[one], seeded(row), sample[one], editable[one]))

    def test_without_a_generator_torchs_own_is_used(self):
        logits = random_logits()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            free = decode(scheduler(), logits)
        assert torch.equal(free, decode(scheduler(), logits, seeded(3)))


class TestOverrides:
    OVERRIDES = {"temperature": 0.0, "top_k": 1, "top_p": 0.1, "choice_temperature": 0.0}

    @pytest.mark.parametrize("name", OVERRIDES)
    def test_an_override_acts_for_one_run_and_leaves_the_config(self, name):
        made, override = MaskedTokenScheduler(MASK), {name: self.OVERRIDES[name]}
        config = dict(made.config)
        results = []
        for options in ({}, override, {}):
            made.set_timesteps(5, **options)
            results.append(decode(made, random_logits(), seeded(0)))
        assert dict(made.config) == config
        assert not torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], decode(scheduler(**override), random_logits(), seeded(0)))

    def test_zero_turns_an_option_of_the_config_off(self):
        made = MaskedTokenScheduler(MASK, top_k=1)
        made.set_timesteps(5, top_k=0)
        assert torch.equal(decode(made, random_logits(), seeded(0)), decode(scheduler(), random_logits(), seeded(0)))


class TestTraining:
    @pytest.mark.parametrize("ratio", [0.0, 0.01, 0.26, 0.5, 0.99, 1.0])
    def test_masks_exactly_the_share(self, ratio):
        tokens = torch.randint(V, (B, N), generator=seeded(0))
        masked, where = scheduler().mask(tokens, torch.full((B,), ratio), seeded(1))
        assert (where.sum(1) == max(1, round(ratio * N))).all()
        assert torch.equal(masked, tokens.masked_fill(where, MASK))

    def test_every_slot_is_masked_as_often(self):
        made, generator, often = scheduler(), seeded(0), Counter()
        for _ in range(200):
            _, where = made.mask(torch.zeros(B, N, dtype=torch.int64), torch.full((B,), 0.5), generator)
            often.update(where.nonzero()[:, 1].tolist())
        assert all(abs(often[slot] - 300) < 62 for slot in range(N))  # five standard deviations

    def test_rows_have_their_own_ratio_and_generator(self):
        tokens = torch.randint(V, (B, N), generator=seeded(0))
        ratio = torch.tensor([0.1, 0.5, 0.9], dtype=torch.bfloat16)
        made = scheduler()
        masked, where = made.mask(tokens, ratio, [seeded(seed) for seed in range(B)])
        assert where.sum(1).tolist() == [2, 10, 18]
        alone, _ = made.mask(tokens[1:2], ratio[1:2], seeded(1))
        assert torch.equal(masked[1:2], alone)
        assert not torch.equal(masked, made.mask(tokens, ratio, seeded(7))[0])


class TestConfig:
    OPTIONS = {
        "mask_token_id": 64,
        "schedule": "arccos",
        "temperature": [1.5, 0.5],
        "top_k": 7,
        "top_p": 0.8,
        "choice_temperature": 2.0,
        "remask": True,
    }

    def test_round_trip(self, tmp_path):
        made = MaskedTokenScheduler(**self.OPTIONS)
        made.save_config(tmp_path / "config")
        made.save_pretrained(tmp_path / "pretrained")
        again = [
            MaskedTokenScheduler.from_config(made.config),
            MaskedTokenScheduler.from_pretrained(tmp_path / "config"),
            MaskedTokenScheduler.from_pretrained(tmp_path / "pretrained"),
        ]
        for loaded in again:
            assert {name: loaded.config[name] for name in self.OPTIONS} == self.OPTIONS

    def test_a_loaded_one_decodes_the_same(self, tmp_path):
        made = MaskedTokenScheduler(MASK, temperature=(1.5, 0.5), remask=True)
        made.save_pretrained(tmp_path)
        loaded = MaskedTokenScheduler.from_pretrained(tmp_path)
        for one in (made, loaded):
            one.set_timesteps(4)
        assert torch.equal(decode(made, random_logits(), seeded(0)), decode(loaded, random_logits(), seeded(0)))

    def test_is_a_scheduler_of_its_own(self):
        assert MaskedTokenScheduler._compatibles == []
        assert scheduler().compatibles == []
        assert MaskedTokenScheduler.order == 1

    def test_output_has_names_and_order(self):
        made = scheduler(1)
        output = made.step(random_logits(), 0, all_masked(), seeded(0))
        assert isinstance(output, MaskedTokenSchedulerOutput)
        prev_sample, pred_original_sample = made.step(random_logits(), 0, all_masked(), seeded(0), return_dict=False)
        assert torch.equal(output.prev_sample, prev_sample)
        assert torch.equal(output.pred_original_sample, pred_original_sample)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mask_token_id": 0}, r"mask_token_id 0: .* >= 1"),
            ({"schedule": "square"}, r"'square': one of cosine, arccos, linear"),
            ({"temperature": -1.0}, r"temperature -1.0: .* >= 0"),
            ({"temperature": (1.0, math.inf)}, r"temperature \(1.0, inf\)"),
            ({"temperature": (1.0, 0.5, 0.0)}, r"temperature .* two"),
            ({"top_k": -1}, r"top_k -1: .* >= 0"),
            ({"top_k": 1.5}, r"top_k 1.5: an integer"),
            ({"top_p": 0.0}, r"top_p 0.0: .* \(0, 1\]"),
            ({"top_p": 1.1}, r"top_p 1.1: .* \(0, 1\]"),
            ({"choice_temperature": math.nan}, r"choice_temperature nan: .* >= 0"),
        ],
    )
    def test_of_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            MaskedTokenScheduler(**{"mask_token_id": MASK, **options})

    def test_of_a_run(self):
        with pytest.raises(ValueError, match=r"num_inference_steps 0: .* >= 1"):
            scheduler(0)
        with pytest.raises(ValueError, match=r"num_inference_steps 2.5: .* >= 1"):
            scheduler(2.5)
        with pytest.raises(ValueError, match=r"top_p 2: "):
            MaskedTokenScheduler(MASK).set_timesteps(3, top_p=2)

    @pytest.mark.parametrize("timestep", [-1, 5])
    def test_of_a_timestep(self, timestep):
        with pytest.raises(ValueError, match=rf"timestep {timestep}: one of the 5"):
            scheduler(5).step(random_logits(), timestep, all_masked())

    def test_of_a_step_before_the_timesteps(self):
        with pytest.raises(ValueError, match="set_timesteps"):
            MaskedTokenScheduler(MASK).step(random_logits(), 0, all_masked())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"logits": torch.zeros(B, N + 1, V)}, r"logits \(3, 21, 11\) .*\(3, 20, V\)"),
            ({"logits": torch.zeros(B, N, V, dtype=torch.int64)}, "int64: floats"),
            ({"logits": torch.zeros(B, N, V + 1)}, "12 codes: at most mask_token_id = 11"),
            ({"sample": all_masked().int()}, r"sample \(3, 20\) torch.int32: int64"),
            ({"sample": all_masked()[0]}, r"sample \(20,\)"),
            ({"sample": torch.full((B, N), 12)}, r"token 12: 0\.\.10, or 11"),
            ({"sample": torch.zeros(B, N, dtype=torch.int64)}, "0 tokens are masked and 60 editable"),
            ({"editable": torch.ones(B, N)}, "editable .* torch.float32: bool"),
            ({"editable": torch.zeros(B, N, dtype=torch.bool)}, "60 tokens are masked and 0 editable"),
            ({"generator": [seeded(0)]}, "1 generators for 3 images"),
        ],
    )
    def test_of_a_step(self, change, message):
        given = {"logits": random_logits(), "timestep": 4, "sample": all_masked(), **change}
        with pytest.raises(ValueError, match=message):
            scheduler(5).step(**given)

    def test_a_mask_outside_the_editable_tokens_is_found_in_any_step(self):
        with pytest.raises(ValueError, match="60 tokens are masked and 0 editable"):
            scheduler(5).step(random_logits(), 0, all_masked(), editable=torch.zeros(B, N, dtype=torch.bool))

    def test_of_shares(self):
        made, tokens = scheduler(), torch.zeros(B, N, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"progress 1.5: a number in 0\.\.1"):
            made.mask_share(torch.tensor([0.5, 1.5]))
        with pytest.raises(ValueError, match="progress torch.int64: floats"):
            made.mask_share(torch.tensor([0, 1]))
        with pytest.raises(ValueError, match=r"ratio nan: a number in 0\.\.1"):
            made.mask(tokens, torch.full((B,), math.nan))
        with pytest.raises(ValueError, match=r"ratio \(2,\): one number an image, \(3,\)"):
            made.mask(tokens, torch.ones(2))
