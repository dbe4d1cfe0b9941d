"""A run watched in the browser: its report, made anew as its files change, and how it stands now."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

from refine_rl.errors import UserError
from refine_rl.report.live import strip, waiting_page, watched_page
from refine_rl.report.loopback import Answer, server
from refine_rl.report.now import Now, Standing, now_of
from refine_rl.report.page import render
from refine_rl.run.files import Record
from refine_rl.run.follow import Watched
from refine_rl.run.life import taken_by
from refine_rl.run.near import did_you_mean, require_one

SHARE = 0.05
"""Of one core, that making reports may take in the long run."""
_SAVED = 6.0  # seconds of a core that may be spent at once: a run's first minutes, its last report
_LOOK = 0.5  # seconds between looks at the files
_ASKED = 30.0  # seconds for which somebody counts as looking
_NICENESS = 10
_PASSING = (FileNotFoundError, NotADirectoryError)
"""What is raised where a file was replaced or pruned while it was read: the next look finds it whole."""


@dataclass(kw_only=True)
class Allowance:
    """Processor seconds that may be spent: `share` of those that pass, of which up to `most` are saved up.

    >>> allowance = Allowance(share=0.05, most=6.0, at=0.0)
    >>> allowance.spend(7.0)
    >>> allowance.left(at=10.0), allowance.left(at=30.0), allowance.left(at=1e6)
    (-0.5, 0.5, 6.0)
    """

    share: float
    most: float
    at: float
    saved: float = field(init=False)

    def __post_init__(self) -> None:
        self.saved = self.most

    def left(self, at: float) -> float:
        self.saved = min(self.most, self.saved + self.share * (at - self.at))
        self.at = at
        return self.saved

    def spend(self, seconds: float) -> None:
        self.saved -= seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A report, what tells it from others, when it was made, and the files and the state of which it was
    made."""

    page: str
    name: str
    at: str
    files: object
    state: str


class Watch:
    """What a browser is shown of the run in a folder, which need not have begun yet. Nothing is written, no
    lock is taken, and the run does not notice.

    Reports are made by one thread of low priority, as long as somebody looks, and no more often than `SHARE`
    of a core allows; how the run stands is worked out when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.run = Watched(path)
        self._made: Made | None = None
        self._trouble = ""
        self._refused: object = None  # the files of which no report could be made
        self._tried: object = None  # those of which none could, at the first try
        self._asked = 0.0
        self._asking = threading.Lock()
        self._now: Now | None = None
        self._shown: tuple[object, str] = (None, "")
        self._groups: tuple[object, list[Record]] = (None, [])
        self._end = threading.Event()
        self._maker = threading.Thread(target=self._make_reports, name="watch-report", daemon=True)

    # -- what is asked for --------------------------------------------------------------------

    def page(self) -> Answer:
        """The whole page as it is now."""
        made = self._made
        above = self._strip(made)
        if made is not None:
            return Answer(body=watched_page(made.page, above).encode())
        said = "The report is being made." if self.run.begun else self._not_begun()
        return Answer(body=waiting_page(self.run.name, above, said).encode())

    def strip(self) -> Answer:
        """How the run stands, alone."""
        return Answer(body=self._strip(self._made).encode())

    def routes(self) -> dict[str, Callable[[], Answer]]:
        nothing = Answer(body=b"", kind="image/x-icon")
        return {"/": self.page, "/strip": self.strip, "/favicon.ico": lambda: nothing}

    def _not_begun(self) -> str:
        return (
            f"There is no run in {self.run.path} yet. This page shows it as soon as it begins: "
            f"refine train task.toml --run {self.run.path}"
        )

    def _strip(self, made: Made | None) -> str:
        with self._asking:
            self._asked = time.monotonic()
            now, groups, unread = self._look(made)
            trouble = self._trouble or unread
            if now.standing.state == "finished":
                groups = []  # they are in the report
            key = (now, self._groups[0], made and made.name, trouble)
            if key != self._shown[0]:
                report, at = (made.name, made.at) if made else ("", "")
                self._shown = (key, strip(now, groups, report=report, made=at, trouble=trouble))
            return self._shown[1]

    def _look(self, made: Made | None) -> tuple[Now, list[Record], str]:
        """How the run stands, the groups of its newest step, and what kept it from being read."""
        trouble = ""
        try:
            if made is not None and not self.run.begun:
                more = "What stands below was made before."
                gone = Standing(state="broken off", said="The run’s folder is gone", more=more)
                self._now = Now(name=self.run.name, standing=gone)
            else:
                self._now = now_of(self.run)
            self._newest_groups()
        except _PASSING:
            pass
        except Exception as error:  # a damaged file, or a defect of ours, does not end the watching
            trouble = _words(error)
        unknown = Standing(state="not begun", said="Not known yet")
        return self._now or Now(name=self.run.name, standing=unknown), self._groups[1], trouble

    def _newest_groups(self) -> None:
        file = self.run.state_of_files().get(self.run.groups.path.name)
        if file != self._groups[0]:
            self._groups = (file, self.run.newest_groups())

    # -- what is made -------------------------------------------------------------------------

    def _make_reports(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.nice(_NICENESS)  # on Linux of this thread alone; the run comes first
        allowance = Allowance(share=SHARE, most=_SAVED, at=time.monotonic())
        while not self._end.wait(_LOOK):
            if not self._wanted() or (allowance.left(time.monotonic()) < 0 and not self._ended()):
                continue
            began = time.thread_time()
            self._make()
            allowance.spend(time.thread_time() - began)

    def _wanted(self) -> bool:
        """Whether somebody looks, and the report at hand is not of the run as it stands."""
        if not self.run.begun or time.monotonic() - self._asked > _ASKED:
            return False
        files, made, now = self.run.state_of_files(), self._made, self._now
        if self._refused or made is None:
            return files != self._refused
        return files != made.files or (now is not None and now.standing.state != made.state)

    def _ended(self) -> bool:
        """Whether the run has come to an end since the report at hand was made."""
        now, made = self._now, self._made
        if now is None or made is None:
            return False
        return now.standing.state not in ("running", made.state)

    def _make(self) -> None:
        files, at = self.run.state_of_files(), datetime.now().astimezone()
        try:
            self._now = now = now_of(self.run)
            page = render(self.run)
        except Exception as error:  # a damaged file, or a defect of ours, does not end the watching
            if not isinstance(error, _PASSING) or files == self._tried:
                self._trouble = f"The report cannot be made anew: {_words(error)}"
                self._refused = files
            self._tried = files
            return
        name = hashlib.sha256(page.encode()).hexdigest()[:16]
        self._trouble, self._refused = "", None
        self._made = Made(page=page, name=name, at=f"{at:%H:%M:%S}", files=files, state=now.standing.state)

    # -- its life -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def at(self, port: int) -> Iterator[str]:
        """Serves inside; gives the address. Raises UserError where no port can be had."""
        serving = server(port, self.routes())
        thread = threading.Thread(target=serving.serve_forever, args=(0.1,), name="watch-pages", daemon=True)
        self._maker.start()
        thread.start()
        try:
            yield _address(serving)
        finally:
            self._end.set()
            serving.shutdown()
            serving.server_close()


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _address(serving: ThreadingHTTPServer) -> str:
    host, port = serving.server_address[:2]
    return f"http://{host!s}:{port}/"


def watchable(path: Path) -> Watch:
    """The run in `path`, or the one that is to begin there. Raises UserError where there is something
    else."""
    require_one(path)
    watch = Watch(path)
    if not watch.run.begun and taken_by(path):
        raise UserError(
            f"{path} is no run, and none can begin there: it is something else already.{did_you_mean(path)}"
        )
    return watch
