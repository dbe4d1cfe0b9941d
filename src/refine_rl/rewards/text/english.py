"""English for rules: stop words, light stems, syllables. Heuristics without a dictionary."""

from __future__ import annotations

import re
import unicodedata

from refine_rl.rewards.text.words import fold, split_words

_STOP_WORDS = """
    a about above after again against all also am an and any are aren't as at be because been before being
    below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down
    during each either else ever few for from further had hadn't has hasn't have haven't having he he'd
    he'll he's her here here's hers herself him himself his how however i i'd i'll i'm i've if in into is
    isn't it it'll it's its itself just let let's may me might mine more most much must my myself neither
    no nor not of off on once only or other our ours ourselves out over own per please quite rather really
    same shall she she'd she'll she's should shouldn't since so some such than that that's the their
    theirs them themselves then there there's these they they'd they'll they're they've this those though
    through thus to too under until up upon us very was wasn't we we'd we'll we're we've were weren't what
    what's when where whether which while who who's whom whose why will with within without won't would
    wouldn't yet you you'd you'll you're you've your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_IRREGULAR_FORMS = """
    be: was were been; agree: agreed; free: freed; guarantee: guaranteed; begin: began begun; break: broke
    broken; bring: brought; build: built; buy: bought; catch: caught; choose: chose chosen; come: came;
    die: dying; draw: drew drawn; drink: drank drunk; drive: drove driven; eat: ate eaten; fall: fell
    fallen; feel: felt; fight: fought; find: found; fly: flew flown; forget: forgot forgotten; get: got
    gotten; give: gave given; go: went gone goes; grow: grew grown; hear: heard; hide: hid hidden; hold:
    held; keep: kept; know: knew known; lead: led; leave: left; lend: lent; lie: lying lain; lose: lost;
    make: made; mean: meant; meet: met; pay: paid; ride: rode ridden; ring: rang rung; rise: rose risen;
    run: ran; say: said; see: saw seen; sell: sold; send: sent; shake: shook shaken; shine: shone; show:
    shown; sing: sang sung; sink: sank sunk; sit: sat; sleep: slept; speak: spoke spoken; spend: spent;
    stand: stood; steal: stole stolen; swim: swam swum; take: took taken; teach: taught; tell: told;
    think: thought; throw: threw thrown; tie: tying; understand: understood; wake: woke woken; wear: wore
    worn; win: won; write: wrote written; child: children; foot: feet; goose: geese; half: halves; knife:
    knives; leaf: leaves; life: lives; man: men; mouse: mice; person: people; shelf: shelves; thief:
    thieves; tooth: teeth; wife: wives; wolf: wolves; woman: women
"""
_IRREGULAR = {
    form: base.strip()
    for base, forms in (entry.split(":") for entry in _IRREGULAR_FORMS.split(";"))
    for form in forms.split()
}


def stem(word: str) -> str:
    """A key that the forms of a word share: plural, tense, -ing, possessive. Not itself a word.

    >>> stem("tries") == stem("tried") == stem("trying") == stem("try")
    True
    """
    word = fold(word).removesuffix("'s").removesuffix("s'")
    word = _IRREGULAR.get(word, word)
    if len(word) > 3:
        word = _without_ending(word)
    if word.endswith("y") and len(word) > 2 and word[-2] not in "aeiou":
        word = word[:-1] + "i"
    bare = word.rstrip("e")
    word = bare if len(bare) >= 2 else word
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word


def _without_ending(word: str) -> str:
    if len(word) > 4 and word.endswith(("ies", "ied")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 4 and word.endswith("ing") and re.search(r"[aeiouy]", word[:-3]):
        return word[:-3]
    if word.endswith("ed") and not word.endswith("eed") and re.search(r"[aeiouy]", word[:-2]):
        return word[:-1]
    return word


def content_stems(text: str) -> list[str]:
    """The stems of the words that carry meaning (no stop words), each once, in order.

    >>> content_stems("The cats are sleeping, and the cat dreams.")
    ['cat', 'sleep', 'dream']
    """
    words = (fold(word) for word in split_words(text))
    return list(dict.fromkeys(stem(word) for word in words if word not in STOP_WORDS))


_EXCEPTIONS = """
    1: aches clothes prayer says
    2: acne argue business cafe cashier colonel creature crooked evening every frontier hundred kindred
       leopard lion maybe naive naked people persuade pigeon premier rugged sacred science soldier wednesday
       wicked
    3: beloved complement coyote element finale forever implement jeopardy karate koala oasis recipe scientist
       simile supplement tenement
    4: apostrophe catastrophe scientific
"""
_SYLLABLES = {
    word: int(count) for count, words in re.findall(r"(\d): ([^\d]+)", _EXCEPTIONS) for word in words.split()
}
_HEADS_WITH_SILENT_E = """
    fire fore here home horse house life name note pine side some stone there time where white whole wine
"""
_HEADS = dict.fromkeys(_HEADS_WITH_SILENT_E.split(), 1) | {"every": 2}
_E_SUFFIX = re.compile(r"^(..+e)(ly|ment|ful|fully|less|ness)$")
_SILENT = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![aeiouy])(?<![bcdfgkpstz]l)(?<![bcgt]r)e$",  # make, smile; not table, centre
        r"(?<=[gq])ue$",  # league, unique
        r"(?<![aeiouycgsxz])(?<!ch)(?<!sh)(?<![bcdfgkpstz]l)es$",  # makes; not roses, wishes, tables
        r"(?<![aeiouytd])(?<![bcdfgkpstz]l)ed$",  # loved; not needed, handled
    )
)
_HIATUS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<![ctl])ia|(?<=[ct])ia(?![ln])|^lia",  # piano, giant; not social, brilliant
        r"(?<![tscgxlnh])io|(?<=[tscgxlnh])io(?![nu])(?!r)",  # radio, ratio; not nation, million, senior
        r"ie(?=t(?:y|$|s$|l))|(?<![ct])ie(?=n[ct])",  # quiet, client
        r"(?<=[^aeiouy])ie(?=(?:r|rs|st)$)",  # happier
        r"iu|yi|ii|ao|(?<!q)uo|(?<![aeiou])eu[ms]",
        r"(?<=[eou])ing",  # seeing, going
        r"(?<![qg])ua|(?<![qg])ue(?=l|n[ct])|(?<![qg])ui(?=n|d|t[iy])",  # usual, fluent, ruin
        r"(?<![gh])eo|(?<=[gh])eo(?!n)",  # video; not surgeon
        r"creat|realit|theat|^reac(?!h)|(?<=[^aeiouy])ea$|poe[mt]",  # create, idea, poetry
        r"ayo|oya|eyo|oyo|[ao]yer|oyee",  # mayor, loyal, beyond, player
        r"(?:s|th)m$|(?:s|th)ms$",  # prism, rhythm
    )
)
_DIGIT = dict(zip("0123456789", (2, 1, 1, 1, 1, 1, 1, 2, 1, 1), strict=True))


def count_syllables(word: str) -> int:
    """Syllables of an English word by spelling: vowel groups, silent e, hiatus, and a list of exceptions.

    Every word has at least one; digits are counted as they are read one by one; "" has none.

    >>> [count_syllables(word) for word in ("table", "silence", "usually", "couldn't")]
    [2, 2, 4, 2]
    """
    plain = "".join(c for c in unicodedata.normalize("NFD", fold(word)) if not unicodedata.combining(c))
    parts = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|[0-9]", plain)
    count = sum(_DIGIT.get(part) or _with_apostrophe(part) for part in parts)
    return max(count, 1) if plain.strip() else 0


def _with_apostrophe(part: str) -> int:
    base, *tails = part.split("'")
    if tails == ["t"] and base.endswith("n"):
        return _of_letters(base[:-1]) + (base[-2:-1] in tuple("dst"))
    count = _of_letters(base)
    for tail in tails:
        if tail == "s":
            count += base.endswith(("s", "x", "z", "ch", "sh", "ce", "ge", "se"))
        elif tail in ("ve", "ll"):
            count += base[-1] not in "aeiouy"
        elif tail not in ("re", "d", "m", "t"):
            count += _of_letters(tail)
    return count


def _of_letters(word: str) -> int:
    before = 0
    while (singular := word.removesuffix("s")) not in _SYLLABLES and word not in _SYLLABLES:
        head = next((h for h in _HEADS if word.startswith(h) and len(word) >= len(h) + 3), None)
        if head is None:
            return before + _of_a_word(word)
        before += _HEADS[head]
        word = word[len(head) :]
    return before + (_SYLLABLES.get(word) or _SYLLABLES[singular])


def _of_a_word(word: str) -> int:
    if match := _E_SUFFIX.match(word):
        return _of_letters(match[1]) + _of_letters(match[2])
    count = len(re.findall(r"[aeiouy]+", word))
    if count > 1:
        count -= any(pattern.search(word) is not None for pattern in _SILENT)
    count += sum(len(pattern.findall(word)) for pattern in _HIATUS)
    return max(count, 1)
