"""Files that nobody but us can have written, down from a folder.

Each is opened once, in the folder that was opened before it, and asked by its descriptor: what is found out about it
stays true of what is read. Above the first folder nothing needs to be trusted: whoever can rename there can put only
a folder in its place that is ours alone, too.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not keep us waiting


class NotPrivate(Exception):
    """Somebody else may have written it; the message says which."""


class Folder:
    """An open folder that belongs to this process's user and that nobody else can write; close it with `with`."""

    def __init__(self, path: Path, inside: "Folder | None" = None) -> None:
        """Of a first folder a symlink is followed. Raises NotPrivate, OSError."""
        self._path = path
        self._descriptor: int = (
            os.open(path.name, _DIRECTORY | _INSIDE, dir_fd=inside._descriptor) if inside else os.open(path, _DIRECTORY)
        )
        try:
            _refuse_foreign(self._descriptor, path)
        except NotPrivate:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def folder(self, name: str) -> "Folder":
        """Raises NotPrivate; OSError, also for a symlink."""
        return Folder(self._path / name, self)

    def file(self, name: str) -> BufferedReader:
        """A regular file, open. Raises NotPrivate; OSError, also for a symlink."""
        descriptor = os.open(name, os.O_RDONLY | _INSIDE, dir_fd=self._descriptor)
        try:
            _refuse_foreign(descriptor, self._path / name)
        except NotPrivate:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb")

    def read(self, name: str) -> bytes:
        """The whole of such a file."""
        with self.file(name) as file:
            return file.read()


def _refuse_foreign(descriptor: int, path: Path) -> None:
    status = os.fstat(descriptor)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise NotPrivate(f"{path} is neither a file nor a folder")
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise NotPrivate(f"{path} can be written by others")
