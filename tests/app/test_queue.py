"""Messages leave after the commit, or not at all."""

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import Engine

from app.db import session_scope
from app.queue import READ_FILE, RUN_JOB, CeleryQueue, FakeQueue, enqueue, redis_url, send_hint


def test_a_message_leaves_after_the_commit(engine: Engine, queue: FakeQueue) -> None:
    with session_scope(engine) as session:
        enqueue(session, queue, RUN_JOB, "ftjob-1")
        assert queue.sent == []
    assert queue.sent == [(RUN_JOB, "ftjob-1")]


def test_no_message_leaves_after_a_rollback(engine: Engine, queue: FakeQueue) -> None:
    def fail() -> None:
        with session_scope(engine) as session:
            enqueue(session, queue, RUN_JOB, "ftjob-1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert queue.sent == []


def test_a_dead_broker_does_not_fail_the_transaction(engine: Engine) -> None:
    with session_scope(engine) as session:
        enqueue(session, FakeQueue(broken=True), RUN_JOB, "ftjob-1")


class TestCeleryQueue:
    def test_messages_go_to_the_queue_of_their_task(self, valkey: str) -> None:
        queue = CeleryQueue(valkey)
        queue.ping()
        queue.send(RUN_JOB, "ftjob-1")
        queue.send(READ_FILE, "file-1")
        queue.close()
        with Redis.from_url(redis_url(valkey)) as redis:
            messages = {name: redis.lrange(name, 0, -1) for name in ("train", "default")}
            redis.flushall()
        assert [len(found) for found in messages.values()] == [1, 1]
        assert b"temper.run_job" in messages["train"][0]

    def test_a_broker_that_is_away_is_only_a_missed_hint(self, tmp_path: object) -> None:
        queue = CeleryQueue(f"redis+socket://{tmp_path}/absent.sock")
        send_hint(queue, RUN_JOB, "ftjob-1")
        with pytest.raises(RedisConnectionError):
            queue.ping()
        queue.close()
