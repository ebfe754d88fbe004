import pytest

from actors.training import lr_factor


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate_rises_then_follows_its_schedule(schedule, factors):
    found = [lr_factor(step, steps=6, warmup=2, schedule=schedule) for step in range(6)]
    assert found == pytest.approx(factors)


def test_learning_rate_with_fewer_steps_than_warm_up():
    found = [lr_factor(step, steps=2, warmup=3, schedule="linear") for step in range(2)]
    assert found == pytest.approx([0.25, 0.5])
