"""The causes that are found in reports of Ray 2.60."""

from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from actors.causes import cause

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: EngineActor
\tpid: 32227
\tip: 10.0.0.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit
detail: Worker unexpectedly exits with a connection error code 2. End of file."""
TRAINING = """Training failed due to worker errors:
[Rank 0 Error Snippet]:
  File "reward.py", line 3, in reward
    raise ValueError("the reward is broken")
ValueError: the reward is broken"""
TRAINING_KILLED = f"""Training failed due to worker errors:
[Rank 0 Error Snippet]:
ray.exceptions.ActorDiedError: {KILLED}"""
ENGINE = """[Rank 0 Error Snippet]:
ray.exceptions.ActorDiedError: The actor died.
minirec.errors.EngineError: engine 1 of 2 (vllm) died at a call: its process 7 was killed"""
MEMORY = (
    "Task was killed due to the node running low on memory. Memory used: 22.1GB / 23.0GB (0.96)"
)


def error_with(text):
    error = ActorDiedError()
    error.error_msg = text
    return error


def test_an_exception_is_named_with_its_message():
    assert cause(RuntimeError(TRAINING)) == "ValueError: the reward is broken"
    assert cause(RuntimeError(ENGINE)).startswith("EngineError: engine 1 of 2 (vllm) died")
    task = RayTaskError("score", TRAINING, ValueError("bad sample"))
    assert cause(task) == "ValueError: bad sample"


def test_a_killed_process_is_called_killed():
    assert cause(error_with(KILLED)).startswith("its process 32227 was killed or crashed")
    assert cause(RuntimeError(TRAINING_KILLED)).startswith("its process 32227 was killed")
    # Ray Train reports the death of a worker under its own name.
    line = "WorkerGroupError: The actor is dead because its worker process has died. Worker PID: 77"
    assert cause(RuntimeError(line)).startswith("its process 77 was killed or crashed")


def test_lack_of_memory_is_named():
    assert "ran out of memory (22.1GB of 23.0GB were used)" in cause(OutOfMemoryError(MEMORY))


def test_advice_of_ray_data_is_left_out():
    report = (
        "part-2.parquet: the store refuses it\n"
        "Failed to map batch after 1/1 attempts (total backoff 0.0s).\n"
        "To change retry attempts, configure `DataContext`."
    )
    assert cause(OSError(report)) == "OSError: part-2.parquet: the store refuses it"
