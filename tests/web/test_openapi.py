"""The API does what its description says, for what nobody would think of asking."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from library.tiny import Tiny, fill
from starlette.testclient import TestClient

from neocog.library import Library
from neocog.library.indexing import index
from neocog.web.app import make_app
from neocog.web.served import Served

# what starts work of minutes, never ends, or needs a trained net is tested by hand, in test_runs.py
LEFT = r"/(jobs|events|map|look|predict|network|units|filters|heatmap)(/|$|\?)"

BRIEF = settings(
    max_examples=4, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The description, with a library that is called as the examples of its paths say."""
    import schemathesis  # 2 s, in the one process that needs it; so its plugin is off, see pyproject.toml

    home = tmp_path_factory.mktemp("home")
    fill(home / "photos", 3)
    index(Library.beside(home / "photos").store, [home / "photos"], embedder=Tiny(), threads=1)
    served = Served([home / "photos"], jobs=home / "jobs")
    served.libraries = _Any(served.libraries)
    app = make_app(served)
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"host": "localhost"})
    return schema.exclude(path_regex=LEFT)


class _Any(dict):
    """Every name is that of the one library, so that the routes are reached."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str):
        return next(iter(self.values()))


def test_what_is_described_is_done(api):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conforming = (checks.response_schema_conformance, checks.status_code_conformance, checks.content_type_conformance)
    told = 0
    for operation in api.get_all_operations():

        @BRIEF
        @given(case=operation.ok().as_strategy())
        def check(case):
            case.call_and_validate(headers={"host": "localhost"}, checks=[not_a_server_error, *conforming])

        check()
        told += 1
    assert told > 20


def test_the_description_needs_nothing_from_elsewhere(tmp_path):
    page = TestClient(make_app(Served(jobs=tmp_path)), base_url="http://localhost")
    assert page.get("/api/openapi.json").json()["info"]["title"] == "neocog"
    assert "/static/docs.js" in page.get("/docs").text
    assert page.get("/static/docs.js").status_code == 200
