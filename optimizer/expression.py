"""What may a condition or a constraint say?

A small language with Python's spelling: names of knobs, numbers, strings, `true` and `false`, arithmetic
(+ - * / // % **), comparisons (chained too), `in (…)`, `and`, `or`, `not`, `a if c else b` and the functions
min, max, abs, ceil, floor, log2. The text is parsed to a tree, checked node by node against a whitelist and turned
into functions of our own; it is never compiled to or run as Python.

An expression can be asked about one configuration or about a whole table of them at once (a numpy array a knob).
Both readings agree, which is a property test: division by zero and log2 of nothing are NaN, which no comparison
holds for, and numbers beyond 2**53 are refused rather than wrapped around.
"""

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ConfigError

Array = NDArray[Any]
_Env = Mapping[str, Any]
_Evaluate = Callable[[_Env], Any]
_Table = Mapping[str, Callable[..., Any]]

MAX_CHARACTERS = 2000
MAX_DEPTH = 40
MAX_EXPONENT = 53
LARGEST = 2.0**53  # up to here whole numbers are exact, also as floats


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression. Two expressions are equal when their texts are."""

    text: str
    names: frozenset[str] = field(compare=False)
    _one: _Evaluate = field(compare=False, repr=False)
    _many: _Evaluate = field(compare=False, repr=False)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true of one configuration. Raises ConfigError where the values don't fit it."""
        try:
            return _truth(self._one(values))
        except (TypeError, OverflowError) as error:
            raise self._misfit(error) from None

    def holds_for(self, columns: Mapping[str, Array], rows: int) -> NDArray[np.bool_]:
        """Whether it is true of each of `rows` configurations, given one array a knob. Raises ConfigError."""
        try:
            with np.errstate(all="ignore"):
                verdicts = _truths(self._many(columns))
        except (TypeError, OverflowError) as error:
            raise self._misfit(error) from None
        return np.broadcast_to(verdicts, (rows,))

    def instance(self, values: Mapping[str, Any]) -> str:
        """What it comes to for one configuration: its comparisons with their sides as numbers, "131072 <= 101376"."""
        tree = ast.parse(self.text, mode="eval").body
        parts = tree.values if isinstance(tree, ast.BoolOp) else [tree]
        return " · ".join(_in_numbers(part, values) for part in parts)

    def _misfit(self, error: Exception) -> ConfigError:
        return ConfigError(f"'{self.text}' can't be evaluated: {error}.")


def parse(text: str) -> Expression:
    """Raises ConfigError where the text is not in the language, with what it may say instead."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"An expression of {len(text)} characters is too long (at most {MAX_CHARACTERS}).")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: judged by the whitelist, not by a warning
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"'{text}' is not an expression: {error}.") from None
    names: set[str] = set()
    try:
        one = _compile(tree, _ONE, names, text, 0)
        many = _compile(tree, _MANY, names, text, 0)
    except RecursionError:
        raise ConfigError(f"'{text[:60]}…' is nested too deeply (at most {MAX_DEPTH} levels).") from None
    return Expression(text.strip(), frozenset(names), one, many)


def _in_numbers(node: ast.expr, values: Mapping[str, Any]) -> str:
    if not isinstance(node, ast.Compare) or any(type(op) not in _COMPARE for op in node.ops):
        return ast.unparse(node)
    sides = [_compile(side, _ONE, set(), "", 0)(values) for side in (node.left, *node.comparators)]
    words = [_COMPARE[type(op)] for op in node.ops]
    return " ".join([str(sides[0]), *(f"{word} {side}" for word, side in zip(words, sides[1:], strict=True))])


# --- from syntax tree to functions, whichever table of operations they use


_BINARY = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**",
}  # fmt: skip
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_FUNCTIONS = {"min": 2, "max": 2, "abs": 1, "ceil": 1, "floor": 1, "log2": 1}  # the least number of arguments
_WORDS = {"true": True, "false": False}


def _compile(node: ast.expr, table: _Table, names: set[str], text: str, depth: int) -> _Evaluate:
    if depth > MAX_DEPTH:
        raise ConfigError(f"'{text[:60]}…' is nested too deeply (at most {MAX_DEPTH} levels).")

    def sub(child: ast.expr) -> _Evaluate:
        return _compile(child, table, names, text, depth + 1)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            if isinstance(value, int | float) and not abs(value) <= LARGEST:
                raise ConfigError(f"'{text}' has a number beyond 2**53.")
            return lambda env: value
        case ast.Name(id=word) if word in _WORDS:
            return lambda env: _WORDS[word]
        case ast.Name(id=name):
            names.add(name)
            return lambda env: env[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(table[_BINARY[type(op)]], sub(left), sub(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _apply(table["neg"], sub(operand))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _apply(table["not"], sub(operand))
        case ast.BoolOp(op=op, values=values):
            return _chain(table["and" if isinstance(op, ast.And) else "or"], [sub(v) for v in values])
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            pairs = [_comparison(op, a, b, table, sub, text) for op, a, b in zip(ops, sides, sides[1:], strict=False)]
            return _chain(table["and"], pairs)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return _apply(table["if"], sub(test), sub(body), sub(orelse))
        case ast.Call(func=ast.Name(id=word), args=args, keywords=[]) if word in _FUNCTIONS:
            if len(args) < _FUNCTIONS[word] or (_FUNCTIONS[word] == 1 and len(args) > 1):
                raise ConfigError(f"'{text}': {word} takes {_FUNCTIONS[word]} argument(s), not {len(args)}.")
            return _chain(table[word], [sub(a) for a in args])
    raise ConfigError(
        f"'{text}' uses '{ast.unparse(node)[:60]}', which an expression may not: it may have knobs, numbers, "
        "strings, true, false, + - * / // % **, comparisons, 'in (…)', and, or, not, 'a if c else b', "
        f"{', '.join(_FUNCTIONS)}."
    )


def _comparison(
    op: ast.cmpop, left: ast.expr, right: ast.expr, table: _Table, sub: Callable[[ast.expr], _Evaluate], text: str
) -> _Evaluate:
    if type(op) in _COMPARE:
        return _apply(table[_COMPARE[type(op)]], sub(left), sub(right))
    if isinstance(op, ast.In | ast.NotIn) and isinstance(right, ast.Tuple | ast.List) and right.elts:
        value = sub(left)
        found = _chain(table["or"], [_apply(table["=="], value, sub(e)) for e in right.elts])
        return found if isinstance(op, ast.In) else _apply(table["not"], found)
    raise ConfigError(f"'{text}': after 'in' comes a list of values, as in x in (1, 2); 'is' is not known.")


def _apply(function: Callable[..., Any], *arguments: _Evaluate) -> _Evaluate:
    match arguments:
        case (a,):
            return lambda env: function(a(env))
        case (a, b):
            return lambda env: function(a(env), b(env))
        case _:
            return lambda env: function(*[argument(env) for argument in arguments])


def _chain(function: Callable[..., Any], arguments: list[_Evaluate]) -> _Evaluate:
    if len(arguments) == 1 and function in (_ONE["and"], _MANY["and"], _ONE["or"], _MANY["or"]):
        return arguments[0]
    if len(arguments) <= 2:
        return _apply(function, *arguments)
    return lambda env: reduce(function, [argument(env) for argument in arguments])


# --- the operations on single values


def _truth(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{value!r} is neither true nor false; write a comparison")


def _small(value: Any) -> Any:
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise OverflowError("a number grows beyond 2**53")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, str):
        raise TypeError(f"{value!r} is not a number")
    return value


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: _small(function(_number(a), _number(b)))


def _divided(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: math.nan if _number(b) == 0 else _small(function(_number(a), b))


def _power(a: Any, b: Any) -> Any:
    if not 0 <= _number(b) <= MAX_EXPONENT:
        raise OverflowError(f"an exponent of {b} is outside 0 to {MAX_EXPONENT}")
    if isinstance(_number(a), float) and a < 0 and b != int(b):
        return math.nan
    return _small(a**b)


def _rounded(function: Callable[[Any], int]) -> Callable[[Any], Any]:
    return lambda a: function(a) if math.isfinite(_number(a)) else math.nan


_ONE: dict[str, Callable[..., Any]] = {
    "+": _arithmetic(operator.add), "-": _arithmetic(operator.sub), "*": _arithmetic(operator.mul),
    "/": _divided(operator.truediv), "//": _divided(operator.floordiv), "%": _divided(operator.mod),
    "**": _power, "neg": lambda a: -_number(a),
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "and": lambda a, b: _truth(a) & _truth(b), "or": lambda a, b: _truth(a) | _truth(b), "not": lambda a: not _truth(a),
    "if": lambda c, a, b: a if _truth(c) else b,
    "min": min, "max": max, "abs": abs, "ceil": _rounded(math.ceil), "floor": _rounded(math.floor),
    "log2": lambda a: math.log2(a) if _number(a) > 0 else math.nan,
}  # fmt: skip


# --- the same operations on arrays


def _truths(value: Any) -> NDArray[np.bool_]:
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(v, bool) for v in array.flat):
        array = array.astype(bool)
    if array.dtype != bool:
        example = array.flat[0] if array.size else value
        raise TypeError(f"{example!r} is neither true nor false; write a comparison")
    return array


def _numbers(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind in "US" or (array.dtype == object and any(isinstance(v, str) for v in array.flat)):
        raise TypeError(f"{array.flat[0]!r} is not a number")
    if array.dtype == object:  # whole and broken numbers mixed
        array = array.astype(float)
    return array.astype(np.int64) if array.dtype == bool else array


def _all_small(array: Any) -> Any:
    if np.any(np.abs(np.asarray(array, dtype=float)) > LARGEST):
        raise OverflowError("a number grows beyond 2**53")
    return array


def _arithmetic_many(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        a, b = _numbers(a), _numbers(b)
        _all_small(function(a.astype(float), b.astype(float)))  # before int64 could wrap around
        return function(a, b)

    return apply


def _divided_many(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        a, b = _numbers(a), _numbers(b)
        nothing = b == 0
        quotient = _all_small(function(a, np.where(nothing, 1, b)))
        return np.where(nothing, np.nan, quotient) if np.any(nothing) else quotient

    return apply


def _power_many(a: Any, b: Any) -> Any:
    a, b = _numbers(a), _numbers(b)
    if np.any((b < 0) | (b > MAX_EXPONENT)):
        raise OverflowError(f"an exponent is outside 0 to {MAX_EXPONENT}")
    _all_small(a.astype(float) ** b.astype(float))
    return a**b


def _compared(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind != b.dtype.kind and "U" in (a.dtype.kind, b.dtype.kind):  # text against numbers
            a, b = a.astype(object), b.astype(object)
        return np.asarray(function(a, b), dtype=bool)

    return apply


def _if_many(condition: Any, a: Any, b: Any) -> Any:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind != b.dtype.kind and "U" in (a.dtype.kind, b.dtype.kind):
        a, b = a.astype(object), b.astype(object)
    return np.where(_truths(condition), a, b)


def _rounded_many(function: Callable[[Any], Array]) -> Callable[[Any], Any]:
    return lambda a: function(_numbers(a))


_MANY: dict[str, Callable[..., Any]] = {
    "+": _arithmetic_many(np.add), "-": _arithmetic_many(np.subtract), "*": _arithmetic_many(np.multiply),
    "/": _divided_many(np.true_divide), "//": _divided_many(np.floor_divide), "%": _divided_many(np.mod),
    "**": _power_many, "neg": lambda a: -_numbers(a),
    "==": _compared(operator.eq), "!=": _compared(operator.ne), "<": _compared(operator.lt),
    "<=": _compared(operator.le), ">": _compared(operator.gt), ">=": _compared(operator.ge),
    "and": lambda a, b: _truths(a) & _truths(b), "or": lambda a, b: _truths(a) | _truths(b),
    "not": lambda a: ~_truths(a), "if": _if_many,
    "min": lambda a, b: np.where(_numbers(b) < _numbers(a), _numbers(b), _numbers(a)),
    "max": lambda a, b: np.where(_numbers(b) > _numbers(a), _numbers(b), _numbers(a)),
    "abs": lambda a: np.abs(_numbers(a)), "ceil": _rounded_many(np.ceil), "floor": _rounded_many(np.floor),
    "log2": lambda a: np.log2(np.where(_numbers(a) > 0, _numbers(a), np.nan)),
}  # fmt: skip
