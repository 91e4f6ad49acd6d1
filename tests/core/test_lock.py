import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import lock
from core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks_is_an_input_error(code, wait, tmp_path, monkeypatch):
    def flock(*given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match=r"cannot lock .*key: (.|\n)*--out DIR") as caught:
        with lock.held(tmp_path / "locks" / "key", wait=wait):
            pytest.fail("it is not held")
    assert os.strerror(code) in str(caught.value) or code == errno.ENOSYS


def test_a_lock_is_held_by_one_and_free_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "key"
    program = (
        f"import sys, time; sys.path[:0] = [{str(ROOT)!r}]\nfrom pathlib import Path\nfrom core import lock\n"
        f"with lock.held(Path({str(path)!r}), wait=True):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with lock.held(path, wait=False) as is_held:
        assert not is_held
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lock.held(path, wait=True) as is_held:
        assert is_held
