"""Output of one run in its order, used by sessions of text-only pools and by the host.

Sent as source, standard library only. `OutputLog` applies what Jupyter calls live displays: an
update replaces the display with its id, and a clear removes all earlier output of the run. Streams
keep head and tail. Displays beyond the limit replace the oldest ones, so that the last ones are
kept. The host and a session agent feed it with the same events, so both kinds of pools agree.
"""

from __future__ import annotations

import threading
from typing import Any

from cci_plugins.in_session.streams import StreamBuffer

MAX_DISPLAYS = 10_000
MAX_SEGMENTS = 10_000  # of text: beyond it, text joins the last segment of its stream
IMAGE_FORMS = ("image/png", "image/jpeg", "image/svg+xml")
RESULT = "result"


def get_image_form(data: dict[str, Any]) -> Any:
    """Return the image of a display in its first form, or None."""
    return next((data[kind] for kind in IMAGE_FORMS if data.get(kind)), None)


class OutputLog:
    """Streams and displays of one run.

    Attributes:
        received: Characters of each stream that arrived, cleared ones included.
        display_count: Displays and updates that arrived.
        dropped_displays: Displays that exceeded the limit.
    """

    def __init__(self, stream_characters: int, display_characters: int) -> None:
        self.received = {"stdout": 0, "stderr": 0}
        self.display_count = 0
        self.dropped_displays = 0
        self._stream_characters = stream_characters
        self._display_characters = display_characters
        self._clears_next = False
        self._serial = 0
        self._lock = threading.RLock()  # threads of the code print at the same time
        self._clear()

    def add_text(self, name: str, text: str) -> None:
        """Append text to a stream."""
        with self._lock:
            self._clear_if_asked()
            self.received[name] += len(text)
            self._streams[name].add(text)
            last = self._entries.get(self._serial)
            if last is None or last[0] != name:
                last = self._last_text.get(name)
                if last is None or len(self._entries) - len(self._displays) < MAX_SEGMENTS:
                    last = self._last_text[name] = self._append([name, 0])
            last[1] += len(text)

    def add_display(
        self, data: dict[str, Any], size: int, *, is_main: bool = False, display_id: str = ""
    ) -> None:
        """Append a display.

        Args:
            data: Its forms by MIME type.
            size: Characters of all forms.
            is_main: Whether it is the value of the last expression. An equal image that was
                displayed before is removed, so that a figure is shown once.
            display_id: Its id for updates, or empty.
        """
        with self._lock:
            self._clear_if_asked()
            self.display_count += 1
            size += len(display_id)
            if size > self._display_characters:
                self.dropped_displays += 1
                return
            if is_main:
                self._remove_image(get_image_form(data))
            self._make_room(size)
            display = {"data": data, "is_main": is_main, "size": size, "id": display_id}
            entry = self._append([RESULT, display])
            self._displays[self._serial] = entry[1]
            self._remaining -= size
            if display_id:
                self._ids[display_id] = self._serial

    def update_display(self, data: dict[str, Any], size: int, display_id: str) -> None:
        """Replace the display with this id. Append it if this run has not displayed it."""
        with self._lock:
            display = self._displays.get(self._ids.get(display_id, 0))
            if display is None:
                self.add_display(data, size, display_id=display_id)
                return
            self.display_count += 1
            size += len(display_id)
            if size > self._remaining + display["size"]:
                self.dropped_displays += 1
                return
            self._remaining += display["size"] - size
            display.update(data=data, size=size)

    def clear(self, *, wait: bool) -> None:
        """Remove all output. With `wait`, do so when the next output arrives."""
        with self._lock:
            self._clears_next = wait
            if not wait:
                self._clear()

    def set_sent(self, name: str, characters: int) -> None:
        """Set how many characters of a stream the session sent, of which some may be lost."""
        self._streams[name].lost = max(characters - self.received[name], 0)

    def get_stream(self, name: str) -> StreamBuffer:
        """Return what is kept of a stream."""
        return self._streams[name]

    def get_displays(self) -> list[dict[str, Any]]:
        """Return the displays in order, each with `data` and `is_main`."""
        return list(self._displays.values())

    def build_order(self) -> list[list[Any]]:
        """Return the order of the output.

        Returns:
            Pairs of a stream and the number of its next characters, or of `result` and 1.
        """
        cuts = {name: _Cut(buffer) for name, buffer in self._streams.items()}
        order: list[list[Any]] = []
        for kind, value in self._entries.values():
            length = 1 if kind == RESULT else cuts[kind].take(value)
            _extend_order(order, kind, length)
        for name, cut in cuts.items():
            _extend_order(order, name, cut.take_rest())
        return order

    def _append(self, entry: list[Any]) -> list[Any]:
        self._serial += 1
        self._entries[self._serial] = entry
        return entry

    def _clear_if_asked(self) -> None:
        if self._clears_next:
            self._clears_next = False
            self._clear()

    def _clear(self) -> None:
        self._streams = {name: StreamBuffer(self._stream_characters) for name in self.received}
        self._entries: dict[int, list[Any]] = {}
        self._last_text: dict[str, list[Any]] = {}
        self._displays: dict[int, dict[str, Any]] = {}
        self._ids: dict[str, int] = {}
        self._remaining = self._display_characters

    def _make_room(self, size: int) -> None:
        """Drop the oldest displays until another one fits."""
        while self._displays and (size > self._remaining or len(self._displays) >= MAX_DISPLAYS):
            self._remove(next(iter(self._displays)))
            self.dropped_displays += 1

    def _remove_image(self, image: Any) -> None:
        if image is not None:
            for serial, display in list(self._displays.items()):
                if not display["is_main"] and get_image_form(display["data"]) == image:
                    self._remove(serial)

    def _remove(self, serial: int) -> None:
        display = self._displays.pop(serial)
        self._remaining += display["size"]
        if self._ids.get(display["id"]) == serial:
            del self._ids[display["id"]]
        del self._entries[serial]


class StreamWriter:
    """One stream of a log, in the form of a `StreamBuffer`."""

    def __init__(self, log: OutputLog, name: str) -> None:
        self._log = log
        self._name = name

    def add(self, text: str) -> None:
        """Append a chunk."""
        self._log.add_text(self._name, text)

    @property
    def dropped_characters(self) -> int:
        """Characters that were not kept."""
        return self._log.get_stream(self._name).dropped_characters

    def get_text(self) -> str:
        """Return the stream."""
        return self._log.get_stream(self._name).get_text()


class _Cut:
    """Lengths of a stream's segments after its middle was cut out."""

    def __init__(self, buffer: StreamBuffer) -> None:
        self._head, gap, self._tail = buffer.get_lengths()
        self._tail_start = buffer.total - self._tail
        self._position = 0
        self._gap = gap
        self._rest = self._head + gap + self._tail

    def take(self, characters: int) -> int:
        """Return how many characters are kept of the next segment."""
        start, end = self._position, self._position + characters
        self._position = end
        kept = max(min(end, self._head) - start, 0)
        kept += max(end - max(start, self._tail_start), 0)
        if end > self._head:
            kept, self._gap = kept + self._gap, 0
        self._rest -= kept
        return kept

    def take_rest(self) -> int:
        """Return how many characters no segment has."""
        return self._rest


def _extend_order(order: list[list[Any]], kind: str, length: int) -> None:
    if kind != RESULT and order and order[-1][0] == kind:
        order[-1][1] += length
    elif length:
        order.append([kind, length])
