"""A world of several turns: a number is to be found, and each guess is answered."""

import random
import re


class Guess:
    def start(self, data, seed):
        """What is said after the prompt. All that is drawn follows from the seed."""
        self.low, self.high = data["low"], data["high"]
        self.number = random.Random(seed).randint(self.low, self.high)
        return f"The number is from {self.low} to {self.high}."

    def step(self, reply):
        """What is answered to a guess, the reward of this turn, and whether it is over."""
        found = re.search(r"\d+", reply)
        if found is None:
            return "Say a number.", -0.1, False
        guess = int(found.group())
        if guess == self.number:
            return "Right.", 1.0, True
        return ("Higher." if guess < self.number else "Lower."), 0.0, False
