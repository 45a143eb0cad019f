"""What all sections of the configuration are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

_MOST = 10**12  # beyond all use; what is larger, 64 bits do not hold a product of

PositiveInt = Annotated[int, Field(gt=0, le=_MOST)]


Count = Annotated[int, Field(ge=0, le=_MOST)]


Seed = Annotated[int, Field(ge=0)]


Size = Annotated[int, Field(ge=0, lt=1 << 63)]  # of files, and of what is in them


Positive = Annotated[float, Field(gt=0)]


NonNegative = Annotated[float, Field(ge=0)]


Probability = Annotated[float, Field(ge=0, lt=1)]


PathName = Annotated[str, AfterValidator(os.path.expanduser)]


def _paths(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return os.path.expanduser(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return tuple(map(os.path.expanduser, value))
    raise ValueError(f"should be a file, a pattern as in parts/*.en, or a list of those, found {value!r}")


Paths = Annotated[str | tuple[str, ...], BeforeValidator(_paths)]  # one file or pattern, or several


# YAML has lists; a frozen section holds tuples. Only the container is converted, its items stay strict.
AsTuple = Field(strict=False)


KEYS_ONLY = "keys only"  # validation context: leave the conflicts between keys to the caller


class Section(BaseModel):
    """Base of all sections: no unknown keys, no silent conversions, no changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def conflicts(self) -> Iterator[str]:
        """Values that are right by themselves but impossible together, each with a remedy."""
        yield from ()

    @model_validator(mode="after")
    def _is_possible(self, info: ValidationInfo) -> Self:
        if info.context != KEYS_ONLY and (conflicts := list(self.conflicts())):
            raise ValueError("; ".join(conflicts))
        return self
