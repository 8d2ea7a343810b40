"""A reviewer's answer as a verdict: VALID or INVALID, and the reason. Pure.

The prompt of the validating route asks for one of the two words first. Models like to add a label
or emphasis, or to think aloud before they say it, so the word may begin any line; what says both,
or neither, is unclear and never counts as valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

MAX_REASON = 2000

_LINE = re.compile(
    r"""^[\s>#*_`"'(\[-]*                            # emphasis, quotes, a list's mark
        (?:(?:final\s+)?(?:verdict|answer|result|judge?ment)[\s*_`]*[:=-][\s*_`"']*)?
        (?P<word>IN)?VALID\b
        (?!\s*(?:or\b|/|\||\?))                      # the question, said again
        [\s*_`"')\]]*[:.,;!\u2013\u2014-]*[\s*_`]*
        (?P<rest>.*)$""",
    re.IGNORECASE | re.VERBOSE,
)


class Judgement(StrEnum):
    VALID = "VALID"
    INVALID = "INVALID"
    UNCLEAR = "UNCLEAR"


@dataclass(frozen=True, slots=True)
class Validation:
    """``reason`` is the reviewer's, cut at :data:`MAX_REASON` characters."""

    judgement: Judgement
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the reviewer said so in as many words."""
        return self.judgement is Judgement.VALID


def read_validation(text: str) -> Validation:
    """The verdict of a reviewer's answer, with everything after the deciding word as the reason.

    Where no reason follows the word, the lines before it are the reason.
    """
    lines = text.strip().splitlines()
    found = [(number, match) for number, line in enumerate(lines) if (match := _LINE.match(line))]
    judged = {_judgement(match) for _, match in found}
    if len(judged) != 1:
        return Validation(Judgement.UNCLEAR, text.strip()[:MAX_REASON])
    number, match = found[0]
    after = "\n".join([match["rest"], *lines[number + 1 :]]).strip()
    reason = after or "\n".join(lines[:number]).strip()
    return Validation(judged.pop(), reason[:MAX_REASON])


def _judgement(match: re.Match[str]) -> Judgement:
    return Judgement.INVALID if match["word"] else Judgement.VALID
