"""What the `model` of a request may say: backbone, rival, `name`, `name@alias`, `name@version`, short version id."""

from dataclasses import dataclass

MAX_NAME_CHARS = 512
ALIAS_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
"""Never begins with a digit: `name@3` is a version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name as asked for: everything before the last `@`, and the alias or version number after it."""

    name: str
    selector: str | None

    def __str__(self) -> str:
        return self.name if self.selector is None else f"{self.name}@{self.selector}"


def parse_reference(text: str) -> Reference:
    """Splits `name@selector`; a name without `@` has no selector."""
    name, at, selector = text.rpartition("@")
    return Reference(name=name, selector=selector) if at else Reference(name=text, selector=None)
