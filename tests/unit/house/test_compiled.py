"""The cache of compiled code: named after all of its sources, and bounded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import testbed.compiled
from testbed.compiled import KEPT_FOLDERS, compiled, sources_digest

SOURCE = Path(testbed.compiled.__file__)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the module under test as a project of its own, with something to compile."""
    package = tmp_path / "testbed"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "compiled.py").write_bytes(SOURCE.read_bytes())
    write(package / "one.py", "from testbed.two import plus as add", "    return add(n)")
    write(package / "two.py", "from testbed import three", "    return n + three.STEP")
    (package / "three.py").write_text("STEP = 1\n")
    (package / "other.py").write_text("STEP = 1\n")
    return tmp_path


def write(path: Path, imports: str, body: str) -> None:
    """A module with a compiled function `plus`."""
    path.write_text(
        f"from testbed.compiled import compiled\n{imports}\n\n@compiled\ndef plus(n):\n{body}\n"
    )


def run(checkout: Path, code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    return run_all(checkout, code, **environment).stdout.strip()


def run_all(checkout: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(checkout / "cache"), **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=checkout, env=variables, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


DIGEST = "from testbed.compiled import sources_digest; print(sources_digest('testbed.one'))"
CALL = """
    from testbed.one import plus
    print(plus(1), sum(plus.stats.cache_hits.values()))
"""


def test_compiled_code_follows_what_it_imports(checkout: Path) -> None:
    assert run(checkout, CALL) == "2 0"
    assert run(checkout, CALL) == "2 1", "from the cache"
    # Of the same size: numba alone would look at the size and the time of the caller's file.
    (checkout / "testbed" / "three.py").write_text("STEP = 5\n")
    assert run(checkout, CALL) == "6 0"
    (checkout / "testbed" / "three.py").write_text("STEP = 1\n")
    assert run(checkout, CALL) == "2 1", "the way back is cached"


@pytest.mark.parametrize("module", ["one", "two", "three", "compiled", "__init__"])
def test_the_digest_is_of_all_that_is_imported(checkout: Path, module: str) -> None:
    before = run(checkout, DIGEST)
    with (checkout / "testbed" / f"{module}.py").open("a") as file:
        file.write("# more\n")
    assert run(checkout, DIGEST) != before


def test_the_digest_is_of_nothing_else(checkout: Path) -> None:
    before = run(checkout, DIGEST)
    (checkout / "testbed" / "other.py").write_text("STEP = 2\n")
    (checkout / "testbed" / "two.py").touch()
    assert run(checkout, DIGEST) == before
    assert run(checkout, DIGEST, NUMBA_BOUNDSCHECK="1") != before


def test_imports_within_functions_and_circles_are_followed(checkout: Path) -> None:
    package = checkout / "testbed"
    (package / "three.py").write_text("def f():\n    import testbed.other\nimport testbed.one\n")
    before = run(checkout, DIGEST)
    (package / "other.py").write_text("STEP = 2\n")
    assert run(checkout, DIGEST) != before


def test_old_caches_are_forgotten_and_the_present_one_is_not(checkout: Path) -> None:
    cache = checkout / "cache"
    cache.mkdir()
    stale = [cache / f"testbed.one-{number:016x}" for number in range(KEPT_FOLDERS + 5)]
    other = cache / "testbed.one_more-00"
    for age, folder in enumerate((*stale, other)):
        folder.mkdir()
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    assert run(checkout, CALL) == "2 0"
    left = set(cache.glob("testbed.one-*"))
    assert len(left) == KEPT_FOLDERS and left > set(stale[: KEPT_FOLDERS - 1])
    assert other.is_dir()
    assert run(checkout, CALL) == "2 1"


WHERE = """
    import numba, {order}
    from testbed.one import plus
    from testbed.compiled import compiled
    given = numba.config.CACHE_DIR
    try:
        compiled("no signature")(len)
    except Exception:
        pass
    assert numba.config.CACHE_DIR == given
    print(plus.stats.cache_path, given)
"""


def test_which_folder_is_used_does_not_depend_on_the_order_of_imports(checkout: Path) -> None:
    orders = ("testbed.one, testbed.two", "testbed.two, testbed.one")
    found = {run(checkout, WHERE.format(order=order)) for order in orders}
    assert len(found) == 1
    folder, given = found.pop().split()
    assert Path(folder).is_relative_to(checkout / "cache") and "testbed.one-" in folder
    assert Path(given) == checkout / "cache", "no module's, for whatever else numba compiles"


def test_a_cache_that_cannot_be_written_does_not_matter(checkout: Path) -> None:
    (checkout / "cache").write_text("a file")
    assert run(checkout, CALL, HOME=str(checkout)).startswith("2 ")


@compiled
def _quotient(number: int, divisor: int) -> int:
    return number // divisor


@compiled("int64(int64)")
def _twice(number: int) -> int:
    return 2 * number


@compiled
def _product(number: int) -> int:
    return number * 0x2545F4914F6CDD1D


@compiled
def _product_of_a_constant() -> int:
    return _product(4 << 56 | 12345)


@compiled
def _sign_of_a_product(number: int) -> int:
    return 1 if (number & 0xFFFFFFFF) * 0x2545F4914F6CDD1D < 0 else 0


def test_signed_arithmetic_wraps_whatever_the_compiler_knows() -> None:
    number = 4 << 56 | 12345
    wrapped = (number * 0x2545F4914F6CDD1D + 2**63) % 2**64 - 2**63
    assert _product(number) == _product_of_a_constant() == wrapped
    signs = {_sign_of_a_product(number) for number in range(100)}
    assert signs == {0, 1}, "of positive numbers too"


def test_nothing_compiled_raises_for_its_data() -> None:
    assert isinstance(_quotient(1, 0), int)
    assert _quotient(7, 2) == 3 and _twice(21) == 42
    assert _twice.nopython_signatures, "a signature compiles at once"


def test_real_modules_are_known_with_all_that_they_reach() -> None:
    reached = testbed.compiled._reached("testbed.vnf.functions.firewall")
    assert {
        "testbed.vnf.functions.firewall",
        "testbed.vnf.functions.packet",
        "testbed.vnf.functions.checksums",
        "testbed.vnf.state.records",
        "testbed.compiled",
    } <= reached
    assert not any(name.startswith("numba") for name in reached)
    digests = {sources_digest(name) for name in reached}
    assert len(digests) > len(reached) / 2


FULL = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    from testbed.one import plus
    print(plus(1), plus(1.5))
"""


def test_a_cache_that_cannot_be_written_is_gone_on_without_and_it_is_said_once(
    checkout: Path,
) -> None:
    """As on a disk that is full: here no file may have more than a hundred bytes."""
    done = run_all(checkout, FULL, PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout.strip() == "2 2.5"
    (said,) = done.stderr.splitlines()
    assert said.startswith("deftbed: compiled code is not kept in ") and "File too large" in said
    assert run(checkout, CALL) == "2 0", "nothing that is torn is read"


def test_a_cache_folder_that_cannot_be_made_is_gone_on_without(checkout: Path) -> None:
    (checkout / "cache").write_text("a file in its place")
    done = run_all(checkout, CALL, PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout.strip() == "2 0"
    (said,) = done.stderr.splitlines()
    assert said.startswith("deftbed: compiled code is not kept in ")
    # Numba's own place beside the source knows nothing of what is called.
    assert not [*checkout.rglob("*.nbi"), *checkout.rglob("*.nbc")]
