"""When training stops early."""

from actors.training.validation import START, best_step, exhausted


def test_training_stops_after_validations_without_improvement():
    log = [{"step": i, "valid_ndcg@10": x} for i, x in enumerate([0.1, 0.3, 0.3, 0.2])]
    log.insert(1, {"step": 9})  # a step without validation
    assert best_step(log) == 1
    assert exhausted(log, 2)
    assert not exhausted(log, 3)
    assert not exhausted(log, None)
    assert best_step([{"step": 0}]) is None
    assert not exhausted([], 1)


def test_the_start_counts_as_the_first_validation():
    log = [{"step": 0, "start_valid_ndcg@10": 0.3}]
    log += [{"step": i, "valid_ndcg@10": x} for i, x in enumerate([0.2, 0.3, 0.1], 1)]
    assert best_step(log) == START == -1  # ties go to the earlier
    assert exhausted(log, 3) and not exhausted(log, 4)
    log[2]["valid_ndcg@10"] = 0.4
    assert best_step(log) == 2
    assert not exhausted(log, 3) and exhausted(log, 1)
    assert best_step(log[:1]) == START


def test_with_weights_of_items_the_value_judges():
    log = [{"step": 0, "start_valid_ndcg@10": 0.9, "start_valid_value@10": 0.2}]
    log += [
        {"step": i, "valid_ndcg@10": ndcg, "valid_value@10": value}
        for i, (ndcg, value) in enumerate([(0.5, 0.1), (0.3, 0.4), (0.4, 0.3)], 1)
    ]
    assert best_step(log) == 2
    assert exhausted(log, 1) and not exhausted(log, 2)
    assert best_step(log[:2]) == START
