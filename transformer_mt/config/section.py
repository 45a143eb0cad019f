"""What all sections of the configuration are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

PositiveInt = Annotated[int, Field(gt=0)]


Count = Annotated[int, Field(ge=0)]


Positive = Annotated[float, Field(gt=0)]


NonNegative = Annotated[float, Field(ge=0)]


Probability = Annotated[float, Field(ge=0, lt=1)]


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
