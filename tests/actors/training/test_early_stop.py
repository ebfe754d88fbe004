"""When training stops early."""

from actors.training.validation import best_step, exhausted


def test_training_stops_after_validations_without_improvement():
    log = [{"step": i, "valid_ndcg@10": x} for i, x in enumerate([0.1, 0.3, 0.3, 0.2])]
    log.insert(1, {"step": 9})  # a step without validation
    assert best_step(log) == 1
    assert exhausted(log, 2)
    assert not exhausted(log, 3)
    assert not exhausted(log, None)
    assert best_step([{"step": 0}]) is None
    assert not exhausted([], 1)
