"""What the operating system refuses: the cause, and what to do about it."""

from __future__ import annotations

import errno
import os

import pytest

from hotrow.document import write_atomically
from hotrow.errors import StorageError, why


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space, or write to another disk"),
        (errno.EROFS, "give a place that this user may read and write"),
        (errno.ENOENT, "check the path"),
        (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
        (errno.EIO, "check the disk (the kernel's log says more), or use another"),
    ],
)
def test_each_cause_has_its_remedy(number, remedy):
    assert why(OSError(number, os.strerror(number))) == f"{os.strerror(number)}; {remedy}"


def test_an_unknown_cause_is_told_as_it_is():
    assert why(OSError("odd")) == "odd"


def test_errors_end_with_it(tmp_path):
    with pytest.raises(
        StorageError, match=r"x: cannot write 1 bytes: No such file or directory; check the path$"
    ):
        write_atomically(tmp_path / "none" / "x", b"1")
