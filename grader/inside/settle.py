"""Keeps a task's final state from being overwritten by the RETRY of an attempt before it.

Celery publishes a retry first and stores the state RETRY afterwards. Where the retry waits for
next to nothing (a wait drawn as 0, or hastened by pace.py), another process may have finished it by
then, and the late RETRY replaces its result: the caller waits for ever. That is Celery's race, not
the submission's, so the state is stored only where no final one stands, in one transaction.
"""

from typing import Any


def keep_final_states() -> None:
    """Have the Redis result backend store RETRY only while the task is not finished."""
    from celery import states
    from celery.backends.redis import RedisBackend
    from redis.exceptions import WatchError

    store = RedisBackend._set_with_state

    def careful(self: Any, key: Any, value: Any, state: str) -> Any:
        if state != states.RETRY:
            return store(self, key, value, state)
        with self.client.pipeline() as transaction:
            transaction.watch(key)
            current = transaction.get(key)
            if current and self.decode(current).get("status") in states.READY_STATES:
                return None
            transaction.multi()
            transaction.set(key, value, ex=self.expires or None)
            transaction.publish(key, value)
            try:
                return transaction.execute()
            except WatchError:  # the next attempt has stored its own state meanwhile
                return None

    RedisBackend._set_with_state = careful
