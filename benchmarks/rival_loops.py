"""Two rival loops on a task of Re:Fine: for benchmarks to set beside it; and what each learns from equally
many calls of a judge.

    python benchmarks/rival_loops.py [--seeds 3] [--tasks "noisy 0.1" ...] [--arms ...] [--calls 240 480]
                                     [--results FILE]

Tasks, judges, prompts and seeds are those of thrifty.py; so its table is Re:Fine's side of this one.

`trl_with_judge` is TRL's GRPOTrainer, as its users write it. `ruler_loop` is a loop in the manner of
OpenPipe's ART, written here in plain torch, transformers and peft from what ART's source was seen to do in
November 2026 (github.com/OpenPipe/ART: src/art/rewards/ruler.py, preprocessing/tokenize.py, loss.py); ART
itself wants a GPU and vLLM and is not run. What it does as ART does: one request a group; the messages that
all share once, the attempts numbered 1, 2 ... in the order of their sampling; a list of {trajectory_id,
explanation, score} back, of which the number is checked and the ids are not, scores go by place; a group of
one text shows one attempt; a group whose judge fails is dropped; A = (R - mean) / (population deviation +
1e-6), answers of advantage 0 left out; each answer's tokens weigh 1 / their number; the ratio to the
sampler's own log-probs is clipped, as in PPO. What is not ART's: the rates, batches and AdamW are those of
the task, so that the loops differ in what they do and not in their constants, and a step has one update
(then PPO's clip and CISPO's, ART's newer default, have the same gradient).

Both get the same task, prompts in the same order, LoRA, learning rate and schedule, and are looked at by
Re:Fine's own sampler and reward, with the same draws as its comparison and its validation; clocks stand
still meanwhile. `Hooks` are for breaking a loop on purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Protocol

import torch

from refine_rl.evaluate.answer import answer
from refine_rl.policy.load import load_policy
from refine_rl.policy.origin import find_origin
from refine_rl.policy.protocol import Purpose
from refine_rl.prompts.sources import load_prompts
from refine_rl.randomness import torch_seed
from refine_rl.rewards.build import build_reward
from refine_rl.rewards.scoring import ScoringLoop
from refine_rl.settings import Settings
from refine_rl.training.grpo.choice import choose_prompts
from refine_rl.training.rate import Rate
from refine_rl.types import Prompt, Trajectory

Rows = dict[str, torch.Tensor]
"""prompt_ids, prompt_mask, completion_ids, completion_mask [B, ...], the members of a group in a row."""


class Scores(Protocol):
    """A reward: the answers to a prompt -> a score each. `calls` are the requests that it has sent."""

    calls: int

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> Sequence[float | None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What can be put in: another model's folder, a change of the tokenizer, a context around each sampling
    (given the model that samples), a change of the rows before the loss; TRL's trainer before it begins."""

    model: Path | None = None
    tokenizer: Callable[[Any], Any] = lambda tokenizer: tokenizer
    sampling: Callable[[Any], AbstractContextManager[Any]] = contextlib.nullcontext
    rows: Callable[[Rows], Rows] = lambda rows: rows
    trainer: Callable[[Any], None] = lambda trainer: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A look at the validation prompts: what had been done until then, and the true reward."""

    step: int
    groups: int
    calls: int
    seconds: float
    processor: float
    reward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """What a loop came to. Rewards are true ones, of sampled answers to the held-out prompts; times leave out
    loading and looks; `log` is what the loop says of its steps."""

    base: float
    reward: float
    calls: int
    groups: int
    dropped: int
    seconds: float
    processor: float
    peak_mb: float
    curve: Sequence[Point]
    log: Sequence[dict[str, Any]] = ()


# -- rewards --------------------------------------------------------------------------------------------


class TaskReward:
    """The reward functions of a task. In a `with` block their threads stay; without it each call has threads
    of its own, and waits a twentieth of a second for their end."""

    calls = 0

    def __init__(self, settings: Settings) -> None:
        self._reward = build_reward(settings)
        self._loop: ScoringLoop | None = None

    def __enter__(self) -> TaskReward:
        self._loop = ScoringLoop().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._loop is not None
        self._loop.__exit__(*error)
        self._loop = None

    def of(self, pairs: Sequence[tuple[Prompt, Sequence[Trajectory]]]) -> list[list[float]]:
        if self._loop is None:
            with self:
                return self.of(pairs)
        return [[s.value or 0.0 for s in group] for group in self._loop.score(self._reward, pairs)]

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> list[float | None]:
        return list(self.of([(prompt, [said(prompt, n, text) for n, text in enumerate(answers)])])[0])


def said(prompt: Prompt, member: int, text: str) -> Trajectory:
    """An answer as the reward functions see it."""
    return Trajectory(
        prompt_id=prompt.id,
        member=member,
        messages=(*prompt.messages, {"role": "assistant", "content": text}),
        segments=(),
        stop_reason="stop",
    )


class Judge:
    """A model behind an OpenAI-compatible endpoint; asked once, not again. Raises OSError where it cannot be
    reached, ValueError or LookupError where its reply is not a list of `count` scores."""

    def __init__(self, base_url: str, task: str, model: str = "judge") -> None:
        self.calls = 0
        self._url, self._model = f"{base_url}/chat/completions", model
        self._system = (
            "You are shown attempts at one goal. Score each from 0 to 1: reaching the goal is well above not "
            "reaching it, the more direct way is better, distances mean something, a part of the way earns a "
            'part of the score. Reply with JSON: {"scores": [{"trajectory_id", "explanation", "score"}, '
            f"...]}}.\nThe goal: {task}"
        )

    def scores(self, user: str, count: int) -> list[float]:
        self.calls += 1
        messages = [{"role": "system", "content": self._system}, {"role": "user", "content": user}]
        body = json.dumps({"model": self._model, "messages": messages}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            said = json.loads(json.load(reply)["choices"][0]["message"]["content"])
        found = [float(entry["score"]) for entry in said["scores"]]
        if len(found) != count:
            raise ValueError(f"{count} scores were asked for, {len(found)} came")
        return found


@dataclass(kw_only=True, slots=True)
class Ruler:
    """One request for all answers of a group. Raises what the judge raises."""

    judge: Judge

    @property
    def calls(self) -> int:
        return self.judge.calls

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> list[float | None]:
        if len(set(answers)) == 1:
            return [*self.judge.scores(shown(prompt.messages, answers[:1], whole=True), 1)] * len(answers)
        return [*self.judge.scores(shown(prompt.messages, answers), len(answers))]


@dataclass(kw_only=True, slots=True)
class Alone:
    """A request an answer. One that fails is worth None: TRL leaves such an answer out."""

    judge: Judge

    @property
    def calls(self) -> int:
        return self.judge.calls

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> list[float | None]:
        return [self._of(prompt, text) for text in answers]

    def _of(self, prompt: Prompt, text: str) -> float | None:
        try:
            return self.judge.scores(shown(prompt.messages, [text]), 1)[0]
        except (OSError, ValueError, LookupError, TypeError):
            return None


def shown(asked: Sequence[Any], answers: Sequence[str], *, whole: bool = False) -> str:
    """What a judge gets: the prompt once, and the attempts; or `whole` conversations."""
    first = "" if whole else f"<context>\n{json.dumps(list(asked))}\n</context>\n\n"
    attempts = []
    for number, text in enumerate(answers, start=1):
        messages = [*(asked if whole else ()), {"role": "assistant", "content": text}]
        attempts.append(f'<trajectory id="{number}">\n{json.dumps(messages)}\n</trajectory>')
    return first + "\n\n".join(["Trajectories:", *attempts])


# -- looks ----------------------------------------------------------------------------------------------


class Looks:
    """True rewards of an adapter on a task's prompts, by Re:Fine's sampler and with its draws."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.prompts = settings, load_prompts(settings)[0]
        self.reward = TaskReward(settings)
        self._policy = load_policy(settings.model, seed=settings.grpo.seed)

    def of(self, split: str, model: Any = None) -> float:
        """Mean over the prompts of a split; without a model, of the untrained one."""
        if model is not None:
            learned = {n: p for n, p in model.named_parameters() if "lora_" in n}
            mine = self._policy.trainable()
            assert mine.keys() == learned.keys(), "another adapter than the task's"
            with torch.no_grad():
                for name, p in mine.items():
                    p.copy_(learned[name])
        answers = answer(
            self._policy,
            [p for p in self.prompts if p.split == split],
            samples=self.settings.evaluate.samples,
            max_tokens=self.settings.rollout.max_tokens,
            purpose=Purpose(seed=self.settings.grpo.seed, step=0, name=split),
            greedy=False,
        )
        return fmean(map(fmean, self.reward.of([(a.prompt, a.sampled) for a in answers])))


@dataclass(kw_only=True)
class Watch:
    """Clocks that stand still while the policy is looked at, each `every` steps (0: never). Enough is learned
    once a look finds `until`."""

    looks: Looks
    scores: Scores
    every: int
    per_step: int
    until: float | None
    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    processor: float = 0.0
    _since: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since[0]
        self.processor += time.process_time() - self._since[1]

    def after(self, step: int, model: Any) -> None:
        if self.every and step % self.every == 0:
            self.stop()
            point = Point(
                step=step,
                groups=step * self.per_step,
                calls=self.scores.calls,
                seconds=self.seconds,
                processor=self.processor,
                reward=self.looks.of("validation", model),
            )
            self.curve.append(point)
            self.start()

    @property
    def enough(self) -> bool:
        return self.until is not None and bool(self.curve) and self.curve[-1].reward >= self.until

    def came_to(
        self, model: Any, base: float, steps: int, dropped: int, log: Sequence[dict[str, Any]]
    ) -> Rival:
        """What there is to say after so many steps."""
        unit = 1 if sys.platform == "darwin" else 1024
        return Rival(
            base=base,
            reward=self.looks.of("held_out", model),
            calls=self.scores.calls,
            groups=steps * self.per_step,
            dropped=dropped,
            seconds=self.seconds,
            processor=self.processor,
            peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
            curve=tuple(self.curve),
            log=tuple(log),
        )


def in_order(settings: Settings, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """The training prompts of each step, as Re:Fine takes them."""
    g = settings.grpo
    train = [p for p in prompts if p.split == "train"]
    return [choose_prompts(train, step, g.prompts_per_step, g.seed) for step in range(1, g.steps + 1)]


def lora_of(settings: Settings) -> Any:
    import peft

    m = settings.model
    return peft.LoraConfig(
        r=m.rank, lora_alpha=m.alpha, lora_dropout=m.dropout, target_modules=m.targets, task_type="CAUSAL_LM"
    )


# -- TRL ------------------------------------------------------------------------------------------------


def trl_with_judge(
    settings: Settings,
    scores: Scores,
    *,
    looks: Looks | None = None,
    every: int = 0,
    until: float | None = None,
    micro_batch: int = 16,
    dtype: str = "float32",
    hooks: Hooks | None = None,
) -> Rival:
    """GRPOTrainer on a task, `micro_batch` answers a pass (`every`, `until`: see Watch); "bfloat16" is its
    bf16=True upon frozen weights of that format. Gradient checkpointing, its default, is off: it is faster
    so."""
    import datasets
    import transformers
    import trl

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    hooks, looks, g = hooks or Hooks(), looks or Looks(settings), settings.grpo
    watch = Watch(looks=looks, scores=scores, every=every, per_step=g.prompts_per_step, until=until)
    base = looks.of("held_out")
    folder = str(hooks.model or find_origin(settings.model.source).base)
    tokenizer = hooks.tokenizer(transformers.AutoTokenizer.from_pretrained(folder, padding_side="left"))
    members, by_id = settings.rollout.group_size, {p.id: p for p in looks.prompts}
    dropped = 0

    def reward(completions: list[Any], refine_id: list[str], **_: Any) -> list[float | None]:
        nonlocal dropped
        found: list[float | None] = []
        for first in range(0, len(completions), members):
            texts = [c[0]["content"] for c in completions[first : first + members]]
            found += scores(by_id[refine_id[first]], texts)
            dropped += all(v is None for v in found[first:])
        return found

    trainer = trl.GRPOTrainer(
        model=folder,
        reward_funcs=reward,
        args=_trl_config(settings, micro_batch, dtype),
        train_dataset=datasets.Dataset.from_list(
            [
                {"prompt": [dict(m) for m in p.messages], "refine_id": p.id}
                for chosen in in_order(settings, looks.prompts)
                for p in chosen
            ]
        ),
        processing_class=tokenizer,
        callbacks=[_clock(transformers.TrainerCallback, watch)],
        peft_config=lora_of(settings),
    )
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    _hang(trainer, hooks)
    trainer.train()
    return watch.came_to(trainer.model, base, trainer.state.global_step, dropped, trainer.state.log_history)


def _trl_config(settings: Settings, micro_batch: int, dtype: str) -> Any:
    import tempfile

    import trl

    g, r = settings.grpo, settings.rollout
    return trl.GRPOConfig(
        output_dir=tempfile.gettempdir(),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=g.prompts_per_step * r.group_size // micro_batch,
        num_generations=r.group_size,
        max_completion_length=r.max_tokens,
        temperature=r.temperature,
        shuffle_dataset=False,  # the prompts are in the order that Re:Fine takes them in
        max_steps=g.steps,
        bf16=dtype == "bfloat16",
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": dtype},
        beta=0.0,
        loss_type=g.loss,
        optim="adamw_torch",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=g.schedule,
        weight_decay=g.weight_decay,
        max_grad_norm=g.max_grad_norm,
        seed=g.seed,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=settings.model.device != "cuda",
    )


def _hang(trainer: Any, hooks: Hooks) -> None:
    """The hooks around TRL's own sampling and rows."""
    generate, prepare = trainer._generate, trainer._generate_and_score_completions

    def sampled(*prompts: Any) -> Any:
        with hooks.sampling(trainer.model):
            return generate(*prompts)

    trainer._generate = sampled
    trainer._generate_and_score_completions = lambda *inputs: hooks.rows(prepare(*inputs))
    hooks.trainer(trainer)


def _clock(callback: Any, watch: Watch) -> Any:
    class Clock(callback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.start()

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            watch.after(state.global_step, model)
            control.should_training_stop |= watch.enough

        def on_train_end(self, *_: Any, **__: Any) -> None:
            watch.stop()

    return Clock()


# -- a ruler and an update ------------------------------------------------------------------------------


def ruler_loop(
    settings: Settings,
    scores: Scores,
    *,
    looks: Looks | None = None,
    every: int = 0,
    until: float | None = None,
    dtype: str = "float32",
    hooks: Hooks | None = None,
) -> Rival:
    """A loop in the manner of ART, on a task; see the top of this file for what it shares with it."""
    import peft
    import transformers

    hooks, looks, g = hooks or Hooks(), looks or Looks(settings), settings.grpo
    watch = Watch(looks=looks, scores=scores, every=every, per_step=g.prompts_per_step, until=until)
    base = looks.of("held_out")
    folder = str(hooks.model or find_origin(settings.model.source).base)
    tokenizer = hooks.tokenizer(transformers.AutoTokenizer.from_pretrained(folder, padding_side="left"))
    torch.manual_seed(torch_seed(g.seed, "rival"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model = peft.get_peft_model(plain, lora_of(settings)).to(
        looks.settings.model.device.replace("auto", "cpu")
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=g.weight_decay)
    rate = Rate(peak=settings.learning_rate, steps=g.steps, schedule=g.schedule, warmup_steps=g.warmup_steps)
    log: list[dict[str, Any]] = []
    watch.start()
    for step, prompts in enumerate(in_order(settings, looks.prompts), start=1):
        with hooks.sampling(model):
            rows = hooks.rows(sampled(model, tokenizer, prompts, settings))
        texts = tokenizer.batch_decode(rows["completion_ids"], skip_special_tokens=True)
        advantages, said = judged(scores, prompts, texts)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = updated(model, optimizer, rows, advantages, settings) if any(advantages) else None
        log.append({"step": step, **said, "loss": loss, "learning_rate": rate(step)})
        watch.after(step, model)
        if watch.enough:
            break
    watch.stop()
    return watch.came_to(model, base, len(log), sum(line["dropped"] for line in log), log)


@torch.no_grad()
def sampled(model: Any, tokenizer: Any, prompts: Sequence[Prompt], settings: Settings) -> Rows:
    """A group for each prompt, with the sampler's own log-probs ("logprobs", [B, T])."""
    r = settings.rollout
    texts = [
        tokenizer.apply_chat_template(list(p.messages), tokenize=False, add_generation_prompt=True)
        for p in prompts
        for _ in range(r.group_size)
    ]
    asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    model.eval()
    made = model.generate(
        input_ids=asked["input_ids"],
        attention_mask=asked["attention_mask"],
        do_sample=True,
        temperature=r.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=r.max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = made.sequences[:, asked["input_ids"].shape[1] :]  # [B, T]
    logits = torch.stack(made.logits, dim=1)  # [B, T, V]
    ends = ids == tokenizer.eos_token_id
    return {
        "prompt_ids": asked["input_ids"],
        "prompt_mask": asked["attention_mask"],
        "completion_ids": ids,
        "completion_mask": (ends.cumsum(1) - ends.int() == 0).long(),  # up to the first end, with it
        "logprobs": chosen(logits, ids, r.temperature),
    }


def chosen(logits_B_T_V: torch.Tensor, ids_B_T: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probs [B, T] of tokens."""
    logprobs = (logits_B_T_V.float() / temperature).log_softmax(-1)
    return logprobs.gather(-1, ids_B_T[..., None]).squeeze(-1)


def judged(
    scores: Scores, prompts: Sequence[Prompt], texts: Sequence[str]
) -> tuple[list[float], dict[str, Any]]:
    """The advantages of all answers, 0 where the group's judge failed, and a word on it."""
    members, dropped, why = len(texts) // len(prompts), 0, ""
    advantages: list[float] = []
    rewards: list[float] = []
    for place, prompt in enumerate(prompts):
        try:
            found = scores(prompt, texts[place * members : (place + 1) * members])
            values = [v for v in found if v is not None]
            if len(values) != members:
                raise ValueError("an answer has no score")
        except (OSError, ValueError, LookupError, TypeError) as error:
            dropped, why = dropped + 1, f"{type(error).__name__}: {error}"
            advantages += [0.0] * members
        else:
            rewards += values
            advantages += z_scores(values)
    return advantages, {"reward": fmean(rewards) if rewards else None, "dropped": dropped, "why": why}


def z_scores(values: Sequence[float]) -> list[float]:
    """
    >>> [round(a, 3) for a in z_scores([0.0, 1.0, 1.0, 0.0])], z_scores([0.5, 0.5])
    ([-1.0, 1.0, 1.0, -1.0], [0.0, 0.0])
    """
    mean, deviation = fmean(values), pstdev(values)
    return [(v - mean) / (deviation + 1e-6) for v in values]


def updated(model: Any, optimizer: Any, rows: Rows, advantages: Sequence[float], settings: Settings) -> float:
    """One optimizer step; its loss."""
    some = torch.tensor([i for i, a in enumerate(advantages) if a])
    rows = {name: tensor[some] for name, tensor in rows.items()}
    ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
    mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
    model.train()
    width = rows["completion_ids"].shape[1]
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=width + 1,
    ).logits[:, :-1]
    new = chosen(logits, rows["completion_ids"], settings.rollout.temperature)
    loss = clipped_loss(
        new, rows["logprobs"], torch.tensor(advantages)[some].to(new), rows["completion_mask"]
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(
        [p for p in model.parameters() if p.requires_grad], settings.grpo.max_grad_norm
    )
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def clipped_loss(
    new_B_T: torch.Tensor,
    old_B_T: torch.Tensor,
    advantages_B: torch.Tensor,
    mask_B_T: torch.Tensor,
    clip: float = 0.2,
) -> torch.Tensor:
    """- min(r A, clip(r, 1 - clip, 1 + clip) A), r = exp(new - old): mean over an answer's tokens, then over
    answers."""
    ratio, advantages = (new_B_T - old_B_T).exp(), advantages_B[:, None]
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -((gain * mask_B_T).sum(1) / mask_B_T.sum(1)).mean()


# -- equally many calls -----------------------------------------------------------------------------------

RULER, ALONE = "ruler loop, a call a group", "TRL, a call an answer"


def main() -> None:
    import thrifty  # beside this file

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    judged_tasks = [name for name, task in thrifty.TASKS.items() if task.judge]
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=judged_tasks, default=judged_tasks)
    parser.add_argument("--arms", nargs="+", choices=(RULER, ALONE), default=[RULER, ALONE])
    parser.add_argument("--calls", nargs="+", type=int, default=[240, 480], help="at least")
    parser.add_argument("--results", type=Path)
    a = parser.parse_args()
    kept = json.loads(a.results.read_text("utf-8")) if a.results and a.results.exists() else {}
    lines = [
        "| judge | arm | calls | groups | seeds | reward | dropped groups |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in a.tasks:
        for calls in a.calls:
            for arm in a.arms:
                cells = []
                for seed in range(a.seeds):
                    key = f"{task}; {arm}; {calls}; {seed}"
                    if key not in kept:
                        kept[key] = cell(thrifty.TASKS[task], arm, calls, seed)
                        print(key, json.dumps(kept[key]), file=sys.stderr, flush=True)
                        if a.results:
                            a.results.write_text(json.dumps(kept, indent=0), encoding="utf-8")
                    cells.append(kept[key])
                row = [task, arm, *(f"{fmean(c[name] for c in cells):.0f}" for name in ("calls", "groups"))]
                row += [str(len(cells)), thrifty.spread([c["reward"] for c in cells])]
                lines.append("| " + " | ".join([*row, str(sum(c["dropped"] for c in cells))]) + " |")
    print("\n".join(lines))


def cell(task: Any, arm: str, calls: int, seed: int) -> dict[str, Any]:
    """One run of a rival, judged as a task of thrifty.py says: whole steps, until it has sent as many calls.
    The recipe's reward functions give the true reward."""
    import thrifty

    from refine_rl.recipes import load_task

    with thrifty.serving(task, thrifty.Truth(task.recipe, seed)) as place:
        changes = [*thrifty.SMALL, *place, f"grpo.seed={seed}"]
        settings = load_task(None, recipe=task.recipe, overrides=changes)
        a_step = settings.grpo.prompts_per_step * (1 if arm == RULER else settings.rollout.group_size)
        steps = math.ceil(calls / a_step)
        settings = load_task(None, recipe=task.recipe, overrides=[*changes, f"grpo.steps={steps}"])
        judge = Judge(settings.endpoints["scripted"].base_url, settings.task)
        if arm == RULER:
            found = ruler_loop(settings, Ruler(judge=judge))
        else:
            found = trl_with_judge(settings, Alone(judge=judge), micro_batch=32, dtype="bfloat16")
    return {n: v for n, v in asdict(found).items() if n not in ("log", "curve", "processor")}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
