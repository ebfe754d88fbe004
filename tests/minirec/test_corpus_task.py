"""What prepare and the report say of events of one time."""

from minirec.corpus.task import sentences

SIZES = {"train": 100, "valid": 10, "test": 10}


def corpus(setting, *, train=0, test=0, left_out=0):
    shared = {"train": train, "valid": 0, "test": test}
    return {
        "samples": SIZES,
        "same_time": {"setting": setting, "shared": shared, "left_out": left_out},
    }


def test_the_share_and_the_task_are_said():
    said = sentences(corpus("exclude", train=53, test=4, left_out=1234))
    assert said.startswith("53% of the train and 40% of the test samples share their time")
    assert "next visit" in said and "1,234 events" in said
    said = sentences(corpus("keep", train=53, test=4))
    assert "53% of the train" in said and "rest of a basket" in said


def test_distinct_times_make_one_task():
    for setting in ("exclude", "keep"):
        assert sentences(corpus(setting)) == "No user has two events at one time."
