"""Code that is run: a completion's program against the assertions of its prompt (component `code`).

    reward.py    an answer -> its code -> a score
    sandbox.py   the workers that run programs, and what they keep away from them
    jail/        what runs in a worker; nothing there imports anything but the standard library

A program and the tests never meet in one process. The tests run in an examiner; the program's names are
there as proxies, and a call goes to the program's own process, which answers with plain data:

    run -- worker -- examiner: assert f(2) == 4        knows the tests, runs no line of the program
               \\         |  "call f with 2" / "4"
                keeper -- program: def f(x): ...        knows neither tests nor results, and is shut in

So there is nothing to forge: who ends early, patches the interpreter or writes a "result" himself has still
not answered 4 to a call of f(2), and no object of the program's is ever asked whether it equals 4. What
remains is what tests of any kind leave open: a program that is right for these inputs and wrong for others.
"""
