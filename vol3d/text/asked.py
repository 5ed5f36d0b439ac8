"""The thing or place that a question is about, as a phrase that can be segmented. By rule: no model reads the question.

"How large is the FDG-avid nodule in the right lung?" is about "FDG-avid nodule in the right lung"; "What is seen in the
liver?" about "lesion in the liver"; "Which modality is this?" about nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache

from vol3d.text.asked_numbers import numbers_asked
from vol3d.text.asked_words import unknown_words
from vol3d.text.gathered import gathered
from vol3d.text.grounding import grounding_phrase
from vol3d.text.meaning import meaning_of
from vol3d.text.organs import structure_in
from vol3d.text.plainly import plainly
from vol3d.text.questions import question_kind
from vol3d.text.reports import organs_in
from vol3d.text.things import families_in, thing_spans

_BE = r"(?:is|are|was|were)"
_DO = r"(?:does|do|did)"
_SCAN = (
    r"(?:(?:this|the|these|those|his|her)\s)?(?:ct|pet(?:/ct)?|imaged\s(?:region|part)|scans?|stud(?:y|ies)|images?|examinations?|exams?|patient|"
    r"series|man|woman)"
)
_SHOW = r"(?:shows?|contains?|has|have|reveals?|demonstrates?|depicts?|includes?|holds?|harbou?rs?|got|displays?)"
_SEE = r"(?:see|find|detect|identify|make out|recogni[sz]e|spot|count|notice)"
_SEEN = (
    r"(?:seen|visible|present|shown|found|detected|identified|noted|observed|there|identifiable|evident|counted|"
    r"recogni[sz]able|visuali[sz]ed|in view|in the field of view|included|to be seen)"
)
_AT = rf"(?:\s(?:in|on|anywhere in|by|from)\s{_SCAN})?"
_LIE = (
    r"(?:\s(?:located|situated|found|lie|lies|sit|sits|lying|belong|belongs|seen|to be found|placed|in|on|involves?|"
    r"affects?|arises?|occurs?|resides?|appears?|occup(?:y|ies)|cent(?:re|er)ed)(?:\s(?:in|on|at|from|to|within))?)?"
)
_ATTRIBUTE = (
    r"(?:(?:longest|largest|greatest|smallest|shortest|maximum|maximal|max|axial|short|long|mean|average|peak|total|sum|of|"
    r"combined|summed|overall|approximate|metabolic|tumou?r|fdg|tracer|lesion|cranio-?caudal|transverse|vertical|the|"
    r"antero-?posterior|ap|3-?d)\s)*"
    r"(?:diameters?|sizes?|volumes?|extent|dimensions?|length|width|height|thickness|axis(?:\s(?:diameter|length))?|uptake|"
    r"tlg|glycolysis|hu|hounsfield\sunits?|density|attenuation|slices?(?:\s(?:numbers?|ranges?))?|z[ -]position|area|"
    r"suv(?:[ -]?(?:max(?:imum)?|mean|peak|bw))?)(?:\svalues?)?"
)
_TELL = (
    r"(?:please\s)?(?:(?:what|which)\s(?:is|are|was)|"
    r"(?:give|state|name|tell|report|measure|list|show|specify|indicate|quote)(?:\sme)?)"
)
_BARE_WORD = r"(?!there\b|an?\b|any\b|lesion|nodule|mass|tumou?r|node|abnormalit|focal)[\w-]+"
_BARE = rf"(?:{_BARE_WORD}\s)*?{_BARE_WORD}"
"""Words for a place, no thing among them."""
_LOR = r"(?:(?:on|to)\sthe\s)?(?:left|right)(?:[ -]sided?)?"
_ANY = r"(?:(?:any|some)\s)?(?:(?:evidence|signs?|suspicion)\s(?:of|for)\s)?"

_FRAMES: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        # sides, before "is X present"
        rf"{_BE}\s(?P<x>.+?)\s(?:(?:located|situated|found|seen|lying)\s)?{_LOR},?\sor\s{_LOR}(?:\s(?:or|and)\s.+)?",
        rf"(?:(?:on|to|at)\s)?(?:which|what)\sside(?:\sof\sthe\s(?:body|patient))?\s(?:{_BE}|{_DO})\s(?P<x>.+?){_LIE}",
        rf"(?:on\s)?(?:which|what)\sside(?:\sof\sthe\s(?:body|patient))?\s{_SHOW}\s(?P<x>.+)",
        rf"{_TELL}\s(?:the\s)?(?:laterality|side|location|position|site)\sof\s(?P<x>.+)",
        # number
        rf"how\smany\s(?:ml|mm|cm|cc|cubic\s\w+|millilit\w+|millimet\w+|centimet\w+)\s{_DO}\s(?P<x>.+?)"
        r"(?:\s(?:measure|have|occupy|take\sup|contain|span|comprise))?",
        rf"how\smany\s(?P<x>.+?)\s(?:{_DO}\s{_SCAN}\s{_SHOW}|{_DO}\s(?:you|we)\s{_SEE}){_AT}",
        rf"how\smany\s(?P<x>.+?)\s{_DO}\s(?P<in>.+?)\s{_SHOW}",
        rf"how\smany\s(?P<x>.+?)\scan\s(?:be\s{_SEEN}|(?:you|one|we)\s{_SEE}){_AT}",
        rf"how\smany\s(?P<x>.+?)\s{_BE}\sthere(?P<rest>\s(?:in|on|within|of)\s.+)?",
        rf"how\smany\s(?P<x>.+?)\s{_BE}\s{_SEEN}(?P<rest>\s(?:in|on|within|of)\s.+)?",
        r"how\smany\s(?P<x>.+?)\s(?:is|are)(?P<rest>\s(?:in|on|within|of)\s.+)",
        r"how\smany\s(?P<x>.+)",
        rf"(?:{_TELL}\s)?(?:the\s)?(?:(?:total|overall|exact)\s)?(?:number|count)\sof\s(?P<x>.+?)(?:\s{_SEEN}{_AT})?",
        r"(?:please\s)?count\s(?P<x>.+)",
        # size and uptake
        rf"how\s(?:large|big|long|wide|small|thick|avid|hot|extensive|active|tall|deep|hypermetabolic)\s{_BE}\s(?P<x>.+)",
        rf"how\s(?:high|large|big|much|intense|strong|marked)\s{_BE}\s(?:the\s)?{_ATTRIBUTE}\s(?:of|in)\s(?P<x>.+)",
        rf"(?:{_TELL}\s)?(?:the\s)?{_ATTRIBUTE}(?:\sin\s(?:ml|mm|cm|hu|hounsfield\sunits|millilit\w+|"
        r"millimet\w+))?\sof\s(?P<x>.+)",
        rf"(?:what|which)\s{_ATTRIBUTE}(?:\sin\s(?:ml|mm|cm))?\s{_DO}\s(?P<x>.+?)\s(?:reach|have|show|measure|take|occupy)",
        rf"(?:what|which)\s(?:size|length|diameter|volume)\s{_BE}\s(?P<x>.+)",
        rf"(?:what|how\smuch|how\s(?:large|big))\s{_DO}\s(?P<x>.+?)\smeasure",
        rf"(?:on|in|at|from|to)?\s?(?:which|what)\s(?:\w+\s)?slices?(?:\snumbers?)?\s(?:{_BE}|{_DO}|can|{_SHOW})\s"
        rf"(?P<x>.+?)(?:\s(?:be\s)?(?:{_SEEN}|starts?|begins?|ends?|stops?|largest|best|lies?|located))*{_AT}",
        # place
        rf"where(?:abouts)?\s(?:{_BE}|{_DO}|can)\s(?P<x>.+?)(?:\s(?:be\s)?{_SEEN})?{_LIE}{_AT}",
        r"(?:in|at)\s(?:which|what)\s(?:part|region|area|place|lobe|quadrant|location|side)"
        rf"(?:\sof\s(?:the\s)?[\w ]+?)?\s(?:{_BE}|{_DO}|lies?)\s(?P<x>.+?){_LIE}",
        rf"(?:which|what)\s(?:[\w]+\s)?(?:organs?|structures?)\s(?:{_BE}\s(?:affected|involved)\sby|{_SHOW})\s(?P<x>.+)",
        rf"(?:in|to|within|from)\s(?:which|what)\s(?:organ|structure)\s(?:{_BE}|{_DO}|lies?)\s(?P<x>.+?){_LIE}",
        rf"(?:which|what)\s(?:organ|structure|part|region|lobe)\s(?:{_BE}|{_DO})\s(?P<x>.+?){_LIE}",
        rf"(?:which|what)\s(?P<in>kidney|lung|lobe|breast|adrenal(?:\sgland)?)\s{_SHOW}\s(?P<x>.+)",
        # is it free of, is it normal: about what would be there
        rf"{_BE}\s(?:the\s)?(?P<in>{_BARE})\s(?:free\s(?:of|from)|without)\s(?P<x>.+)",
        rf"{_BE}\s(?:the\s)?(?P<in>.+?)\s(?:clear|normal|unremarkable|healthy|intact)",
        rf"{_BE}\s(?:there\s)?(?:no|nothing)\s(?P<x>.+)",
        rf"{_BE}\s(?P<x>.+?)\s(?:absent|missing|removed|resected|gone)",
        rf"{_BE}\sthe\s(?P<x>.+?)\s(?P<how>(?:not\s|non-)?(?:fdg-|tracer-)?avid|hypermetabolic|calcified|solid|cystic|"
        r"hypodense|hyperdense|isodense|ground-glass|lytic|sclerotic|necrotic)",
        # yes or no
        rf"{_BE}\sthere\s{_ANY}(?P<x>.+?)(?:\s{_SEEN})?{_AT}",
        rf"{_DO}\s{_SCAN}\s(?:{_SHOW})\s{_ANY}(?P<x>.+)",
        rf"{_DO}\s(?P<in>(?:the\s)?[\w ]+?)\s(?:{_SHOW})\s{_ANY}(?P<x>.+)",
        rf"(?:has|have|had)\s{_SCAN}\s(?:got\s)?{_ANY}(?P<x>.+)",
        rf"(?:has|have|had)\s{_ANY}(?P<x>.+?)\sbeen\s{_SEEN}{_AT}",
        rf"(?:can|could|{_DO})\s(?:you|one|we)\s{_SEE}\s{_ANY}(?P<x>.+?){_AT}",
        rf"can\s(?P<x>.+?)\sbe\s{_SEEN}{_AT}",
        rf"{_BE}\s{_ANY}(?P<x>.+?)\s{_SEEN}{_AT}(?P<rest>\s(?:in|on|within|of)\s.+)?",
        rf"any\s(?:(?:evidence|signs?)\sof\s)?(?P<x>.+?){_AT}",
        # open
        r"(?:what\s(?:is|are)|(?:please\s)?(?:summari[sz]e|describe|list|report|give|state))\s(?:the|any|all)\s"
        r"(?:findings?|abnormalit(?:y|ies)|patholog(?:y|ies)|changes)\s(?P<where>(?:in|on|within|at|of|anywhere).*)",
        r"(?:please\s)?(?:report|summari[sz]e|list|state)\swhat\s(?:is|can\sbe)\s(?:seen|found|visible)\s(?P<where>.+)",
        rf"what\s(?:(?:is|are|can\sbe)\s(?:seen|visible|found|shown|there)|{_DO}\syou\s{_SEE}|{_BE})\s(?P<where>(?:in|on|within|at|of|anywhere).*)",
        r"(?:please\s)?describe\s(?:what\s(?:is|you\ssee)\s|the\sfindings?\s|any\sabnormalit\w+\s)?(?P<where>.+)",
        rf"(?:what|which)\s(?:abnormalit(?:y|ies)|findings?|patholog(?:y|ies)|lesions?)\s(?:{_BE}|can\sbe)\s"
        rf"(?:{_SEEN}\s)?(?P<where>(?:in|on|within|at|of|anywhere).*)",
    )
)
_POLITE = re.compile(
    r"^(?:please\s)?(?:(?:can|could|would)\syou\s)?(?:please\s)?(?:state|tell|say|report|specify|indicate|determine|give|point\sout)"
    r"(?:\s(?:me|us))?\s(?=how\b|what\b|which\b|where\b|on\swhich\b|in\swhich\b)",
    re.I,
)
_IN_SCAN = re.compile(rf"\s(?:in|on)\s(?:{_SCAN}|the (?:field of view|imaged region))(?=$|\swith(?:out)?\s)", re.I)
_DETERMINER = re.compile(r"\b(?:the|an?|any|all|every|each|these|this|those|of|for)\s+(?=\S)", re.I)
_AFTER = re.compile(
    r"\s(?:is|are|was|were|be|been|do|does|did|has|have|had|can|could|will|or|in\s(?:mm|cm|ml|cc|millimet\w+|centimet\w+|"
    r"millilit\w+)|occup\w+|measur\w+|lie|lies|located|situated|found|detected|identified|recorded|seen|visible|"
    r"present)\b",
    re.I,
)
_ASKING = re.compile(
    r"please|can|could|would|will|you|we|i|me|us|be|been|being|is|are|was|were|do|does|did|has|have|had|there|the|an?|any|"
    r"all|of|for|in|on|to|by|from|at|that|this|what|which|where\w*|how|many|much|whether|count|name|state|give|tell|show|"
    r"find|list|specify|indicate|identify|determine|calculate|compute|estimate|assess|measure[sd]?|quantify|provide|"
    r"quote|report|describe|summari[sz]e|locali[sz]e|locate|number|total|organs?|structures?|part|region|body|"
    r"anatomic(?:al)?|site|location|position|place|side|laterality|affected|involved|harbou?rs?|contains?|holds?|hosts?|"
    r"houses?|bears?|located|situated|found|detected|identified|recorded|seen|visible|present|sign|evidence|occup(?:y|ied)|"
    r"volumes?|sizes?|extent|dimensions?|diameters?|length|axial|longest|largest|greatest|maxim(?:um|al)|suv(?:max)?|"
    r"standardi[sz]ed|uptake|values?|mm|cm|ml|cc|millilit\w+|millimet\w+|centimet\w+|long|large|big",
    re.I,
)
"""Words that ask for what can be segmented or measured, whatever their order."""
_ARTICLE = re.compile(
    r"^(?:(?:the|an?|any|some|this|that|these|those|largest|biggest|main|dominant|hottest)\s+)+(?=\S)", re.I
)
_HEAD = re.compile(
    r"^(?:(?:what|which|where|how|who|when|why|is|are|was|were|does|do|did|can|could|has|have|had|will|would|should|please|"
    r"tell|give|show|me|you|us|i|there|any|the|an?|about|of|see|find)\b[\s,]*)+",
    re.I,
)
_ABSENCE = re.compile(
    rf"^{_BE}\s(?:there\s)?(?:no|nothing)\b|^{_BE}\s(?:the\s)?{_BARE}\s(?:free\s(?:of|from)|without)\s.+|"
    rf"^{_BE}\s.+\s(?:clear|normal|unremarkable|healthy|"
    r"absent|missing|removed|resected|gone|intact)$",
    re.I,
)


@lru_cache(maxsize=16384)
def asked_about(question: str) -> str | None:
    """The phrase to segment for an answer; None for questions about the study as a whole (its modality).

    Sides and attributes stay in the phrase; articles, question words, ranks and limits ("larger than 1 cm") go. A
    question about a place alone ("What is seen in the liver?", "Is the liver normal?") is about a lesion there.
    """
    text = plainly(question).strip(" ?.!")
    if not re.search(r"\w", text) or question_kind(text) == "modality":
        return None
    text = numbers_asked(_POLITE.sub("", text)).rest
    phrase = _framed(text)
    if phrase is not None and meaning_of(phrase) is not None:
        return _IN_SCAN.sub("", phrase)
    place_alone = question_kind(question) == "open" or re.search(r"\b(?:wrong|abnormal)\b", text, re.I) is not None
    if (lesion := gathered(text, place_alone=place_alone)) is not None:
        return _IN_SCAN.sub("", lesion)
    if phrase is not None and not unknown_words(phrase):
        return phrase
    named = _named(text)
    clearer = named and (phrase is None or len(unknown_words(named)) < len(unknown_words(phrase)))
    return named if clearer else phrase


def _framed(text: str) -> str | None:
    for frame in _FRAMES:
        if found := frame.fullmatch(text):
            return _phrase(found)
    rest = grounding_phrase(_HEAD.sub("", text))
    return rest if families_in(rest) or structure_in(rest) else None


def _named(text: str) -> str | None:
    """The one thing that stands after an article, where all other words only ask about it; else None.

    What no frame foresaw: "Please calculate the volume of the nodule", "Name the organ that harbours the lesion".
    """
    things = thing_spans(text)
    before = [m.end() for m in _DETERMINER.finditer(text) if things and m.end() <= things[0][0]]
    if not before:
        return None
    end = next((m.start() for m in _AFTER.finditer(text) if m.start() >= things[0][1]), len(text))
    phrase = _IN_SCAN.sub("", text[before[-1] : end])
    others = re.findall(r"[^\W\d_][\w'-]*", f"{text[: before[-1]]} {text[end:]}")
    return phrase if all(_ASKING.fullmatch(word) for word in others) else None


def asks_for_absence(question: str) -> bool:
    """Whether "yes" means that nothing is there: "Is the liver free of lesions?", "Are the lungs clear?"."""
    return _ABSENCE.search(" ".join(question.split()).strip(" ?.!")) is not None


def _phrase(found: re.Match[str]) -> str | None:
    parts = found.groupdict()
    if where := parts.get("where"):
        return _thing_in(where)
    thing, place = _clean(parts.get("x") or ""), _clean(parts.get("in") or "")
    if place and not thing:
        return _thing_in(place)
    rest = parts.get("rest") or ""
    if how := parts.get("how"):
        thing = f"{how} {thing}"
    phrase = f"{thing} in the {place}" if place else f"{thing}{rest}"
    phrase = _IN_SCAN.sub("", phrase)
    return phrase or None


def _thing_in(where: str) -> str:
    """A place is asked for a lesion in it; a thing is itself."""
    if families_in(where):
        return _clean(where)
    bare = re.sub(r"^(?:in|on|within|at|of)\s+", "", where.strip(), flags=re.I)
    if not organs_in(where) and structure_in(bare) is None:
        return f"lesion {where.strip()}"
    return f"lesion {where.strip()}" if bare != where.strip() else f"lesion in the {_clean(where)}"


def _clean(text: str) -> str:
    return _ARTICLE.sub("", text.strip()).strip()
