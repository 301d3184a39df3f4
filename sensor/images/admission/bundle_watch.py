"""Tells of bundles: directories ``STATE/io.containerd.runtime.v2.task/NAMESPACE/ID``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from sensor.images.admission.bundle_files import is_trusted
from sensor.kernel.fanotify import Change, DirectoryWatch

TASKS = "io.containerd.runtime.v2.task"
_STATE, _TASKS, _NAMESPACE = range(3)  # how deep a directory is
_RETRY_SECONDS = 2.0  # how often to look for a directory that is not there yet


class Came(Protocol):
    """Told of a bundle by its path; ``is_new`` when it was made just now."""

    def __call__(self, path: str, *, is_new: bool) -> None:
        """A bundle is there."""


class BundleWatch:
    """Watches state directories of containerd, also such as are made later.

    Args:
        came: told of each bundle; of one that was there already perhaps more than once.
        went: told of one that was removed, or has another name now.
        refused: told, with a reason, of a directory that is not watched; once.
        lost: called when something may have been missed, before all is looked at again.
    """

    def __init__(
        self,
        came: Came,
        went: Callable[[str], None],
        refused: Callable[[str, str], None],
        lost: Callable[[], None],
    ) -> None:
        self._came, self._went = came, went
        self._refused, self._lost = refused, lost
        self._watch = DirectoryWatch()
        self._states: tuple[str, ...] = ()
        self._places: dict[int, tuple[int, str]] = {}  # by watch: how deep, path
        self._watched: dict[str, int] = {}
        self._told: set[str] = set()
        self._retry_at = 0.0
        self.fd = self._watch.fd

    def follow(self, states: tuple[str, ...]) -> None:
        """Watch these state directories, and no others any more."""
        self._states = states
        for path, watch in tuple(self._watched.items()):
            if not any(path == state or path.startswith(f"{state}/") for state in states):
                self._watch.remove(watch)
        self._look_for_states()

    def read(self) -> None:
        """Tell what has happened."""
        for change in self._watch.read():
            self._on_change(change)

    def tick(self) -> None:
        """Look for state directories that are not there yet, from time to time."""
        if time.monotonic() >= self._retry_at:
            self._look_for_states()

    def _look_for_states(self) -> None:
        for state in self._states:
            if state not in self._watched:
                self._add(state, _STATE)
        self._retry_at = time.monotonic() + _RETRY_SECONDS

    def _add(self, path: str, depth: int) -> None:
        """Watch a directory and look at what is in it."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return  # not there yet, or no longer
        try:
            if not is_trusted(fd):
                self._refuse(path, "others than root may write to it")
                return
            watch = self._watch.add(fd)
            self._places[watch] = (depth, path)
            self._watched[path] = watch
            names = os.listdir(fd)  # noqa: PTH208 - by descriptor. After the watch: none is missed
        except OSError as error:
            self._refuse(path, error.strerror or str(error))
            return
        finally:
            os.close(fd)
        for name in names:
            self._on_name(depth, path, name, is_new=False)

    def _refuse(self, path: str, reason: str) -> None:
        if path not in self._told:
            self._told.add(path)
            self._refused(path, reason)

    def _on_name(self, depth: int, path: str, name: str, *, is_new: bool) -> None:
        below = f"{path}/{name}"
        if depth == _NAMESPACE:
            # containerd renames a bundle to .ID before it removes it.
            if not name.startswith("."):
                self._came(below, is_new=is_new)
        elif (depth == _TASKS or name == TASKS) and below not in self._watched:
            self._add(below, depth + 1)

    def _on_change(self, change: Change) -> None:
        if change.watch < 0:
            self._places, self._watched = {}, {}
            self._lost()
            self._look_for_states()
            return
        place = self._places.get(change.watch)
        if place is None:
            return
        depth, path = place
        if not change.name:
            del self._places[change.watch]
            self._watched.pop(path, None)
        elif change.came:
            self._on_name(depth, path, change.name, is_new=True)
        elif depth == _NAMESPACE:
            self._went(f"{path}/{change.name}")
