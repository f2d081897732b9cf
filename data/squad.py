"""Questions about a context: SQuAD's files, the forms in which answers are written, and their places.

Below data/tables.py, which reads the other formats, and tasks/question_answering.py. An answer is a span
of its context: (text, start), in characters (Unicode code points), as in SQuAD.
"""

import json
from collections.abc import Callable, Iterator

from data.labels import is_invisible

# The columns of a SQuAD file, named as in the data sets of Hugging Face and TFDS.
COLUMNS = ("id", "title", "context", "question", "answers")


def is_squad(content) -> bool:
    """Whether the value of a JSON file is SQuAD's: {"data": [{"paragraphs": [...]}, ...]}."""
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(
        isinstance(each, dict) and "paragraphs" in each for each in articles
    )


def parse(path: str, text: str):
    """The value of a .json file; None for several values, such as one per line. Raises ValueError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "") or str(error).partition(";")[0]
        if reason == "Extra data":
            return None
        line = getattr(error, "lineno", 1)
        raise ValueError(
            f"{path} is not JSON at line {line} ({reason}): correct it, or download it again"
        ) from error


def questions(path: str, content: dict) -> Iterator[dict]:
    """The questions of a SQuAD file, versions 1.1 and 2.0, as {column: value}; `answers` is a list of
    {text, answer_start}. Raises ValueError that names the article for one without such a form."""
    for number, article in enumerate(content["data"], 1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield {
                        "id": question.get("id"),
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": question.get("answers"),
                    }
        except (KeyError, TypeError, AttributeError) as error:
            what = f"has no {error}" if isinstance(error, KeyError) else "has another form"
            raise ValueError(
                f"{path}: article {number} {what}: expected {{'paragraphs': [{{'context': ..., 'qas': "
                "[{'id': ..., 'question': ..., 'answers': [{'text': ..., 'answer_start': 0}]}]}]}"
            ) from error


def as_answers(value) -> list[tuple[str, int | None]] | None:
    """[(text, start, None without one)] of a column of answers; None if it is absent.

    A value is a text, a list of texts, a list of {text, answer_start} (SQuAD), or {text: [...],
    answer_start: [...]} (Hugging Face, TFDS). Raises ValueError with the reason and the remedy."""
    if value is None:
        return None
    if isinstance(value, dict):
        starts = as_starts(value.get("answer_start"))
        return with_starts(as_answers(_as_list(value.get("text"))), starts)
    answers = []
    for each in _as_list(value):
        if isinstance(each, dict):
            answers += as_answers(each)
        elif isinstance(each, str) and not all(map(is_invisible, each)):
            answers.append((each, None))
        else:
            raise ValueError(
                f"the answer {each!r} is no text: correct it, or leave it out of the list"
            )
    return answers


def as_starts(value) -> list[int] | None:
    """The starts of a column of them, a number or a list; None if it is absent. Raises ValueError."""
    return None if value is None else [_as_start(each) for each in _as_list(value)]


def with_starts(answers, starts) -> list[tuple[str, int | None]]:
    """Answers with these starts, or with their own if `starts` is None. Raises ValueError."""
    if starts is None:
        return answers
    if len(starts) != len(answers):
        raise ValueError(
            f"there are {len(answers)} answers and {len(starts)} starts: expected one start per answer"
        )
    return [(text, start) for (text, _), start in zip(answers, starts, strict=True)]


def _as_list(value) -> list:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _as_start(value) -> int:
    try:
        number = float(value)
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"the start {value!r} of an answer is not a whole number: expected the index of its first "
        "character in the context"
    )


def locate(split: str, contexts, answers, places, log: Callable[[str], None]) -> list:
    """[[(text, start)] of each question]: an answer that is not at its start is where it occurs, if that
    is one place; one without a start is at the first.

    Args:
      split: the name of the split, for the log.
      contexts: a text for each question.
      answers: [(text, start or None)] for each question.
      places: where each question is from.
      log: receives a warning with the number of answers that were moved.

    Raises ValueError for another answer that is not at its start.
    """
    located, moved, guessed, total = [], 0, 0, 0
    for context, those, place in zip(contexts, answers, places, strict=True):
        found = []
        for text, start in those:
            if start is None or start < 0 or not context.startswith(text, start):
                first = context.find(text)
                is_single = context.find(text, first + 1) < 0
                if first < 0 or (start is not None and not is_single):
                    raise _misplaced(place, text, start, first)
                moved += start is not None
                guessed += not is_single
                start = first
            found.append((text, start))
        total += len(found)
        located.append(found)
    if moved:
        log(
            f"warning: {moved:,} of {total:,} {split} answers are not at their start and were moved to "
            "the only place where they occur: starts count characters, not bytes or UTF-16 units"
        )
    if guessed:
        log(
            f"warning: {guessed:,} of {total:,} {split} answers have no start and occur more than once: "
            "the first place is used"
        )
    return located


def _misplaced(place, text, start, first) -> ValueError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    if first < 0:
        why, remedy = "does not occur in its context", "correct the answer"
    else:
        why = f"is not at its start, {start}, and occurs in its context more than once"
        remedy = "correct the start"
    return ValueError(f"{place}: the answer {shown!r} {why}: {remedy}, or remove the row")
