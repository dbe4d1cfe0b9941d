"""The model's size and this machine's speed -> seconds of a run.

A forward pass over n tokens takes 2 * (weights in matrices) * n / (matrix rate * efficiency), and a fixed
time a layer for everything that is started one by one. Training adds the way back, and the traffic of the
activations to and from memory. The rates are measured where the run will be (machine.py); what a model
makes of them, `FITTED`, comes from timed steps: `python benchmarks/plan_fit.py` times them again, or takes
those of a card that benchmarks/gpu.py wrote (`--points gpu.json`), and prints the figures that fit best and
how far off they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from refine_rl.plan.calls import compared, is_relative, resampled, validations
from refine_rl.plan.counts import Counts, given_between, said_in_group, tokens, turns_of
from refine_rl.plan.machine import MAX_ROWS, Rates
from refine_rl.plan.memory import disk, memory
from refine_rl.plan.rivals import sampled
from refine_rl.plan.rollback import repeated
from refine_rl.plan.teacher import size_of_teacher
from refine_rl.plan.team import ALONE, Team
from refine_rl.policy.size import Size
from refine_rl.settings import Settings
from refine_rl.settings.evaluate import PASSES
from refine_rl.training.memory import SLACK, activation, form_of, packed

START = 5.0  # seconds: imports, prompts, the report
VOCABULARY_BYTES = 60  # a vocabulary entry and sampled token: softmax, its sum, the draw
UNCAPTURED = 3.3e-3
"""Seconds a layer and token of sampling on a GPU where a step is not recorded and repeated (RESULTS.md: 78 ms
in 24 layers)."""
UNPACKING = 2.0  # time of unpacking quantised weights, in times of reading them and writing them whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What a model makes of a machine's rates. Seconds are linear in all four."""

    launch: float  # seconds a layer and token of sampling, its adapter included
    started: float  # seconds a layer and micro-batch of training, the way back included
    slowdown: float  # measured matrix rate over the one that is reached inside a whole model
    traffic: float  # times that a training pass reads or writes its activations, fresh memory included


FITTED = {
    "cpu": Fitted(launch=0.9e-3, started=9.8e-3, slowdown=1.83, traffic=12),
    # Of an H200: benchmarks/plan_fit.py --points benchmarks/gpu_points.json.
    "cuda": Fitted(launch=0.19e-3, started=7e-3, slowdown=4.5, traffic=9),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Estimates, low and high. Low: completions of half of what they may have, and with grpo.kl_stop one pass
    through them; high: all reach it, and grpo.resample adds as many groups as it may."""

    step: tuple[float, float]  # seconds of sampling and training in a step
    evaluation: tuple[float, float]  # seconds of all validations and the comparison
    memory: tuple[float, float]  # bytes
    disk: float  # bytes


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long things take where answers, all turns of an environment together, have `share` of the
    tokens that they may have. `rates` are those of a process of the `team`, and the busiest one decides."""

    settings: Settings
    size: Size
    rates: Rates
    prompt: int  # tokens
    share: float = 1.0
    stopped: bool = False  # by grpo.kl_stop, after one pass
    given: Fitted | None = None
    team: Team = ALONE

    @property
    def fitted(self) -> Fitted:
        return self.given or FITTED.get(self.rates.device, FITTED["cuda"])

    @property
    def answer(self) -> float:
        return self.share * self.settings.rollout.most_tokens

    @property
    def launch(self) -> float:
        plain = UNCAPTURED if self.team.shard and self.rates.device == "cuda" else 0.0
        return self.size.layers * max(self.fitted.launch, plain)

    @property
    def unpacking(self) -> float:
        """Seconds in which all quantised weights are unpacked once."""
        bits = self.settings.model.quantised
        if bits is None:
            return 0.0
        whole = 2 if self.rates.dtype == "bfloat16" else 4
        return UNPACKING * self.size.linear * (packed(bits) + whole) / self.rates.bytes

    @property
    def fetching(self) -> float:
        """Seconds in which all weights come to where they are used, once: unpacked, or from others."""
        return self.unpacking + self.team.gathering(self.size, self.rates)

    def sampling(self, prompts: int, members: int, most: int | None = None) -> float:
        """Seconds of sampling answers of at most so many tokens (None: as the run's, turn by turn, with what
        stands between turns read as well); the longest answer of a batch decides how many forward passes
        there are, and with answers of half the length on average it is taken to reach three quarters."""
        prompts = self.team.groups(prompts)
        rows = prompts * members
        if not rows or self.settings.engine.served:  # the server's time is not known here
            return 0.0
        rollout, batches = self.settings.rollout, -(-rows // MAX_ROWS)
        turns, given = (turns_of(rollout), given_between(rollout)) if most is None else (1, 0)
        most = most or rollout.most_tokens
        passes, said = batches * (turns + most * (1 + self.share) / 2), rows * self.share * most
        head = self.size.vocabulary * self.size.hidden
        prefill = (prompts * self.prompt + rows * given) * 2 * self.size.linear / self.rates.train
        weights = self.size.linear + head
        if self.rates.device == "cpu":
            decode = said * 2 * weights / self.rates.decode
        else:  # products asked for one by one are slower there than those of a recorded step, which reads all
            reading = passes * weights * form_of(self.rates) / self.rates.bytes
            decode = reading + said * 2 * weights / self.rates.train
        drawing = said * self.size.vocabulary * VOCABULARY_BYTES / self.rates.bytes
        return passes * (self.launch + self.fetching) + (prefill + decode) * self.fitted.slowdown + drawing

    def rollouts(self, prompts: int, members: int) -> float:
        """Seconds of sampling whole groups. Where answers begin behind a part of another one's thought, half
        of it on average is read for each."""
        behind = self.settings.rollout.behind
        if behind is None or self.settings.engine.served:
            return self.sampling(prompts, members)
        others = members - 1
        read = self.team.groups(prompts) * others * (self.prompt + self.answer / 2)
        reading = read * 2 * self.size.linear / self.rates.train * self.fitted.slowdown
        return self.sampling(prompts, 1) + self.sampling(prompts, others, behind) + reading

    def training(self, prompts: int, members: int) -> float:
        """Seconds of one step's updates: a prompt goes through the model once for all its completions. About
        half of the answers are better than their group, and come again with grpo.replay."""
        g = self.settings.grpo
        said = prompts * said_in_group(self.settings.rollout, members, self.share)
        given = prompts * members * given_between(self.settings.rollout)
        once = self.once(prompts * self.prompt + said + given, said, g.at_once)
        looked = int(g.kl > 0) + int(g.minibatches > 1 and self.settings.importance_cap is not None)
        passes = 1 if self.stopped else g.updates_per_step
        return passes * once * (1 + g.replay / 2) * self.again + looked * once / 3

    @property
    def passes(self) -> int:
        """Matrix work of a forward pass and its way back, in forward passes."""
        return 2 if self.settings.model.adapted else 3

    @property
    def again(self) -> float:
        """What computing layers again on the way back multiplies it by."""
        return (self.passes + 1) / self.passes if self.settings.model.gradient_checkpointing else 1.0

    def once(self, tokens: float, said: float, micro_batch: int) -> float:
        """Seconds of so many tokens through the model and back, `said` of them trained on, `micro_batch` at
        a time. A third of it is about that of a forward pass alone."""
        tokens, said = tokens / self.team.processes, said / self.team.processes
        m = self.settings.model
        head = said * 2 * self.size.vocabulary * self.size.hidden
        work = self.passes * (tokens * 2 * self.size.linear + head)
        moved = tokens * self.size.layers * activation(m, self.size, self.rates)
        return (
            work / self.rates.train * self.fitted.slowdown
            + moved / self.rates.bytes * self.fitted.traffic
            + -(-tokens // micro_batch) * (self.size.layers * self.fitted.started + 2 * self.fetching)
        )

    def step(self, *, sampled: int | None = None, more: int = 0) -> float:
        """Seconds of a step of so many `sampled` groups (None: those that are scored), to which grpo.resample
        adds `more`, at worst one after the other."""
        g, members = self.settings.grpo, self.settings.rollout.group_size
        trained = g.prompts_per_step + (0 if self.settings.flat == "drop" else more)
        sampling = self.rollouts(sampled or g.prompts_per_step, members) + more * self.rollouts(1, members)
        return sampling + self.training(trained, members) + self.teaching(g.prompts_per_step, members)

    def teaching(self, prompts: int, members: int) -> float:
        """Seconds in which a teacher in this process reads the answers to so many prompts."""
        size = size_of_teacher(self.settings)
        if size is None:
            return 0.0
        said = prompts * members * self.answer
        own = replace(self, size=size, team=ALONE)
        read = prompts * self.prompt + said
        if self._taught_by_itself:  # each answer behind a prompt of its own, and what is shown like an answer
            read = prompts * members * self.prompt + 2 * said
        return own.once(read, said, self.settings.grpo.at_once) / 3

    @property
    def _taught_by_itself(self) -> bool:
        return self.settings.teacher is not None and self.settings.teacher.itself

    def evaluation(self, counts: Counts, *, second: bool = False, again: int = 0) -> float:
        """Seconds of all sampling outside of training. After supervised fine-tuning three models are
        compared; a `second` run has what base did of an earlier one. So many validations come `again`."""
        samples, judge = self.settings.evaluate.samples, self.settings.judge
        times = validations(self.settings.grpo, counts) + again
        taught = 0.0 if self._taught_by_itself else self.teaching(counts.validation, samples)
        validation = (self.sampling(counts.validation, samples) + taught) * times
        if self.settings.reward.judges and judge.anchors:
            validation += self.sampling(min(judge.anchor_prompts, counts.train), samples) * max(1, times)
        if self.settings.prompts.probe:
            validation += self.sampling(counts.train, self.settings.prompts.probe)
        comparison = self.sampling(counts.held_out, samples) + self.sampling(counts.held_out, 1)
        if not self.settings.rewarded:  # what is scored is read by the teacher
            comparison += self.teaching(counts.held_out, samples + 1)
            validation += self.teaching(counts.train, self.settings.prompts.probe)
        looked = (2 - second) * self.probes() if self.settings.evaluate.probes else 0.0
        compared_now = compared(self.settings) - second
        return validation + compared_now * comparison + looked + self.rivals(counts)

    def probes(self) -> float:
        """Seconds of a look at what is not the task: instructions answered, greedily and not, and texts read,
        those answers among them."""
        from refine_rl.evaluate.probes import MOST_TOKENS, instructions, neutral  # late: few plans need it

        texts, asked = neutral(), instructions()
        read = sum(tokens(len(text)) for text in texts) + len(asked) * self.share * MOST_TOKENS
        said = 2 * self.sampling(len(asked), 1, MOST_TOKENS)
        return said + self.once(read, read, self.settings.grpo.at_once) / 3

    def rivals(self, counts: Counts) -> float:
        """Seconds in which rivals are made and answer."""
        settings = self.settings
        relative = is_relative(settings.reward, settings.judge)
        found = sampled(settings, counts, relative=relative)
        seconds = sum(self.sampling(*one) for one in found)
        if not settings.rewarded:
            seconds += sum(self.teaching(*one) for one in found)
        if "sft" in settings.evaluate.rivals:  # three passes over an answer to each prompt
            prompts = min(counts.train, max(1, settings.rival_calls // settings.best_of))
            said = PASSES * prompts * self.answer
            seconds += (
                self.once(PASSES * prompts * self.prompt + said, said, settings.grpo.at_once) * self.again
            )
        return seconds


def estimate(
    settings: Settings,
    size: Size,
    rates: Rates,
    counts: Counts,
    team: Team = ALONE,
    *,
    second: bool = False,
) -> Work:
    """Seconds, bytes in the memory of a device and bytes on disk of a run, on a machine of these rates; of a
    `second` one, which has what base did of an earlier one."""
    own = team.rates(rates)
    low, high = (
        Pace(
            settings=settings,
            size=size,
            rates=own,
            prompt=counts.read,
            share=share,
            stopped=share < 1 and settings.grpo.kl_stop is not None,
            team=team,
        )
        for share in (0.5, 1.0)
    )
    sampled = settings.grpo.candidates(counts.train)
    again = repeated(settings, counts).looks
    held = [team.on_one * memory(settings, size, rates, counts, slack, team) for slack in (1.0, SLACK)]
    return Work(
        step=(
            low.step(sampled=sampled),
            high.step(sampled=sampled, more=resampled(settings.grpo, counts)),
        ),
        evaluation=(
            low.evaluation(counts, second=second),
            high.evaluation(counts, second=second, again=again),
        ),
        memory=(held[0], held[1]),
        disk=disk(settings.model, settings.grpo, settings.rollout, size, counts),
    )
