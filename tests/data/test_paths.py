import pytest

from genjax.data import paths
from genjax.types import UsageError


def test_a_path_that_nothing_reads_is_refused(monkeypatch):
    wanted = "https://x/y: wanted a local path, or one of gs://, s3://, hf://$"
    with pytest.raises(UsageError, match=wanted):
        paths.to_path("https://x/y")
    for scheme, package in list(paths.PACKAGES.items()):
        monkeypatch.setitem(paths.PACKAGES, scheme, f"no_{package}")
        wanted = f"^{scheme}://x/y needs another package: pip install no_{package}$"
        with pytest.raises(UsageError, match=wanted):
            paths.to_path(f"{scheme}://x/y")
