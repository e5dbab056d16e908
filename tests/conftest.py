"""What all tests share: nothing but good error messages from the public conformance suite."""

import pytest

for part in ("conformance", "conformance_base", "conformance_bytes", "conformance_names", "conformance_staged"):
    pytest.register_assert_rewrite(f"pagecache.testing.{part}")
