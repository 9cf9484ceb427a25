"""What every part of the configuration has in common."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict

IN_DOMAIN = "dolly"  # the test set of the training data's kind: held-out KL, exposure bias and the probe are measured on it
SECOND_ROW = "@sft_weight_0"  # ends the name of a method's second row in Table 1


Values = TypeVar("Values", bound=Iterable[Any])


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def each_once(values: Values) -> Values:
    """The values. Raises ValueError where one of them stands there twice."""
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"'{twice[0]}' stands here twice; name it once")
    return values


Unique = AfterValidator(each_once)  # annotates a field whose values all differ


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the name among `valid` that is most like `word`."""
    names = list(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.0)
    return f"the nearest valid one is '{close[0]}'" if close else f"valid ones: {', '.join(names)}"


def all_known(where: str, kind: str, names: Iterable[str], valid: Iterable[str], error: type[Exception] = ValueError) -> None:
    """Raise an error where one of `names` is not among `valid`. `kind`: what they are names of."""
    valid = list(valid)
    for name in names:
        if name not in valid:
            raise error(f"{where}: there is no {kind} '{name}'; {nearest(name, valid)}")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field of this type can hold, in order of appearance."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]
