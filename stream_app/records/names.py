"""Names to indices: the sensors and tokens that a detector knows, or those that appear while nothing is known yet.

In: names. Out: indices, or a negative code that says why there is none. Remembers: the names learnt.
"""

from __future__ import annotations

from collections.abc import Mapping

from stream_app.records.refusals import Reason

NAME_MAX = 1_000  # characters
UNKNOWN_TOKEN, FIRST_TOKEN = 2, 3  # 0 begins and 1 ends a sequence

_UNKNOWN, _TOO_LONG, _TOO_MANY_SENSORS, _TOO_MANY_TOKENS = -1, -2, -3, -4
REASONS = {
    _UNKNOWN: Reason.UNKNOWN_SENSOR,
    _TOO_LONG: Reason.NAME_TOO_LONG,
    _TOO_MANY_SENSORS: Reason.TOO_MANY_SENSORS,
    _TOO_MANY_TOKENS: Reason.TOO_MANY_TOKENS,
}


class Sensors(dict[str, int]):
    """Index by sensor: `sensors[name]`. `known` of None learns up to `limit` names in order of appearance.

    >>> sensors = Sensors(None, limit=2)
    >>> [sensors[name] for name in ("b", "a", "b", "c")]
    [0, 1, 0, -3]
    """

    def __init__(self, known: Mapping[str, int] | None, limit: int) -> None:
        super().__init__(known or {})
        self._room = 0 if known is not None else limit
        self._refused = _UNKNOWN if known is not None else _TOO_MANY_SENSORS

    def __missing__(self, name: str) -> int:
        if len(self) >= self._room:
            return self._refused
        if len(name) > NAME_MAX:
            return _TOO_LONG
        self[name] = index = len(self)
        return index


class Vocabulary(dict[int | str, int]):
    """Id by token, an integer being the same token as its digits. `known` of None learns up to `limit` tokens.

    >>> vocabulary = Vocabulary({"5": 3, "E5": 4}, limit=10)
    >>> [vocabulary[token] for token in (5, "5", "E5", "05")]
    [3, 3, 4, 2]
    """

    def __init__(self, known: Mapping[str, int] | None, limit: int) -> None:
        super().__init__()
        self.update(known or {})
        self._learns, self._limit = known is None, limit
        self._words = dict(known or {})

    @property
    def words(self) -> dict[str, int]:
        """The tokens as texts."""
        return dict(self._words)

    def __missing__(self, token: int | str) -> int:
        # An integer of thousands of digits can't be printed, and needn't be.
        if (len(token) > NAME_MAX) if isinstance(token, str) else (token.bit_length() > 3 * NAME_MAX):
            return _TOO_LONG if self._learns else UNKNOWN_TOKEN
        word = str(token)
        if word not in self._words:
            if not self._learns:
                return UNKNOWN_TOKEN
            if len(self._words) >= self._limit:
                return _TOO_MANY_TOKENS
            self._words[word] = FIRST_TOKEN + len(self._words)
        self[token] = self._words[word]
        return self._words[word]
