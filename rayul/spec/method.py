"""The `method` section: which loss, with which parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticCustomError

from rayul.spec.custom import CODE, check_code, custom_method, is_custom, source_of, split
from rayul.spec.gradients import OWNER, modern, rules_of
from rayul.spec.methods import METHODS, Method
from rayul.spec.parameter import Parameter
from rayul.spec.problems import Loc, did_you_mean, expected, refuse, refuse_all, show
from rayul.spec.space import Choice, looks_searched, searched


@dataclass(frozen=True)
class MethodChoice:
    """The `method` section: a name and, flat beside it in the YAML, its parameters.

    With one name, `parameters` has exactly that method's, defaults filled in, and of a gradient rule's those of the
    rules that may be chosen. While `name` is searched it has those that were given, and the defaults on which all
    methods of the search that have the parameter agree.

    code: the source text of each file that a name such as ./my_loss.py:fn stands for, by its path. It is read when the
    spec is, unless the spec has it (the spec.yaml of results does).
    """

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods that may be chosen."""
        searched_name: object = self.name
        return tuple(map(str, searched_name.options)) if isinstance(searched_name, Choice) else (self.name,)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The gradient rules that may be chosen."""
        return rules_of(self.parameters)

    @property
    def retaining(self) -> list[str]:
        """Those of the methods that train on retain rows; with a retain_weight of 0 only losses of one's own that read
        them themselves."""
        off = self.parameters.get("retain_weight") == 0
        methods = {name: self.of(name) for name in self.names}
        reads = {name: is_custom(name) and not method.retain for name, method in methods.items()}
        return [name for name, method in methods.items() if "retain" in method.needs and (reads[name] or not off)]

    def of(self, name: str) -> Method:
        """The method behind one of `names`."""
        return _method(name, self.code)

    def to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, **self.parameters} | ({CODE: dict(self.code)} if self.code else {})

    @classmethod
    def parse(cls, value: Any) -> MethodChoice:
        """From the YAML's mapping. Raises all problems at once, each at its key."""
        if isinstance(value, cls):
            value = value.to_yaml()
        if isinstance(value, str):
            value = {"name": value}
        if looks_searched(value):
            raise refuse("expected a mapping, got a distribution", "search the name: {name: {choice: [ga, gd]}}")
        if not isinstance(value, dict):
            raise expected("a mapping", value)
        value = modern(_with_gamma(value))
        if "name" not in value:
            raise refuse_all([(("name",), refuse("is missing", "for example `name: gd`"))])
        code = check_code(value.get(CODE, {}))
        try:
            name = searched(value["name"], lambda element: _check_name(element, code))
        except PydanticCustomError as error:
            raise refuse_all([(("name",), error)]) from None
        names = cls(name).names
        code = {path: code[path] for path in dict.fromkeys(split(n)[0] for n in names if is_custom(n))}
        methods = {n: _method(n, code) for n in names}
        given, problems = {}, []
        for key, parameter, element in _match(methods, value):
            try:
                if parameter is None:
                    raise _unknown_parameter(methods, key)
                given[key] = searched(element, parameter.check)
            except PydanticCustomError as error:
                loc: Loc = (key,)
                problems.append((loc, error))
        if problems:
            raise refuse_all(problems)
        return cls(name, {key: given.get(key, default) for key, default in _defaults(methods, given)}, code)


def _method(name: str, code: Mapping[str, str]) -> Method:
    return custom_method(name, code[split(name)[0]]) if is_custom(name) else METHODS[name]


def _with_gamma(section: dict[str, Any]) -> dict[str, Any]:
    """`gru_smoothing`, by which specs of before gave gru the weight of the past, as `gru_gamma`: 1 minus it. Where gru
    is off it had no effect, and its written-out default goes."""
    if "gru_smoothing" not in section:
        return section
    old = section["gru_smoothing"]
    rest = {key: value for key, value in section.items() if key != "gru_smoothing"}
    if section.get("gru", False) is False:
        return rest
    if isinstance(old, bool) or not isinstance(old, (int, float)):
        text = "is now gru_gamma, the weight of the newest gradient"
        raise refuse_all([(("gru_smoothing",), refuse(text, "search gru_gamma, which is 1 - gru_smoothing"))])
    return rest | {"gru_gamma": round(1 - old, 9)}


def _check_name(name: Any, code: dict[str, str]) -> str:
    """A method's name; the source text of a custom loss goes to `code`."""
    if not isinstance(name, str):
        raise expected("the name of a method", name)
    if is_custom(name):
        code[split(name)[0]] = source_of(name, code)
        _method(name, code)
    elif name not in METHODS:
        hint = "for a loss of your own write ./my_loss.py:function" if name.endswith(".py") else ""
        raise refuse(f"unknown method {show(name)}", hint or did_you_mean(name, METHODS))
    return name


def _match(methods: Mapping[str, Method], section: dict[str, Any]) -> Iterator[tuple[str, Parameter | None, Any]]:
    """Every given key with each method's parameter of that name, or once with None where no method has it."""
    for key, value in section.items():
        if key not in ("name", CODE):
            owners = dict.fromkeys(method.parameters.get(key) for method in methods.values())
            known = [owner for owner in owners if owner is not None]
            yield from ((key, owner, value) for owner in known)
            if not known:
                yield key, None, value


def _unknown_parameter(methods: Mapping[str, Method], key: str) -> PydanticCustomError:
    known = dict.fromkeys(parameter for method in methods.values() for parameter in method.parameters)
    text = f"{' and '.join(methods)} {'has' if len(methods) == 1 else 'have'} no parameter {key}"
    owners = [name for name, method in METHODS.items() if key in method.parameters]
    return refuse(text, f"it belongs to {', '.join(owners)}" if owners else did_you_mean(key, known))


def _defaults(methods: Mapping[str, Method], given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters in the table's order with their defaults; without those that differ by method, or belong to a gradient
    rule that cannot be chosen, and are not given."""
    rules = rules_of(given)
    for key in dict.fromkeys(key for method in methods.values() for key in method.parameters):
        defaults = {m.parameters[key].default for m in methods.values() if key in m.parameters}
        if key in given or (len(defaults) == 1 and OWNER.get(key, rules[0]) in rules):
            yield key, next(iter(defaults))
