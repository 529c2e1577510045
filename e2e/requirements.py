"""What a machine lacks skips the tests that need it, with a loud name, or fails them with REQUIRE_ALL=1."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(f"required but missing: {what}", pytrace=False)
    pytest.skip(f"NOT TESTED, missing: {what}")
