"""Commands that are printed can be copied into a shell, whatever the names of folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import recipe

from stillhouse import StillhouseError, export, train
from stillhouse.students.saved_run import open_run


def test_a_folder_that_is_missing_is_made_by_what_is_printed(tmp_path: Path) -> None:
    train(recipe(run__epochs=1), out=tmp_path / "a run; echo")
    with pytest.raises(StillhouseError) as caught:
        export(tmp_path / "a run; echo", tmp_path / "out put; echo" / "s.onnx", trust=True)
    assert str(caught.value).endswith(f"(mkdir -p '{tmp_path / 'out put; echo'}')")
    for file in (tmp_path / "a run; echo" / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(StillhouseError) as caught:
        open_run(tmp_path / "a run; echo")
    assert f"--out '{tmp_path / 'a run; echo'}' --resume" in str(caught.value)
