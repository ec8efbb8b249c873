"""How long something took that was killed and went on: the time of all attempts, kept beside what they wrote."""

from pathlib import Path

from flexrec.files import replacing


class Clock:
    """Counts the seconds of attempts that write into one folder.

    Nothing runs when a process is killed, so an attempt counts from its start until it last wrote something there.

    Args:
        folder: Scratch folder of all attempts; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / ".seconds"
        """Holds what the attempts before the running one took; its own time is when that one began."""

    def start(self) -> float:
        """Begin an attempt, and say how many seconds those before it took."""
        before = self._before()
        with replacing(self.file) as file:
            file.write(repr(before))
        return before

    def _before(self) -> float:
        if not self.file.is_file():
            return 0.0
        begun = self.file.stat().st_mtime
        # what is hidden is about the folder, as this file is, and no work
        written = [path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        latest = max((path.stat().st_mtime for path in written), default=begun)
        return float(self.file.read_text(encoding="utf-8")) + max(0.0, latest - begun)
