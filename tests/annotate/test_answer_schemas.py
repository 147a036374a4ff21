import json

import pytest

from raylab.annotate.answers import schema
from raylab.annotate.prompts import CALLS

YES = {"decision": "yes", "rationale": "It has black and white stripes."}
NO = {"decision": "no", "title": "Okapi", "rationale": "Only its legs are striped."}


def test_schemas_say_what_is_asked_for():
    jsonschema = pytest.importorskip("jsonschema")
    fine = {
        "verify": [YES, NO],
        "name": [{"title": "", "rationale": "a"}],
        "questions": [{"pairs": [{"question": "a", "answer": "b"}] * 3}],
        "describe": [{"description": "a"}],
    }
    wrong = {
        "verify": [
            {"decision": "no", "rationale": "a"},
            YES | {"title": "a"},
            {"decision": "maybe", "rationale": "a"},
            {},
        ],
        "name": [{"title": "a"}, {"title": None, "rationale": "a"}],
        "questions": [{"pairs": [{"question": "a", "answer": "b"}] * 2}, {"pairs": [{"question": "a"}] * 3}],
        "describe": [{"description": 3}],
    }
    assert set(fine) == set(CALLS)
    for call in CALLS:
        validator = jsonschema.Draft202012Validator(json.loads(schema(call)))
        assert all(validator.is_valid(one) for one in fine[call])
        assert not any(validator.is_valid(one) for one in wrong[call])


def test_xgrammar_takes_the_schemas_and_keeps_to_them():
    xgrammar = pytest.importorskip("xgrammar")
    vocabulary = [chr(number) for number in range(32, 127)]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[0]))

    def accepts(call, said):
        matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(schema(call)), terminate_without_stop_token=True)
        return matcher.accept_string(json.dumps(said)) and matcher.is_terminated()

    assert accepts("verify", YES)
    assert accepts("verify", NO | {"rationale": 'The sign reads "STOP".\n'}), "what needs an escape can be said"
    assert accepts("questions", {"pairs": [{"question": "a", "answer": "b"}] * 3})
    assert not accepts("questions", {"pairs": [{"question": "a", "answer": "b"}] * 4})
    assert not accepts("verify", {"rationale": "first", "decision": "yes"})
    assert not accepts("verify", {"decision": "yes", "title": "a", "rationale": "a"})
