"""What a migration did, or would do."""

from __future__ import annotations

from pydantic import Field

from builder.core.messages import count, failed
from schemas.base import Record, Shape


class Move(Record):
    """What becomes of one older file."""

    id: str
    path: str = Field(description="relative to the older folder")
    length: int
    views: dict[str, str] = Field(description="what each view's geometry rests on, in words")
    frames: bool = Field(description="whether its frames are at hand")
    done: bool = Field(default=False, description="it was migrated before")


class MigrationReport(Record):
    """A migration, or what it would do."""

    out: str
    dry_run: bool
    img_shape: Shape
    moves: tuple[Move, ...]
    failures: dict[str, str]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 all good, 1 some files failed, 3 none could be migrated."""
        return 0 if not self.failures else 1 if self.moves else 3

    def text(self) -> str:
        """Return the report for people."""
        new = [move for move in self.moves if not move.done]
        lines = []
        for move in new if self.dry_run else ():
            views = "; ".join(f"{name}: {basis}" for name, basis in move.views.items())
            lines.append(f"{move.path} -> {move.id} ({count(move.length, 'frame')}; {views})")
        for path, reason in self.failures.items():
            lines.append(failed(path, reason))
        lines += [f"note: {note}" for note in self.notes]
        lines.append(
            f"{'would migrate' if self.dry_run else 'migrated'} {count(len(new), 'episode')} to "
            f"{self.out} ({sum(move.frames for move in new)} with frames), "
            f"{len(self.moves) - len(new)} were there, {len(self.failures)} failed"
        )
        return "\n".join(lines)
