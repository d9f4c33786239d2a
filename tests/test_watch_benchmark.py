"""The benchmark of the whole way runs on a clip, and says what it measured."""
import numpy as np

from benchmarks.watch import main
from util.outputs.pictures import VideoWriter


def test_the_table_has_its_rows(tmp_path, capsys):
    rng = np.random.default_rng(1)
    with VideoWriter(tmp_path / "clip.mp4", 25, (64, 48)) as writer:
        for _ in range(8):
            writer.write(rng.integers(0, 256, (48, 64, 3), np.uint8))
    main([str(tmp_path / "clip.mp4"), "--runs", "1", "--serve"])
    said = capsys.readouterr().out
    assert said.startswith("clip.mp4: 8 frames, vgg_clips.xnor") and "MOG2 alone" in said and said.count("ms per frame: decode") == 2
    assert "watch --serve, nobody looks" in said and "watch --serve, one looks" in said
    assert float(said.split("first frame done ")[1].split()[0]) > 0
