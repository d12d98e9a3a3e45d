import json

import pytest

from genjax.run.folder import RunFolder
from genjax.run.records import append_line, read_lines, read_records

WHOLE = {"step": 5, "d_loss": 1.5, "seconds": 1.0, "steps_per_second": 2, "images_per_second": 3}
DAMAGED = {
    "flipped bit": json.dumps(WHOLE).encode().replace(b"loss", b"lo\xf3s"),
    "cut": json.dumps(WHOLE).encode()[:-9],
    "no object": b"[5]",
    "no step": json.dumps({"d_loss": 1.0}).encode(),
    "step is a text": json.dumps(WHOLE | {"step": "5"}).encode(),
    "metric is a text": json.dumps(WHOLE | {"d_loss": "\x1b[2J"}).encode(),
    "step is no float": json.dumps(WHOLE | {"step": 10**400}).encode(),
    "metric is infinite": json.dumps(WHOLE | {"d_loss": float("inf")}).encode(),
    "rate is missing": json.dumps({k: v for k, v in WHOLE.items() if k != "seconds"}).encode(),
    "rate is negative": json.dumps(WHOLE | {"steps_per_second": -1}).encode(),
    "deep": b"[" * 10**5,
    "long number": b'{"step": ' + b"1" * 5000 + b"}",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_record_is_left_out_and_the_others_are_read(tmp_path, kind):
    folder = RunFolder(tmp_path)
    lines = [json.dumps(WHOLE).encode(), DAMAGED[kind], json.dumps(WHOLE | {"step": 10}).encode()]
    folder.metrics.write_bytes(b"\n".join(lines) + b"\n")
    assert [record["step"] for record in read_records(folder)] == [5, 10]
    assert read_records(folder, 5) == [WHOLE]


def test_a_line_after_one_that_was_cut_stands_on_its_own(tmp_path):
    folder = RunFolder(tmp_path)
    append_line(folder, folder.evaluations, {"a": 1})
    with folder.evaluations.open("a") as file:
        file.write('{"b": ')
    append_line(folder, folder.evaluations, {"c": 3})
    append_line(folder, folder.evaluations, {"d": 4})
    assert read_lines(folder.evaluations) == [{"a": 1}, {"c": 3}, {"d": 4}]
