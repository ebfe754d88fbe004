"""Sentences of prepare and the report on events of one time."""

from helpers.small_corpora import made_of

from minirec.corpus.split import same_time_facts, same_time_sentences

SIZES = {"train": 100, "valid": 10, "test": 10}


def corpus(setting, *, train=0, test=0, left_out=0):
    shared = {"train": train, "valid": 0, "test": test}
    return {
        "samples": SIZES,
        "same_time": {"setting": setting, "shared": shared, "left_out": left_out},
    }


def test_the_share_and_the_task_are_said():
    said = same_time_sentences(corpus("exclude", train=53, test=4, left_out=1234))
    assert said.startswith("53% of the train and 40% of the test samples share their time")
    assert "next visit" in said and "1,234 events" in said
    said = same_time_sentences(corpus("keep", train=53, test=4))
    assert "53% of the train" in said and "rest of a basket" in said


def test_distinct_times_make_one_task():
    for setting in ("exclude", "keep"):
        assert same_time_sentences(corpus(setting)).startswith(
            "No sample shares its time with another"
        )


def test_visits_that_are_no_targets_are_said_too():
    """All users have a basket first and single events later, so no sample shares its time."""
    users = range(40)
    rows = [
        (f"u{u:02d}", item, 5, time)
        for u in users
        for item, time in zip("abcde", (1, 1, 1, 100 + u, 200 + u), strict=True)
    ]
    made = made_of(rows)
    facts = same_time_facts("exclude", made.facts.shared, made.plan.left_out)
    said = same_time_sentences({"samples": made.facts.sizes, "same_time": facts})
    assert said.startswith("0% of the train") and "80 events with too few earlier ones" in said
