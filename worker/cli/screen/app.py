"""The full-screen program: reads the store about once a second, and obeys keys."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from prompt_toolkit.application import Application
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import ConditionalContainer, HSplit, Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl
from prompt_toolkit.output import create_output
from prompt_toolkit.widgets import TextArea
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.settings import Settings
from config.text import mask_text, shown_on_one_line
from worker.cli.client import heed_interrupt, message_of
from worker.cli.explain import as_text, explanation_of
from worker.cli.lanelist import as_line
from worker.cli.output import drawn
from worker.cli.screen.actions import Actions
from worker.cli.screen.drawing import draw
from worker.cli.screen.reading import Failure, Reader, Reading
from worker.cli.screen.state import Page, Pane, ScreenState
from worker.cli.summary import UNSUCCESSFUL_STATES
from worker.store.connection import StoreUnavailableError
from worker.store.views import ImportViews

INTERVAL_SECONDS: Final = 1.0
INTERVAL_PER_READING: Final = 10
"""A reading that takes long is followed by a pause of so many times its length, so that a screen
takes at most a tenth of the server's time."""

READ_SECONDS: Final = 5.0
MEMBERS_READ: Final = 200
ROWS_OF_A_PAGE: Final = 10
ESCAPE_SECONDS: Final = 0.05
"""After ESC, so long is waited for the rest of a key's sequence."""

INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM
OVER: Final = 0
QUIT: Final = -1
"""OVER and QUIT say why the screen was left: all batches have completed, or `q`."""

Act = Callable[[str], Awaitable[str]]
"""Called with the answer to a question; returns a sentence about the result."""


class WatchScreen:
    """Shows batches on the whole terminal, from a first reading on."""

    def __init__(
        self, redis: "Redis", settings: Settings, reader: Reader, first: Reading, *, ends: bool
    ) -> None:
        self._views = ImportViews(redis)
        self._actions = Actions(redis, settings)
        self._reader = reader
        self._ends = ends
        self._state = ScreenState(first)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._act: Act | None = None
        self._question = ""
        self._answer = TextArea(
            multiline=False, height=1, prompt=lambda: self._question, accept_handler=self._answered
        )
        self._app: Application[int] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            full_screen=True,
            input=create_input(sys.stdin),
            output=create_output(drawn(sys.stdout)),
        )
        self._app.ttimeoutlen = ESCAPE_SECONDS

    @property
    def reading(self) -> Reading:
        """The last reading."""
        return self._state.reading

    async def run(self) -> int:
        """Show the screen; return OVER, QUIT, INTERRUPTED or TERMINATED."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, TERMINATED)
        loop.set_exception_handler(lambda _, context: self._fail(context.get("exception")))
        self._start(self._keep_reading())
        try:
            return await self._app.run_async(set_exception_handler=False)
        except EOFError:  # the terminal has gone
            return INTERRUPTED
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            loop.set_exception_handler(None)

    async def _keep_reading(self) -> None:
        while True:
            began = time.monotonic()
            await self._look()
            heed_interrupt()
            self._app.invalidate()
            if self._ends and all(batch.completed for batch in self.reading.batches):
                self._end(OVER)
            pause = max(INTERVAL_SECONDS, INTERVAL_PER_READING * (time.monotonic() - began))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        """Read the store once. If that fails, the screen says why."""
        state = self._state
        try:
            async with asyncio.timeout(READ_SECONDS):
                state.take(await self._reader.read())
                if state.pages:
                    await self._refresh(state.pages[-1])
            state.outage = ""
        except (RedisError, OSError) as error:
            state.outage = mask_text(str(error)) or "no answer"

    async def _refresh(self, page: Page) -> None:
        """Read the text of a page. The failures of a batch are read only when it is opened."""
        if page.pane is Pane.LANES and (lane := self._state.lane):
            page.lines = [f"Lane {lane.name}", "", *as_line(lane).split("; ")]
        elif page.pane is Pane.FAILURES:
            explanation = await explanation_of(self._views, page.name)
            page.lines = as_text(explanation) if explanation else ["Its record has expired."]

    async def _read_members(self, page: Page) -> None:
        items = await self._views.members(page.name, UNSUCCESSFUL_STATES, MEMBERS_READ)
        page.members = [Failure.from_import(item) for item in items]
        self._app.invalidate()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._fail(task.exception())

    def _fail(self, error: BaseException | None) -> None:
        """Leave the screen because of an error that nothing handles."""
        if isinstance(error, RedisError | StoreUnavailableError | OSError):
            self._state.message = f"The store {message_of(error)}"
            self._app.invalidate()
        elif error is not None and self._app.is_running and not self._app.is_done:
            self._app.exit(exception=error)

    def _end(self, code: int) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit(result=code)

    def _layout(self) -> Layout:
        body = Window(FormattedTextControl(self._text, focusable=True, show_cursor=False))
        asking = ConditionalContainer(self._answer, has_focus(self._answer))
        return Layout(HSplit([body, asking]), focused_element=body)

    def _text(self) -> StyleAndTextTuples:
        size = self._app.output.get_size()
        rows = size.rows - self._app.layout.has_focus(self._answer)
        text: StyleAndTextTuples = []
        for line in draw(self._state, size.columns, rows):
            text += [*line, ("", "\n")]
        return text[:-1]

    def _ask(self, question: str, act: Act) -> None:
        self._question, self._act = shown_on_one_line(question), act
        self._app.layout.focus(self._answer)

    def _answered(self, _buffer: object) -> bool:
        """Act on the answer; return False, so that the line is cleared."""
        answer, act = self._answer.text, self._act
        self._app.layout.focus_previous()
        if act is not None:
            self._state.message = "..."
            self._start(self._carry_out(act, answer))
        return False

    async def _carry_out(self, act: Act, answer: str) -> None:
        self._state.message = await act(answer)
        self._wake.set()

    def _ask_to(self, question: str, act: Callable[[], Awaitable[str]]) -> None:
        """Ask a question, and act if the answer is yes."""

        async def checked(answer: str) -> str:
            return await act() if answer.strip().lower() in {"y", "yes"} else "Nothing was changed."

        self._ask(f"{question} [y/N] ", checked)

    def _chosen(self) -> tuple[str, str] | None:
        """Return `batch` or `lane`, and the name of the one that keys apply to."""
        if batch := self._state.batch:
            return "batch", batch.batch_id
        if lane := self._state.lane:
            return "lane", lane.name
        return None

    def _pause(self) -> None:
        if chosen := self._chosen():
            kind, name = chosen
            self._ask(
                f"Pause {kind} {name}; reason (Esc: do not pause): ",
                lambda reason: self._actions.pause(kind, name, reason),
            )

    def _resume(self) -> None:
        if chosen := self._chosen():
            kind, name = chosen
            self._ask_to(f"Resume {kind} {name}?", lambda: self._actions.resume(kind, name))

    def _retry(self) -> None:
        if batch := self._state.batch:
            self._ask_to(
                f"Retry what did not succeed in batch {batch.batch_id}?",
                lambda: self._actions.retry(batch),
            )

    def _open(self) -> None:
        page = self._state.open()
        if page is None:
            return
        if page.pane is Pane.BATCHES:
            self._start(self._read_members(page))
        else:
            page.lines = ["Reading ..."]
            self._wake.set()

    def _help(self) -> None:
        self._state.is_help_shown = not self._state.is_help_shown

    def _keys(self) -> KeyBindings:
        keys, state, is_asking = KeyBindings(), self._state, has_focus(self._answer)
        bound: list[tuple[tuple[str, ...], Callable[[], object]]] = [
            (("up", "k"), lambda: state.move(-1)),
            (("down", "j"), lambda: state.move(1)),
            (("pageup",), lambda: state.move(-ROWS_OF_A_PAGE)),
            (("pagedown", "space"), lambda: state.move(ROWS_OF_A_PAGE)),
            (("tab", "right"), lambda: state.next_pane(1)),
            (("s-tab", "left"), lambda: state.next_pane(-1)),
            (("enter",), self._open),
            (("escape", "backspace"), state.back),
            (("p",), self._pause),
            (("r",), self._resume),
            (("t",), self._retry),
            (("?", "h"), self._help),
            (("q",), lambda: self._end(QUIT)),
        ]
        for names, act in bound:
            for name in names:
                keys.add(name, filter=~is_asking)(_handler(act, state))
        for name in ("c-c", "<sigint>"):
            keys.add(name)(lambda _: self._end(INTERRUPTED))
        keys.add("c-z")(lambda event: event.app.suspend_to_background())
        keys.add("escape", filter=is_asking)(lambda _: self._forget_question())
        return keys

    def _forget_question(self) -> None:
        self._answer.text = ""
        self._app.layout.focus_previous()


def _handler(act: Callable[[], object], state: ScreenState) -> Callable[[KeyPressEvent], None]:
    def handle(_event: KeyPressEvent) -> None:
        state.message = ""
        act()

    return handle
