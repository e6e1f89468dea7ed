from itertools import islice
from pathlib import Path

from birefnet.batch.plan import Job, plan
from birefnet.batch.watch import watch
from birefnet.errors import InputError


def test_photos_are_given_once_when_they_have_stopped_changing(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    looks = 0

    def find() -> list[Job]:
        """Change the folder before some of the looks."""
        nonlocal looks
        looks += 1
        if looks == 2:
            (folder / "a.png").write_bytes(b"1")
        if looks == 3:  # still being copied
            (folder / "a.png").write_bytes(b"12")
        if looks == 5:
            (folder / "b.png").write_bytes(b"1")
            (folder / "c.png").write_bytes(b"1")
        if looks == 6:
            (folder / "c.png").unlink()
        if looks == 9:  # taken again
            (folder / "a.png").write_bytes(b"123")
        try:
            return plan([folder], None, kind="mask")
        except InputError:
            return []

    given = [[job.source.name for job in jobs] for jobs in islice(watch(find, seconds=0), 3)]
    assert given == [["a.png"], ["b.png"], ["a.png"]]
    assert looks == 10
