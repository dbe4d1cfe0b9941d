"""The recipe `wordle`: marks and rewards worked out by hand, splits that are apart, games that may be
imitated, and a model for which a guess is one token."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from refine_rl.policy.load import load_policy
from refine_rl.prompts.demonstrations import Names, read_demonstrations
from refine_rl.prompts.sources import load_prompts
from refine_rl.recipes import recipe_folder
from refine_rl.recipes.wordle import games, rules, scores, world
from refine_rl.recipes.wordle.prompts import ASK, prompts
from refine_rl.settings import ModelSettings
from refine_rl.settings.file import load_settings
from refine_rl.types import Message

FOLDER = Path(rules.__file__).parent


@pytest.mark.parametrize(
    ("answer", "guess", "marks"),
    [
        ("spree", "spare", "++-?+"),  # the r is elsewhere, the e at the end is in its place
        ("spree", "eerie", "?-+-+"),  # two e of three are found: one in its place, the first elsewhere
        ("spree", "geese", "-?-?+"),
        ("spree", "speed", "++?+-"),  # the first e is elsewhere (place 5), the second in its place
        ("spree", "spree", "+++++"),
        ("speed", "eerie", "??---"),  # two e of three, from left to right
        ("alley", "level", "?--+?"),  # the right place takes the only e; both l are elsewhere
        ("level", "alley", "-??+-"),
        ("apple", "allow", "+?---"),  # one l in the answer: the second l gets nothing
        ("array", "radar", "??-+?"),
        ("crane", "eerie", "--?-+"),  # the right place takes the only e
    ],
)
def test_marks_of_repeated_letters(answer: str, guess: str, marks: str) -> None:
    assert rules.feedback(guess, answer) == marks


def test_every_mark_accounts_for_one_letter() -> None:
    """However a pair of words looks: no letter is found more often than the answer has it, and none that has
    room is missed."""
    for answer in rules.words()[::7]:
        for guess in rules.words()[::5]:
            marks = rules.feedback(guess, answer)
            found = Counter(g for g, m in zip(guess, marks, strict=True) if m != "-")
            assert found == Counter(guess) & Counter(answer)
            assert [m == "+" for m in marks] == [g == a for g, a in zip(guess, answer, strict=True)]


def test_words_and_their_splits() -> None:
    words = rules.words()
    assert len(words) >= 400
    assert len(set(words)) == len(words)
    assert all(len(w) == 5 and w.isascii() and w.isalpha() and w.islower() for w in words)
    for fold in range(5):
        splits = [set(rules.answers(split, fold)) for split in ("train", "validation", "held_out")]
        assert [len(s) for s in splits] == [len(words) - 104, 24, 80]
        assert set().union(*splits) == set(words)
    assert rules.answers("held_out") == rules.answers("held_out", 0)
    assert len({word for fold in range(5) for word in rules.answers("held_out", fold)}) == 400


# A game for the answer "spree": spare ++-?+, then spree.
SPARE = [("spare", "++-?+")]


def test_solved_partial_credit_and_form() -> None:
    assert rules.solved([*SPARE, ("spree", "+++++")]) == 1
    assert rules.solved(SPARE) == rules.solved([]) == 0
    assert rules.partial("++-?+") == pytest.approx(3 * 0.2 + 0.1)
    assert rules.partial("+++++") == 1
    assert [rules.form(g) for g in ("", "spr", "zzzzz", "spree")] == [0, 0.1, 0.5, 1]


@pytest.mark.parametrize(
    ("guess", "seen", "reward"),
    [
        ("spree", [], 0),
        ("spree", SPARE, 3 * 0.2 + 0.1 + 0.1),  # s, p, e kept; r and e in places not tried
        ("spare", SPARE, 0.2 + 0.2 - 0.5 - 0.2 + 0.2),  # a is absent, r is not in place 4
        ("chalk", SPARE, 0.05 + 0.05 - 0.5 + 0.05 + 0.05),  # only the a was tried, and is absent
        ("erase", SPARE, -0.2 - 0.2 - 0.5 + 0.1 + 0.2),  # s and p stand where e and r are put; s is known
        (
            "geese",
            [("eerie", "?-+-+")],
            0.05 - 0.2 - 0.2 + 0.05 + 0.2,
        ),  # no e in place 2, and an r in place 3
    ],
)
def test_use_of_feedback(guess: str, seen: list[tuple[str, str]], reward: float) -> None:
    assert rules.use(guess, seen) == pytest.approx(reward)


def test_information_is_the_entropy_of_the_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    four = ("spare", "spree", "score", "store")
    monkeypatch.setattr(rules, "words", lambda: four)
    # spare tells spree (++-?+) from score and store (both +--++), and itself from all.
    entropy = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    assert rules.information("spare", []) == pytest.approx(entropy / math.log(4))
    # store tells score (+-+++), spare (+--++) and spree (+--?+) apart.
    assert rules.information("store", []) == pytest.approx(1)
    assert rules.information("chalk", [("spare", "+--++")]) == pytest.approx(1)  # c: score, not store
    assert rules.information("spree", SPARE) == 0  # it is spree, no other word is left


# -- the world --------------------------------------------------------------------------------


def played(kind: type[world.Wordle], answer: str, *replies: str) -> tuple[list[str], list[float], bool]:
    one = kind()
    assert one.start({"answer": answer}, 0) == ""
    steps = [one.step(reply) for reply in replies]
    assert not any(done for *_, done in steps[:-1])
    return [said for said, *_ in steps], [round(reward, 6) for _, reward, _ in steps], steps[-1][2]


def test_a_game_in_the_world() -> None:
    said, rewards, done = played(world.Wordle, "spree", "spare", "chalk", " <guess>Spree</guess>")
    assert said[0] == "1s+ 2p+ 3a- 4r? 5e+"
    assert rewards == [0, -0.3, 1.1 - 0.3]
    assert done
    said, rewards, done = played(world.Wordle, "spree", *["spare"] * 5, "qqqqq")
    assert (said[-1], rewards, done) == ("unknown", [0] + [-0.3] * 5, True)
    assert played(world.Wordle, "spree", "qqqqq")[1] == [-0.3]


def test_the_answer_pays_more_the_sooner_it_is_found() -> None:
    """Also after guesses that could all have been the answer: none of them pays."""
    fitting = ("blank", "mimic", "throw", "ferry", "surge", "spree")
    for n, guess in enumerate(fitting):
        assert rules.consistent(guess, [(g, rules.feedback(g, "spree")) for g in fitting[:n]])
    totals = [sum(played(world.Wordle, "spree", *fitting[n:])[1]) for n in range(6)]
    assert totals == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_a_game_is_over_where_no_word_fits_any_more() -> None:
    """Which comes about only where the answer is no word of the list."""
    game = world.Wordle()
    game.start({"answer": "spaud"}, 0)
    assert game.step("clash")[1:] == (0.0, False)
    assert game.step("level")[1:] == (-0.3, False)  # the l of clash is known to be absent
    assert game.step("stair")[1:] == (0.0, False)
    assert game.left == ["swamp"]
    assert game.step("swamp")[1:] == (0.0, True)
    assert [w for w in rules.words() if rules.consistent(w, game.seen)] == []


def test_other_payments() -> None:
    guesses = ("spare", "chalk", "spree")
    marks = [rules.feedback(g, "spree") for g in guesses]
    assert played(world.Solved, "spree", *guesses)[1] == [0, 0, 1]
    assert played(world.Partial, "spree", *guesses)[1] == [rules.partial(m) for m in marks]
    assert played(world.Form, "spree", "spare", "no", "")[1] == [round(f / 6, 6) for f in (1, 0.1, 0)]
    assert played(world.Use, "spree", "spare", "qqqqq", "spree")[1] == [0, -1, 1.8]
    first = rules.information("spare", [])
    assert played(world.Information, "spree", "spare", "spree")[1] == [round(first / 6, 6), 1]


def test_partial_credit_summed_pays_for_not_finishing() -> None:
    """The hack: whoever knows the answer earns more by circling round it."""
    at_once = played(world.Partial, "spree", "spree")[1]
    circling = played(world.Partial, "spree", *["spare"] * 5, "spree")[1]
    assert sum(circling) > 4 * sum(at_once)
    assert max(circling) == max(at_once)


def test_what_is_reported_of_a_game() -> None:
    said = ["play", "spare", "1s+ ...", "Spree ", "1s+ ..."]
    chat = [Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(said)]
    assert [f("", "", "spree", chat).value for f in (scores.solved, scores.guesses)] == [1, 2]
    assert [f("", "", "spree", chat[:3]).value for f in (scores.solved, scores.guesses)] == [0, 7]


# -- games and prompts ------------------------------------------------------------------------


def test_games_end_with_a_players_guess_and_never_look_for_held_out_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_for: list[str] = []
    marks = rules.feedback
    monkeypatch.setitem(
        games._rules, "feedback", lambda guess, answer: looked_for.append(answer) or marks(guess, answer)
    )
    games._marks.cache_clear()
    for guess in rules.words():
        games._marks(guess)  # of all pairs: not a game's
    looked_for.clear()
    rows = games.pairs(300, 3)
    wandered = 0
    for row in rows:
        chat = row["messages"]
        assert chat[0] == {"role": "user", "content": ASK}
        assert chat[-1]["role"] == "assistant"
        assert chat[-1].get("train", True)
        assert len(chat) <= 12
        wandered += sum(m.get("train") is False for m in chat)
    assert 0.3 < wandered / len(looked_for) < 0.5
    secrets = set(looked_for)
    assert not secrets & {*rules.answers("held_out"), *rules.answers("validation")}
    assert {w in rules.words() for w in secrets} == {True, False}
    guessed = {m["content"] for row in rows for m in row["messages"] if m["role"] == "assistant"}
    assert guessed & set(rules.answers("held_out"))
    assert guessed <= set(rules.words())
    assert games.pairs(5, 3) == games.pairs(5, 3) != games.pairs(5, 4)


def test_a_made_up_word_is_a_head_and_a_tail() -> None:
    rng = random.Random(0)
    for word in (rules.made_up(rng) for _ in range(100)):
        assert word not in rules.words()
        assert any(
            any(w.startswith(word[:cut]) for w in rules.words())
            and any(w.endswith(word[cut:]) for w in rules.words())
            for cut in (2, 3)
        )


def test_what_players_overlook() -> None:
    seen = [("spare", "++-?+")]
    fitting = {player: set(games.fitting(seen, player)) for player in games.PLAYERS}
    assert fitting["careful"] == {w for w in rules.words() if rules.consistent(w, seen)}
    assert "spree" in fitting["careful"] == fitting["looks at the last guess"]
    assert fitting["careful"] <= fitting["forgets absent letters"] <= fitting["sees right places alone"]
    assert fitting["sees right places alone"] == {
        w for w in rules.words() if w[:2] == "sp" and w[4] == "e" and w != "spare"
    }
    more = [*seen, ("level", "-----")]
    assert games.fitting(more, "looks at the last guess") == [
        w for w in rules.words() if rules.consistent(w, more[1:]) and w != "spare"
    ]


def test_where_no_word_fits_a_player_contradicts_as_few_marks_as_can_be() -> None:
    seen = [("spare", "+++++"), ("spree", "++--+")]  # the first is no answer: another game's words
    wrong = {
        w: sum(m != k for guess, marks in seen for m, k in zip(rules.feedback(guess, w), marks, strict=True))
        for w in rules.words()
        if w not in ("spare", "spree")
    }
    assert games.fitting(seen, "careful") == [w for w in wrong if wrong[w] == min(wrong.values())]


def test_more_games_of_training_than_answers_look_for_made_up_words() -> None:
    found = [row["data"]["answer"] for row in prompts("train", 500, 1)]
    assert len(set(found)) == 500
    assert set(found[:326]) == set(rules.answers("train"))
    assert not set(found[326:]) & set(rules.words())
    assert found[:400] == [row["data"]["answer"] for row in prompts("train", 400, 1)]
    assert len(prompts("held_out", 500, 1)) == 80


def test_all_games_ask_the_same_and_the_splits_are_still_apart() -> None:
    found, report = load_prompts(load_settings(recipe_folder("wordle")))
    answers = {
        s: {p.data["answer"] for p in found if p.split == s} for s in ("train", "validation", "held_out")
    }
    assert {s: answers[s] & set(rules.words()) for s in answers} == {
        s: set(rules.answers(s)) for s in answers
    }
    assert [len(answers[s] - set(rules.words())) for s in ("train", "validation", "held_out")] == [978, 0, 0]
    assert {p.messages[0]["content"] for p in found} == {ASK}
    assert not report.dropped
    assert not report.remarks


def test_a_guess_is_one_token_and_so_is_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_CACHE", str(tmp_path))
    model = ModelSettings(name="recipe:wordle", adapter="none", dtype="float32", device="cpu")
    policy = load_policy(model)
    shown = read_demonstrations("file:games.py[:40]", FOLDER, Names(), validation=0)
    for row in shown.rows:
        segments = policy.demonstrate(row.messages, every=True, given=row.given)
        targets = [s.token_ids for s in segments if s.target]
        wanted = [m["content"] for n, m in enumerate(row.messages) if n % 2 and n not in row.given]
        assert [policy.decode(ids) for ids in targets] == wanted
        assert {len(ids) for ids in targets} == {2}  # the word, and the end
        every = [i for s in segments for i in s.token_ids]
        assert policy.tokenizer.unk_token_id not in every
        assert len(every) == 4 * len(row.messages) - 4  # play, \n; word, end, 5 marks, \n; ...; word, end
