"""The buckets of these tests: leftovers are found."""

from __future__ import annotations

import pytest

from .servers import Bucket, new_bucket


def test_leftovers_of_a_test_are_found(bucket: Bucket) -> None:
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key="k")
    bucket.put("p/.pagecache/s/1", b"")
    assert bucket.left_behind() == ["upload of 'k'", "object 'p/.pagecache/s/1'"]
    with pytest.raises(AssertionError, match="left behind"), new_bucket(bucket.server) as other:
        other.client.create_multipart_upload(Bucket=other.name, Key="k")
    bucket.clear()
