"""Texts of JSON values and of frames, with blanks, odd spellings and members given twice."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from tests.strategies import json_values

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def json_objects(
    members: dict[str, SearchStrategy[str]], *, of: SearchStrategy[str]
) -> SearchStrategy[str]:
    """Texts of JSON objects with the given members, others, or twice the same, in any order."""
    known = [st.tuples(st.just(key), value) for key, value in members.items()]
    other = st.tuples(st.sampled_from(("k", "kk", "a:b", *members)), of)
    pair = st.one_of(*known, other)
    return st.lists(pair, max_size=5).map(_object_text)


@cache
def json_texts() -> SearchStrategy[str]:
    """Texts of JSON values, with members given twice, blanks, and odd spellings of scalars."""
    spellings = (
        *("1", "-0", "1.0", "2e1", "1e999", "null", "true"),
        *('""', '"\\u0041:["', '"2.0"', '"é{"'),
    )
    return st.recursive(
        st.sampled_from(spellings) | json_values().map(json.dumps),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda texts: f"[{', '.join(texts)}]")
            | json_objects({}, of=inner)
        ),
        max_leaves=6,
    )


def _object_text(pairs: list[tuple[str, str]]) -> str:
    members = " , ".join(f"{json.dumps(key)}: {value}" for key, value in pairs)
    return f"{{{members}}}"


ID_TEXTS = (
    *("1", "-1", "0", "-0", "1.5", "1.0", "2e1", "1E+2", "9" * 400, "1e999", "null"),
    *('""', '"a"', '"\\u0041"', '"\\/"', '"\\ud83d\\ude00"', '"é🙂"', '":["', '"null"'),
)
"""Ids as callers may spell them."""


@cache
def request_texts() -> SearchStrategy[str]:
    """Texts of JSON objects that are requests, or nearly so."""
    members = {
        "jsonrpc": st.sampled_from(('"2.0"', '"2.0"', '"2.0"', '"1.0"', "2.0")),
        "method": st.sampled_from(('"m"', '"m"', '"registry.get"', "null", "1")),
        "params": json_texts(),
        "id": st.sampled_from(("1", '"a"', "null", "1.5", "-0", "true", "[]", '"\\u0041"')),
    }
    whole = st.tuples(*(value.map(f'"{key}":{{}}'.format) for key, value in members.items()))
    legal = whole.flatmap(st.permutations).map(lambda texts: f"{{{','.join(texts)}}}")
    return legal | json_objects(members, of=json_texts())
